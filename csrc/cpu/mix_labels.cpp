// mix_labels: what a mixed batch needs besides its inputs, in one call: the labels of the partners, λ as it is used, weights against the
// imbalance of the classes.
#include "common/binding.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "mixing.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "mix_labels";

// Where a sample is mixed, λ at this strength; elsewhere 1.
template <class A>
void use_lam(const PerSample& lam, const uint8_t* mask, int64_t samples, double strength, A* used) {
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
  std::vector<int64_t> order(samples);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::sort(order.begin(), order.end(), [label](int64_t i, int64_t j) { return label[i] < label[j]; });
  double sum = 0;
  for (int64_t first = 0, last; first < samples; first = last) {
    for (last = first + 1; last < samples && label[order[last]] == label[order[first]];) ++last;
    const float each = static_cast<float>(std::pow(static_cast<double>(last - first), -balance));
    for (int64_t s = first; s < last; ++s) weight[order[s]] = each;
    sum += static_cast<double>(last - first) * static_cast<double>(each);
  }
  const float scale = static_cast<float>(static_cast<double>(samples) / sum);
  for (int64_t i = 0; i < samples; ++i) weight[i] *= scale;
}

}  // namespace

DType lam_type(const Tensor& lam_x, const Tensor& lam_y, const char* op) {
  return is_wide(data_type(lam_x, op, "lam_x")) || is_wide(data_type(lam_y, op, "lam_y")) ? DType::f64 : DType::f32;
}

LabelTerms label_terms(const char* op, int64_t samples, DType used, const PerSample& lam_x, const PerSample& lam_y, double strength, double balance,
                       const int64_t* target, const int64_t* partner, const uint8_t* mask) {
  check(strength >= 0 && strength <= 1, op, ": strength must be in [0, 1], got ", strength);
  check(balance >= 0 && balance <= 1, op, ": balance must be in [0, 1], got ", balance);
  LabelTerms terms{empty({samples}, ScalarType::Long), empty({samples}, scalar_type(used)), empty({samples}, scalar_type(used)),
                   empty({samples}, ScalarType::Float)};
  int64_t* labels = static_cast<int64_t*>(terms.partner_target.mutable_data_ptr());
  for (int64_t i = 0; i < samples; ++i) labels[i] = target[partner[i]];
  with_acc(used, [&](auto zero) {
    using A = decltype(zero);
    use_lam(lam_x, mask, samples, strength, static_cast<A*>(terms.used_x.mutable_data_ptr()));
    use_lam(lam_y, mask, samples, strength, static_cast<A*>(terms.used_y.mutable_data_ptr()));
  });
  weigh(target, samples, balance, static_cast<float*>(terms.weight.mutable_data_ptr()));
  return terms;
}

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> mix_labels(const Tensor& target, const Tensor& partner, const Tensor& mask, const Tensor& lam_x,
                                                      const Tensor& lam_y, double strength, double balance) {
  check_cpu(target, op, "target");
  check_dim(target, 1, op, "target");
  const int64_t samples = target.size(0);
  const Column<int64_t> label(target, samples, op, "target"), other(partner, samples, op, "partner");
  const Column<uint8_t> mixed(mask, samples, op, "mask");
  for (int64_t i = 0; i < samples; ++i)
    check(other[i] >= 0 && other[i] < samples, op, ": partner[", i, "] = ", other[i], " is out of range for a batch of ", samples,
          " samples");
  const DType used = lam_type(lam_x, lam_y, op);
  const PerSample own_x(lam_x, samples, used, op, "lam_x"), own_y(lam_y, samples, used, op, "lam_y");
  const auto [partner_target, used_x, used_y, weight] =
      label_terms(op, samples, used, own_x, own_y, strength, balance, label.data(), other.data(), mixed.data());
  return {partner_target, used_x, used_y, weight};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("mix_labels", TORCH_BOX(&gradmix::cpu::mix_labels)); }
