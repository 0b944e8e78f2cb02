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
constexpr int64_t huge_page_bytes = 8 << 20;
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

}  // namespace

GroupGradients group_gradients(const LastLayer& in, const Groups& groups, GroupReduction reduction) {
  const ScalarType acc = acc_scalar_type(in.dtype);
  const int64_t present = groups.present.size(), rows = groups.order.size();
  Tensor weight = empty({groups.total, in.classes, in.feature_count}, acc);
  Tensor bias = empty({groups.total, in.classes}, acc);
  const int64_t bytes = weight.numel() * (is_wide(in.dtype) ? 8 : 4);
  if (bytes >= huge_page_bytes) advise_huge_pages(weight.mutable_data_ptr(), bytes);
  // Groups without samples and masked classes are zero; the kernel writes everything else.
  if (present < groups.total || in.mask.given) {
    torch::stable::zero_(weight);
    torch::stable::zero_(bias);
  }
  if (rows == 0) return {weight, bias};
  with_acc(in.dtype, [&](auto zero) {
    const GroupedSamples<decltype(zero)> sorted(in, groups, reduction, SampleLayout::panels, false);
    const GroupGradientParams params{sorted.params(), groups.present.data(), in.allowed_columns(),
                                     in.classes, weight.mutable_data_ptr(), bias.mutable_data_ptr()};
    const int64_t each = rows / present * in.mask.allowed * in.feature_count + 1;
    parallel(present, std::max<int64_t>(1, grain_multiply_adds / each),
             [&](int64_t begin, int64_t end) { kernels::group_gradients(params, begin, end); });
  });
  return {weight, bias};
}

}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("class_gradients", TORCH_BOX(&gradmix::cpu::class_gradients)); }
