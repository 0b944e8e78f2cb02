// mix_batch: what a mixer does to a batch of tensors, in one call. The arguments are read once, and nothing that a step has made is
// checked by the next; on a small batch that is most of the time of four calls.
#include "common/binding.h"

#include <tuple>

#include "mixing.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "mix_batch";

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mix_batch(const Tensor& x, const Tensor& target, const Tensor& pairs,
                                                                             std::string policy, const std::optional<Tensor>& index,
                                                                             const std::optional<Tensor>& lam_x,
                                                                             const std::optional<Tensor>& lam_y,
                                                                             const std::optional<Tensor>& noise, double exploration,
                                                                             double strength, double balance) {
  check(exploration >= 0 && exploration < 1, op, ": exploration must be in [0, 1), got ", exploration);
  if (index) check_dim(*index, 1, op, "index");
  check(lam_x.has_value() == lam_y.has_value(), op, ": lam_x and lam_y come together");
  const PartnerDraw d(op, target, pairs, "pairs", noise, lam_x ? 1 : 2);
  check(x.dim() >= 1 && (index ? *index : x).size(0) == d.samples, op, ": target must have one label per sample of the batch");
  const DType used = lam_x ? lam_type(*lam_x, *lam_y, op) : DType::f32;
  const auto read = [&](const std::optional<Tensor>& lam, const char* name) {
    return lam ? PerSample(*lam, d.samples, used, op, name) : PerSample(d.noise + d.samples);
  };
  const PerSample own_x = read(lam_x, "lam_x"), own_y = read(lam_y, "lam_y");
  if (policy == "soft")
    soft_partners(d, pairs);
  else
    hard_partners(d, pairs, policy, exploration);
  const auto [partner_target, used_x, used_y, weight] =
      label_terms(op, d.samples, used, own_x, own_y, strength, balance, d.target, d.partner, d.mask);
  return {mixed_samples(op, x, index, d.partner, used_x, d.mask), d.partners, d.masks, partner_target, used_x, used_y, weight};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("mix_batch", TORCH_BOX(&gradmix::cpu::mix_batch)); }
