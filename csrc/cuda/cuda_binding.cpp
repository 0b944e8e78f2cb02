#include "common/binding.h"

#include "cuda/binding.h"

#include <array>

#include "cuda/limits.h"

namespace gradmix::cuda {

void check_device(const Tensor& t, const char* op, const char* name) {
  check(on_device(t), op, ": ", name, " must be on a CUDA device");
}
void check_device(const Tensor& t, const Tensor& like, const char* op, const char* name) {
  check_device(t, op, name);
  check(t.get_device_index() == like.get_device_index(), op, ": ", name, " must be on device ", like.get_device_index(),
        " as the data, got ", t.get_device_index());
}
Column::Column(const Tensor& t, const Tensor& like, int64_t expected, ScalarType type, const char* op, const char* name) {
  check_device(t, like, op, name);
  check_dim(t, 1, op, name);
  check(t.scalar_type() == type, op, ": ", name, " must be ",
        type == ScalarType::Long ? "int64" : type == ScalarType::Bool ? "bool" : "float64");
  check(t.size(0) == expected, op, ": ", name, " must have ", expected, " elements, got ", t.size(0));
  held_ = make_contiguous(t);
  data_ = held_->const_data_ptr();
}

PerSample per_sample(const Tensor& t, const Tensor& like, int64_t samples, const char* op, const char* name) {
  check_device(t, like, op, name);
  const DType dtype = data_type(t, op, name);
  const int64_t count = t.numel();
  check(t.dim() <= 1 && (count == 1 || count == samples), op, ": ", name, " must be a scalar or have ", samples,
        " elements, got ", count);
  return {t.const_data_ptr(), count == 1 ? 0 : t.stride(0), dtype};
}

Tensor empty_strided(const Tensor& like, Shape sizes, Shape strides, ScalarType dtype) {
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type(), like.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  const Shape shape(sizes.begin(), sizes.size());
  const std::vector<int64_t> strides = contiguous_strides(shape);
  return empty_strided(like, shape, Shape(strides.data(), strides.size()), dtype);
}

Tensor zeros(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  Tensor t = empty(like, sizes, dtype);
  return torch::stable::zero_(t);
}

Tensor readable_rows(const Tensor& t) {
  return t.numel() > 0 && t.size(1) > 1 && t.stride(1) != 1 ? make_contiguous(t) : t;
}

namespace {

std::pair<Tensor, Tensor> stable_sort(const Tensor& key) {
  // aten::sort.stable(self, *, stable, dim, descending)
  std::array<StableIValue, 4> stack{torch::stable::detail::from(key), torch::stable::detail::from(std::optional<bool>(true)),
                                    torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

Order sorted(const Tensor& like, OrderParams params, const char* op, cudaStream_t stream) {
  Order result{empty(like, {params.samples}, ScalarType::Long), empty(like, {params.samples}, ScalarType::Long), std::nullopt};
  params.key = static_cast<int64_t*>(result.key.mutable_data_ptr());
  params.order = static_cast<int64_t*>(result.order.mutable_data_ptr());
  if (params.samples <= most_ranked) {
    check_launch(launch_rank_order(params, stream), op);
  } else {
    check_launch(launch_order_keys(params, stream), op);
    std::tie(result.key, result.order) = stable_sort(result.key);
  }
  return result;
}

}  // namespace

Order order_by_index(const Tensor& like, const int64_t* index, const uint8_t* mask, int64_t samples, int64_t bound,
                     int64_t* count, const char* op, cudaStream_t stream) {
  Order result = sorted(like, {index, nullptr, mask, samples, bound, nullptr, nullptr}, op, stream);
  result.offsets = empty(like, {bound + 1}, ScalarType::Long);
  check_launch(launch_offsets({result.keys(), samples, bound, static_cast<int64_t*>(result.offsets->mutable_data_ptr()), count},
                              stream),
               op);
  return result;
}

Order order_by_cell(const Tensor& like, const int64_t* cell, int64_t samples, int64_t bound, const char* op,
                    cudaStream_t stream) {
  return sorted(like, {cell, nullptr, nullptr, samples, bound, nullptr, nullptr}, op, stream);
}

Order order_by_noise(const Tensor& like, const double* noise, int64_t samples, const char* op, cudaStream_t stream) {
  return sorted(like, {nullptr, noise, nullptr, samples, 0, nullptr, nullptr}, op, stream);
}

}  // namespace gradmix::cuda
