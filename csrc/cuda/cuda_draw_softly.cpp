// draw_softly on CUDA tensors.
#include "common/binding.h"

#include <tuple>

#include "cuda/mixing.h"

namespace gradmix::cuda {
namespace {
constexpr const char* op = "draw_softly";
}  // namespace

std::tuple<Tensor, Tensor> draw_softly(const Tensor& target, const Tensor& preference, const std::optional<Tensor>& noise_given) {
  check_device(target, op, "target");
  const DeviceScope scope(target);
  check_dim(target, 1, op, "target");
  const int64_t samples = target.size(0);
  const Column label = indices(target, target, samples, op, "target");
  check_device(preference, target, op, "preference");
  check_dim(preference, 2, op, "preference");
  const int64_t classes = preference.size(0);
  check(preference.size(1) == classes, op, ": preference must be square");
  const DType dtype = data_type(preference, op, "preference");
  const Column noise(noise_given ? *noise_given : fill_uniform(empty(target, {samples}, ScalarType::Double)), target, samples, ScalarType::Double, op, "noise");

  Tensor partner = empty(target, {samples}, ScalarType::Long), mask = empty(target, {samples}, ScalarType::Bool);
  const Order order = order_by_index(target, label.indices(), nullptr, samples, classes, nullptr, op, scope.stream());
  check_launch(launch_soft_partners({label.indices(), preference.const_data_ptr(), preference.stride(0), preference.stride(1), dtype, noise.numbers(), order.samples(), order.starts(),
                                     samples, classes, static_cast<int64_t*>(partner.mutable_data_ptr()),
                                     static_cast<uint8_t*>(mask.mutable_data_ptr())},
                                    scope.stream()),
               op);
  return {partner, mask};
}

}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("draw_softly", TORCH_BOX(&gradmix::cuda::draw_softly)); }
