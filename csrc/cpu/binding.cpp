#include "common/binding.h"

#include "binding.h"

#include <sys/mman.h>

#include "kernels/dispatch.h"

namespace gradmix::cpu {

void check_cpu(const Tensor& t, const char* op, const char* name) {
  level();  // a wrong GRADMIX_EXT_SIMD is told here: the kernels may run in threads, whose errors lose their text
  check(t.is_cpu(), op, ": ", name, " must be on the CPU");
}

namespace {

template <class T>
constexpr ScalarType column_type = ScalarType::Long;
template <>
constexpr ScalarType column_type<uint8_t> = ScalarType::Bool;
template <>
constexpr ScalarType column_type<double> = ScalarType::Double;

template <class T>
constexpr const char* column_type_name = "int64";
template <>
constexpr const char* column_type_name<uint8_t> = "bool";
template <>
constexpr const char* column_type_name<double> = "float64";

}  // namespace

template <class T>
Column<T>::Column(const Tensor& t, int64_t expected, const char* op, const char* name) : held_(t) {
  check_cpu(t, op, name);
  check_dim(t, 1, op, name);
  check(t.scalar_type() == column_type<T>, op, ": ", name, " must be ", column_type_name<T>);
  const int64_t count = t.size(0), stride = t.stride(0);
  check(count == expected, op, ": ", name, " must have ", expected, " elements, got ", count);
  const T* p = static_cast<const T*>(t.const_data_ptr());
  if (stride == 1 || count <= 1) {
    data_ = p;
    return;
  }
  copy_.resize(count);
  for (int64_t i = 0; i < count; ++i) copy_[i] = p[i * stride];
  data_ = copy_.data();
}

template class Column<int64_t>;
template class Column<uint8_t>;
template class Column<double>;

PerSample::PerSample(const Tensor& t, int64_t samples, DType dtype, const char* op, const char* name) : wide_(is_wide(dtype)) {
  check_cpu(t, op, name);
  const DType from = data_type(t, op, name);
  const int64_t count = t.numel();
  check(t.dim() <= 1 && (count == 1 || count == samples), op, ": ", name, " must be a scalar or have ",
        samples, " elements, got ", count);
  stride_ = count == 1 ? 0 : 1;
  // Half precision goes through a conversion of PyTorch's: that is rare and small.
  held_ = from == DType::f16 || from == DType::bf16 ? to_dtype(t, ScalarType::Float) : t;
  const int64_t step = held_->dim() == 1 ? held_->stride(0) : 0;
  const void* p = held_->const_data_ptr();
  const bool from_doubles = from == DType::f64;
  if (from_doubles == wide_ && (count <= 1 || step == 1)) {
    data_ = p;
    return;
  }
  const auto convert = [&](auto& values, const auto* source) {
    values.resize(count);
    for (int64_t i = 0; i < count; ++i) values[i] = source[i * step];
    data_ = values.data();
  };
  const auto fill = [&](auto& values) {
    from_doubles ? convert(values, static_cast<const double*>(p)) : convert(values, static_cast<const float*>(p));
  };
  wide_ ? fill(doubles_) : fill(floats_);
}

ClassMask::ClassMask(const std::optional<Tensor>& mask, int64_t classes, const char* op)
    : given(mask.has_value()), allowed(classes) {
  if (!given) return;
  flags = Column<uint8_t>(*mask, classes, op, "class_mask");
  position.assign(classes, -1);
  for (int64_t c = 0; c < classes; ++c)
    if (flags[c] != 0) {
      position[c] = static_cast<int64_t>(columns.size());
      columns.push_back(c);
    }
  allowed = static_cast<int64_t>(columns.size());
}

void check_labels(const Column<int64_t>& label, int64_t samples, int64_t bound, const ClassMask& mask, const char* op,
                  const char* name) {
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t y = label[i];
    check(y >= 0 && y < bound, op, ": ", name, "[", i, "] = ", y, " is out of range for ", bound, " classes");
    check(!mask.given || mask.flags[y] != 0, op, ": ", name, "[", i, "] = ", y, " is not a class of class_mask");
  }
}

Tensor empty_strided(Shape sizes, Shape strides, ScalarType dtype) {
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype) {
  const Shape shape(sizes.begin(), sizes.size());
  const std::vector<int64_t> strides = contiguous_strides(shape);
  return empty_strided(shape, Shape(strides.data(), strides.size()), dtype);
}

Tensor zeros(std::initializer_list<int64_t> sizes, ScalarType dtype) {
  Tensor t = empty(sizes, dtype);
  return torch::stable::zero_(t);
}

void advise_huge_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t{1} << 21;
  if (bytes < int64_t{8} << 20) return;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  // A wish: where the kernel does not grant it, nothing changes.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace gradmix::cpu
