// draw_partners on CUDA tensors.
#include "common/binding.h"

#include <tuple>

#include "cuda/mixing.h"

namespace gradmix::cuda {
namespace {
constexpr const char* op = "draw_partners";
}  // namespace

std::tuple<Tensor, Tensor> draw_partners(const Tensor& target, const Tensor& allowed, std::string policy,
                                         const std::optional<Tensor>& noise_given, double exploration) {
  check_device(target, op, "target");
  const DeviceScope scope(target);
  check_dim(target, 1, op, "target");
  const int64_t samples = target.size(0);
  const Column label = indices(target, target, samples, op, "target");
  check_device(allowed, target, op, "allowed");
  check_dim(allowed, 2, op, "allowed");
  const int64_t classes = allowed.size(0);
  check(allowed.size(1) == classes, op, ": allowed must be square");
  check(allowed.scalar_type() == ScalarType::Bool, op, ": allowed must be bool");
  check(policy == "redraw" || policy == "skip", op, ": policy must be redraw or skip, got ", policy);
  check(exploration >= 0 && exploration < 1, op, ": exploration must be in [0, 1), got ", exploration);
  const Column noise(noise_given ? *noise_given : fill_uniform(empty(target, {samples}, ScalarType::Double)), target, samples, ScalarType::Double, op, "noise");
  const Tensor pairs = make_contiguous(allowed);

  Tensor partner = empty(target, {samples}, ScalarType::Long), mask = empty(target, {samples}, ScalarType::Bool);
  const bool skip = policy == "skip";
  const Order order = skip ? order_by_noise(target, noise.numbers(), samples, op, scope.stream())
                           : order_by_index(target, label.indices(), nullptr, samples, classes, nullptr, op, scope.stream());
  const PartnerParams params{label.indices(), static_cast<const uint8_t*>(pairs.const_data_ptr()), noise.numbers(), exploration,
                             order.samples(), skip ? nullptr : order.starts(), samples, classes,
                             static_cast<int64_t*>(partner.mutable_data_ptr()),
                             static_cast<uint8_t*>(mask.mutable_data_ptr())};
  check_launch(skip ? launch_skip_partners(params, scope.stream()) : launch_redraw_partners(params, scope.stream()), op);
  return {partner, mask};
}

}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("draw_partners", TORCH_BOX(&gradmix::cuda::draw_partners)); }
