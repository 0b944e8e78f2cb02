// What the bindings of every device need: checks with plain messages, element types, strides.
//
// Every binding includes it first. PyTorch's headers are half of what it takes to compile one, so gradmix_ext/loader/compile.py compiles
// this file in advance, and compilers accept that for the first include alone.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dtype.h"

// PyTorch 2.10 has only the check that names the call that failed, without saying why.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace gradmix {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

// The text of STD_TORCH_CHECK starts with a file name and a line; users get the message alone.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(std::move(text).str());
}
template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail(parts...);
}

inline void check_dim(const Tensor& t, int64_t dim, const char* op, const char* name) {
  check(t.dim() == dim, op, ": ", name, " must have ", dim, " dimensions, got ", t.dim());
}

// ---- element types --------------------------------------------------------------------------------------------------

// float32, float64, float16 or bfloat16; any other element type is an error that names the argument.
inline DType data_type(ScalarType type, const char* op, const char* name) {
  switch (type) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    default:
      fail(op, ": ", name, " must be float32, float64, float16 or bfloat16");
  }
}
inline DType data_type(const Tensor& t, const char* op, const char* name) { return data_type(t.scalar_type(), op, name); }

inline ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ScalarType::Float;
    case DType::f64:
      return ScalarType::Double;
    case DType::f16:
      return ScalarType::Half;
    default:
      return ScalarType::BFloat16;
  }
}

inline bool is_wide(DType dtype) { return dtype == DType::f64; }
inline ScalarType acc_scalar_type(DType dtype) { return is_wide(dtype) ? ScalarType::Double : ScalarType::Float; }
inline int64_t element_bytes(DType dtype) { return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2; }

inline Tensor to_dtype(const Tensor& t, ScalarType dtype) {
  return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
}

// ---- strides --------------------------------------------------------------------------------------------------------

inline Tensor make_contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline std::vector<int64_t> contiguous_strides(Shape sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t dense = 1;
  for (size_t k = sizes.size(); k-- > 0;) {
    strides[k] = dense;
    dense *= std::max<int64_t>(sizes[k], 1);
  }
  return strides;
}

// The strides of the result for a batch x: those of x where x has neither gaps nor overlap and its batch dimension is the outermost,
// else contiguous.
inline std::vector<int64_t> batch_strides(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  std::vector<std::pair<int64_t, int64_t>> inner;
  for (size_t k = 1; k < sizes.size(); ++k)
    if (sizes[k] != 1) inner.emplace_back(strides[k], sizes[k]);
  std::sort(inner.begin(), inner.end());
  int64_t expected = 1;
  bool dense = true;
  for (const auto& [stride, size] : inner) {
    dense = dense && stride == expected;
    expected *= size;
  }
  if (dense && strides[0] == expected) return {strides.begin(), strides.end()};
  return contiguous_strides(sizes);
}

inline bool same_layout(const Tensor& t, const std::vector<int64_t>& strides) {
  for (int64_t k = 0; k < t.dim(); ++k)
    if (t.size(k) > 1 && t.stride(k) != strides[k]) return false;
  return true;
}

// Dense memory that is written while `t` is still being read has to be apart from it.
inline void check_apart(const void* written, int64_t bytes, const Tensor& t, const char* op, const char* name) {
  if (bytes == 0 || t.numel() == 0) return;
  int64_t last = 0;
  for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
  const char* out = static_cast<const char*>(written);
  const char* read = static_cast<const char*>(t.const_data_ptr());
  check(read + (last + 1) * static_cast<int64_t>(t.element_size()) <= out || out + bytes <= read, op, ": out must not overlap ", name,
        " in memory");
}

// ---- randomness -----------------------------------------------------------------------------------------------------

// aten::uniform_(self, from, to, *, generator): what torch.rand does, from the default generator of the device.
inline Tensor fill_uniform(const Tensor& t) {
  std::array<StableIValue, 4> stack{torch::stable::detail::from(t), torch::stable::detail::from(0.0),
                                    torch::stable::detail::from(1.0), torch::stable::detail::from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::uniform_", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The position in [0, count) that a number in [0, 1) stands for; numbers outside, NaN too, cannot lead outside.
template <class A>
inline int64_t position_of(A noise, int64_t count) {
  const A at = noise * static_cast<A>(count);
  if (!(at > 0)) return 0;
  return at < static_cast<A>(count) ? static_cast<int64_t>(at) : count - 1;
}

}  // namespace gradmix
