// mix_labels: what a mixed batch needs besides its inputs, in one call: the labels of the partners, λ as it is used, weights against the
// imbalance of the classes.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "binding.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "mix_labels";

// Where a sample is mixed, λ at this strength; elsewhere 1.
template <class A>
void use_lam(const Lam& lam, const uint8_t* mask, int64_t samples, double strength, A* used) {
  for (int64_t i = 0; i < samples; ++i) {
    const A given = lam.at<A>(i);
    used[i] = mask[i] == 0 ? A(1) : strength < 1 ? 1 - static_cast<A>(strength) * (1 - given) : given;
  }
}

// (samples of y_i)^-balance, divided by its mean over the samples. Labels can be any integers, so that no table of classes has to be as
// long as the largest.
void weigh(const int64_t* label, int64_t samples, double balance, float* weight) {
  if (balance == 0) {
    std::fill_n(weight, samples, 1.0f);
    return;
  }
  std::vector<int64_t> sorted(label, label + samples);
  std::sort(sorted.begin(), sorted.end());
  double sum = 0;
  for (int64_t i = 0; i < samples; ++i) {
    const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), label[i]);
    weight[i] = static_cast<float>(std::pow(static_cast<double>(last - first), -balance));
    sum += static_cast<double>(weight[i]);
  }
  const float scale = static_cast<float>(static_cast<double>(samples) / sum);
  for (int64_t i = 0; i < samples; ++i) weight[i] *= scale;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> mix_labels(const Tensor& target, const Tensor& partner, const Tensor& mask, const Tensor& lam_x,
                                                      const Tensor& lam_y, double strength, double balance) {
  check_cpu(target, op, "target");
  check_dim(target, 1, op, "target");
  check(strength >= 0 && strength <= 1, op, ": strength must be in [0, 1], got ", strength);
  check(balance >= 0 && balance <= 1, op, ": balance must be in [0, 1], got ", balance);
  const int64_t samples = target.size(0);
  const Column<int64_t> label(target, samples, op, "target"), other(partner, samples, op, "partner");
  const Column<uint8_t> mixed(mask, samples, op, "mask");
  const DType dtype = is_wide(data_type(lam_x, op, "lam_x")) || is_wide(data_type(lam_y, op, "lam_y")) ? DType::f64 : DType::f32;
  const Lam own_x(lam_x, samples, dtype, op, "lam_x"), own_y(lam_y, samples, dtype, op, "lam_y");

  const Tensor partner_target = empty({samples}, ScalarType::Long), weight = empty({samples}, ScalarType::Float);
  const Tensor used_x = empty({samples}, scalar_type(dtype)), used_y = empty({samples}, scalar_type(dtype));
  int64_t* labels = static_cast<int64_t*>(partner_target.mutable_data_ptr());
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t j = other[i];
    check(j >= 0 && j < samples, op, ": partner[", i, "] = ", j, " is out of range for a batch of ", samples, " samples");
    labels[i] = label[j];
  }
  with_acc(dtype, [&](auto zero) {
    using A = decltype(zero);
    use_lam(own_x, mixed.data(), samples, strength, static_cast<A*>(used_x.mutable_data_ptr()));
    use_lam(own_y, mixed.data(), samples, strength, static_cast<A*>(used_y.mutable_data_ptr()));
  });
  weigh(label.data(), samples, balance, static_cast<float*>(weight.mutable_data_ptr()));
  return {partner_target, used_x, used_y, weight};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("mix_labels", TORCH_BOX(&gradmix::cpu::mix_labels)); }
