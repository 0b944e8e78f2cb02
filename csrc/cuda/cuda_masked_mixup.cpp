// masked_mixup, its out= form and its adjoint on CUDA tensors.
#include "common/binding.h"

#include <algorithm>

#include "cuda/mixing.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "masked_mixup";

// The checked inputs; the parameters point into them.
struct Batch {
  Batch(const Tensor& given, const char* name, const Tensor& partner_given, const Tensor& lam, const std::optional<Tensor>& mask_given)
      : x(given) {
    check_device(given, op, name);
    dtype = data_type(given, op, name);
    check(given.dim() >= 1, op, ": ", name, " must have a batch dimension");
    samples = given.size(0);
    strides = batch_strides(given);
    if (given.numel() > 0 && !same_layout(given, strides)) x = make_contiguous(given);
    partner = indices(partner_given, given, samples, op, "partner");
    mask = flags(mask_given, given, samples, op, "mask");
    params = {x.const_data_ptr(), nullptr, partner.indices(), per_sample(lam, given, samples, op, "lam"), mask.flags(), samples,
              samples > 0 ? x.numel() / samples : 0, dtype, nullptr, samples};
  }
  int64_t bytes() const { return params.samples * params.sample_size * element_bytes(dtype); }
  Tensor result() const {
    return empty_strided(x, x.sizes(), Shape(strides.data(), strides.size()), scalar_type(dtype));
  }

  Tensor x;
  std::vector<int64_t> strides;
  int64_t samples;
  DType dtype;
  Column partner, mask;
  MixupParams params{};
};

void mix(Batch& batch, void* out, const DeviceScope& scope) {
  batch.params.out = out;
  check_launch(launch_masked_mixup(batch.params, scope.stream()), op);
}

Tensor masked_mixup(const Tensor& x, const Tensor& partner, const Tensor& lam, const std::optional<Tensor>& mask) {
  check_device(x, op, "x");
  const DeviceScope scope(x);
  Batch batch(x, "x", partner, lam, mask);
  Tensor out = batch.result();
  mix(batch, out.mutable_data_ptr(), scope);
  return out;
}

}  // namespace

Tensor mixed_samples(const Tensor& x, const std::optional<Tensor>& index, const Tensor& partner, const Tensor& lam, const Tensor& mask) {
  if (!index) return masked_mixup(x, partner, lam, mask);
  check_device(x, op, "x");
  const DeviceScope scope(x);
  check(x.dim() >= 1, op, ": x must have a batch dimension");
  const std::vector<int64_t> strides = batch_strides(x);
  // PyTorch's own gather would stop the device at an index out of range.
  const Tensor data = same_layout(x, strides) ? x : make_contiguous(x);
  const DType dtype = data_type(x, op, "x");
  const int64_t samples = partner.size(0), stored = x.size(0);
  const Column rows = indices(*index, x, samples, op, "index");
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes[0] = samples;
  Tensor out = empty_strided(x, Shape(sizes.data(), sizes.size()), Shape(strides.data(), strides.size()), scalar_type(dtype));
  const Column other = indices(partner, x, samples, op, "partner"), mixed = flags(mask, x, samples, op, "mask");
  const MixupParams params{data.const_data_ptr(), out.mutable_data_ptr(), other.indices(), per_sample(lam, x, samples, op, "lam"), mixed.flags(),
                           samples, samples > 0 ? out.numel() / samples : 0, dtype, rows.indices(), stored};
  check_launch(launch_masked_mixup(params, scope.stream()), op);
  return out;
}

namespace {

void masked_mixup_out(const Tensor& x, const Tensor& partner, const Tensor& lam, const std::optional<Tensor>& mask,
                      Tensor out) {
  check_device(x, op, "x");
  const DeviceScope scope(x);
  Batch batch(x, "x", partner, lam, mask);
  check_device(out, x, op, "out");
  check(out.scalar_type() == scalar_type(batch.dtype), op, ": out must have the dtype of x");
  const auto want = x.sizes(), have = out.sizes();
  check(std::equal(want.begin(), want.end(), have.begin(), have.end()), op, ": out must have the shape of x");
  check(batch.bytes() == 0 || same_layout(out, batch.strides), op, ": out must have the strides of the result");
  void* destination = out.mutable_data_ptr();
  check_apart(destination, batch.bytes(), batch.x, op, "x");
  check_apart(destination, batch.bytes(), partner, op, "partner");
  if (mask) check_apart(destination, batch.bytes(), *mask, op, "mask");
  check_apart(destination, batch.bytes(), lam, op, "lam");
  mix(batch, destination, scope);
}

Tensor masked_mixup_backward(const Tensor& grad, const Tensor& partner, const Tensor& lam,
                             const std::optional<Tensor>& mask) {
  check_device(grad, op, "grad");
  const DeviceScope scope(grad);
  Batch batch(grad, "grad", partner, lam, mask);
  Tensor out = batch.result();
  if (batch.bytes() == 0) return out;
  // The adjoint of a gather is a scatter; sorting the samples by partner turns it into a gather again: no atomics, one order of sums.
  const Order order = order_by_index(grad, batch.params.partner, batch.params.mask, batch.samples, batch.samples, nullptr, op,
                                     scope.stream());
  batch.params.out = out.mutable_data_ptr();
  check_launch(launch_masked_mixup_backward({batch.params, order.samples(), order.starts()}, scope.stream()), op);
  return out;
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) {
  m.impl("masked_mixup", TORCH_BOX(&gradmix::cuda::masked_mixup));
  m.impl("masked_mixup.out", TORCH_BOX(&gradmix::cuda::masked_mixup_out));
  m.impl("masked_mixup_backward", TORCH_BOX(&gradmix::cuda::masked_mixup_backward));
}
