// class_gradients on CUDA tensors: one product of residuals and features per group, never [N, C, d].
#include "common/binding.h"

#include <tuple>

#include "cuda/cuda_last_layer.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "class_gradients";

std::tuple<Tensor, Tensor, Tensor> class_gradients(const Tensor& features, const Tensor& logits, const Tensor& target,
                                                   const std::optional<Tensor>& partner_target,
                                                   const std::optional<Tensor>& lam, const std::optional<Tensor>& groups,
                                                   std::optional<int64_t> num_groups,
                                                   const std::optional<Tensor>& class_mask, std::string reduction) {
  check_device(logits, op, "logits");
  const DeviceScope scope(logits);
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask);
  const GroupedSamples grouped(op, in, groups, num_groups, reduction, scope);
  const auto [weight, bias] = group_gradients(op, in, grouped, scope);
  return {weight, bias, grouped.count};
}

}  // namespace

std::tuple<Tensor, Tensor> group_gradients(const char* op, const LastLayer& in, const GroupedSamples& grouped,
                                           const DeviceScope& scope) {
  const int64_t total = grouped.params.groups;
  const ScalarType acc = acc_scalar_type(in.dtype);
  Tensor weight = empty(in.logits, {total, in.classes, in.depth}, acc), bias = empty(in.logits, {total, in.classes}, acc);
  check_launch(launch_class_gradients({grouped.params, 0, in.classes, weight.mutable_data_ptr(), in.depth,
                                       bias.mutable_data_ptr(), 1, 0},
                                      scope.stream()),
               op);
  return {weight, bias};
}
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("class_gradients", TORCH_BOX(&gradmix::cuda::class_gradients)); }
