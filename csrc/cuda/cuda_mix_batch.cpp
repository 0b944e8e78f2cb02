// mix_batch on CUDA tensors: the launches of four ops, with one way through Python and the dispatcher.
#include "common/binding.h"

#include <tuple>

#include "cuda/mixing.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "mix_batch";

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mix_batch(const Tensor& x, const Tensor& target, const Tensor& pairs,
                                                                             std::string policy, const std::optional<Tensor>& index,
                                                                             const std::optional<Tensor>& lam_x,
                                                                             const std::optional<Tensor>& lam_y,
                                                                             const std::optional<Tensor>& noise, double exploration,
                                                                             double strength, double balance) {
  check_device(x, op, "x");
  const DeviceScope scope(x);
  check_device(target, x, op, "target");
  check_dim(target, 1, op, "target");
  check(exploration >= 0 && exploration < 1, op, ": exploration must be in [0, 1), got ", exploration);
  if (index) check_dim(*index, 1, op, "index");
  check(lam_x.has_value() == lam_y.has_value(), op, ": lam_x and lam_y come together");
  const int64_t samples = target.size(0), numbers = (lam_x ? 1 : 2) * samples;
  check(x.dim() >= 1 && (index ? *index : x).size(0) == samples, op, ": target must have one label per sample of the batch");
  Tensor uniform = noise ? *noise : fill_uniform(empty(x, {numbers}, ScalarType::Double));
  check(uniform.dim() == 1 && uniform.size(0) == numbers, op, ": noise must have ", numbers, " elements");
  const Tensor drawn = torch::stable::narrow(uniform, 0, 0, samples);
  const auto read = [&](const std::optional<Tensor>& lam) {
    return lam ? *lam : to_dtype(torch::stable::narrow(uniform, 0, samples, samples), ScalarType::Float);
  };
  const auto [partner, mask] = policy == "soft" ? draw_softly(target, pairs, drawn) : draw_partners(target, pairs, policy, drawn, exploration);
  const Tensor own_x = read(lam_x), own_y = lam_y ? *lam_y : own_x;
  const auto [partner_target, used_x, used_y, weight] = mix_labels(target, partner, mask, own_x, own_y, strength, balance);
  return {mixed_samples(x, index, partner, used_x, mask), partner, mask, partner_target, used_x, used_y, weight};
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("mix_batch", TORCH_BOX(&gradmix::cuda::mix_batch)); }
