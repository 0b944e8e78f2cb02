// class_weights on CUDA tensors.
#include "cuda/binding.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "class_weights";

Tensor class_weights(const Tensor& target, double balance) {
  check_device(target, op, "target");
  const DeviceScope scope(target);
  check_dim(target, 1, op, "target");
  check(balance >= 0 && balance <= 1, op, ": balance must be in [0, 1], got ", balance);
  const int64_t samples = target.size(0);
  const Column label = indices(target, target, samples, op, "target");
  Tensor weight = empty(target, {samples}, ScalarType::Float);
  if (samples == 0) return weight;
  const ClassWeightParams params{label.indices(), balance, samples, static_cast<float*>(weight.mutable_data_ptr())};
  check_launch(launch_class_powers(params, scope.stream()), op);
  check_launch(launch_divide_by_mean(params, scope.stream()), op);
  return weight;
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("class_weights", TORCH_BOX(&gradmix::cuda::class_weights)); }
