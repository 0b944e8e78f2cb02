// class_gradients: one product delta_k^T h_k per group, never [N, C, d].
#include "common/binding.h"

#include <algorithm>
#include <string>
#include <tuple>

#include "binding.h"
#include "grouping.h"
#include "kernels/kernels.h"
#include "last_layer.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "class_gradients";
constexpr int64_t grain_multiply_adds = 1 << 20;

std::tuple<Tensor, Tensor, Tensor> class_gradients(const Tensor& features, const Tensor& logits, const Tensor& target,
                                                   const std::optional<Tensor>& partner_target,
                                                   const std::optional<Tensor>& lam, const std::optional<Tensor>& groups,
                                                   std::optional<int64_t> num_groups,
                                                   const std::optional<Tensor>& class_mask, std::string reduction) {
  const GroupReduction reduce = group_reduction(op, reduction);
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask, logits.dim() == 2 ? logits.size(1) : 0);
  const Groups grouped(op, in, groups, num_groups);
  const auto [weight, bias] = group_gradients(in, grouped, reduce);
  const Tensor count = empty({grouped.total}, ScalarType::Long);
  std::copy(grouped.count.begin(), grouped.count.end(), static_cast<int64_t*>(count.mutable_data_ptr()));
  return {weight, bias, count};
}

// A task is a group, or a share of its features where there are fewer groups than threads. delta and features are laid out for each:
// they stay in the cache, and all samples are never copied.
template <class A>
void write_gradients(const LastLayer& in, const Groups& groups, GroupReduction reduction, A* weight, A* bias) {
  const bool wide = is_wide(in.dtype);
  const int64_t present = groups.present.size(), threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t largest = *std::max_element(groups.count.begin(), groups.count.end());
  const Panels all = feature_panels(largest, in.feature_count, wide);
  const int64_t work = static_cast<int64_t>(groups.order.size()) * in.mask.allowed * in.feature_count;
  const int64_t wanted = std::min((threads + present - 1) / present, work / grain_multiply_adds);
  const int64_t shares = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(all.count, 1)), tasks = present * shares;
  parallel(tasks, std::max<int64_t>(1, grain_multiply_adds / (work / tasks + 1)), [&](int64_t begin, int64_t end) {
    Panels deltas = class_panels(largest, in.mask.allowed, wide), features = all;
    Scratch<A> delta(elements_of(deltas)), feature(elements_of(features)), delta_row(in.mask.allowed);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t g = task / shares, share = task % shares, k = groups.present[g], samples = groups.count[k];
      const int64_t panel = share * all.count / shares, first = panel * all.width, offsets[]{0, samples};
      const int64_t* order = groups.order.data() + groups.offsets[g];
      const A scale = scale_of<A>(reduction, samples);
      deltas.rows = features.rows = samples;
      features.count = (share + 1) * all.count / shares - panel;
      kernels::residual(in.residual_to(delta.data(), deltas, order), 0, samples, delta_row.data());
      kernels::gather_rows(in.features_to(feature.data(), features, order, first), 0, samples);
      const int64_t depth = std::min(features.count * features.width, in.feature_count - first);
      kernels::group_gradients(
          {{delta.data(), deltas, feature.data(), features, offsets, nullptr, &scale, 1, samples, in.mask.allowed, depth, wide},
           in.allowed_columns(),
           weight + k * in.classes * in.feature_count + first,
           in.feature_count,
           share == 0 ? bias + k * in.classes : nullptr});
    }
  });
}

}  // namespace

GroupGradients group_gradients(const LastLayer& in, const Groups& groups, GroupReduction reduction) {
  const ScalarType acc = acc_scalar_type(in.dtype);
  const int64_t present = groups.present.size(), rows = groups.order.size();
  Tensor weight = empty({groups.total, in.classes, in.feature_count}, acc);
  Tensor bias = empty({groups.total, in.classes}, acc);
  const int64_t bytes = weight.numel() * (is_wide(in.dtype) ? 8 : 4);
  advise_huge_pages(weight.mutable_data_ptr(), bytes);
  // Groups without samples and masked classes are zero; the kernel writes everything else.
  if (present < groups.total || in.mask.given) {
    torch::stable::zero_(weight);
    torch::stable::zero_(bias);
  }
  if (rows == 0) return {weight, bias};
  with_acc(in.dtype, [&](auto zero) {
    using A = decltype(zero);
    write_gradients(in, groups, reduction, static_cast<A*>(weight.mutable_data_ptr()), static_cast<A*>(bias.mutable_data_ptr()));
  });
  return {weight, bias};
}

}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("class_gradients", TORCH_BOX(&gradmix::cpu::class_gradients)); }
