// mix_labels on CUDA tensors.
#include "common/binding.h"

#include <tuple>

#include "cuda/mixing.h"

namespace gradmix::cuda {
namespace {
constexpr const char* op = "mix_labels";
}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> mix_labels(const Tensor& target, const Tensor& partner, const Tensor& mask, const Tensor& lam_x,
                                                      const Tensor& lam_y, double strength, double balance) {
  check_device(target, op, "target");
  const DeviceScope scope(target);
  check_dim(target, 1, op, "target");
  check(strength >= 0 && strength <= 1, op, ": strength must be in [0, 1], got ", strength);
  check(balance >= 0 && balance <= 1, op, ": balance must be in [0, 1], got ", balance);
  const int64_t samples = target.size(0);
  const Column label = indices(target, target, samples, op, "target"), other = indices(partner, target, samples, op, "partner");
  const Column mixed = flags(mask, target, samples, op, "mask");
  const bool wide = is_wide(data_type(lam_x, op, "lam_x")) || is_wide(data_type(lam_y, op, "lam_y"));
  const ScalarType type = wide ? ScalarType::Double : ScalarType::Float;
  Tensor partner_target = empty(target, {samples}, ScalarType::Long), weight = empty(target, {samples}, ScalarType::Float);
  Tensor used_x = empty(target, {samples}, type), used_y = empty(target, {samples}, type);
  const MixLabelsParams params{label.indices(),
                               other.indices(),
                               mixed.flags(),
                               per_sample(lam_x, target, samples, op, "lam_x"),
                               per_sample(lam_y, target, samples, op, "lam_y"),
                               strength,
                               balance,
                               samples,
                               static_cast<int64_t*>(partner_target.mutable_data_ptr()),
                               used_x.mutable_data_ptr(),
                               used_y.mutable_data_ptr(),
                               static_cast<float*>(weight.mutable_data_ptr()),
                               wide};
  check_launch(launch_label_terms(params, scope.stream()), op);
  if (balance > 0) check_launch(launch_divide_by_mean(params, scope.stream()), op);
  return {partner_target, used_x, used_y, weight};
}

}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("mix_labels", TORCH_BOX(&gradmix::cuda::mix_labels)); }
