// linear_scores on CUDA tensors: the launches of class_gradients and pair_scores, and one that makes pairs of the classes.
#include "common/binding.h"

#include <tuple>

#include "cuda/cuda_last_layer.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "linear_scores";

std::tuple<Tensor, Tensor> linear_scores(const Tensor& features, const Tensor& logits, const Tensor& target, int64_t held, bool bias,
                                         const std::optional<Tensor>& class_mask) {
  check_device(logits, op, "logits");
  const DeviceScope scope(logits);
  const LastLayer in(op, features, logits, target, std::nullopt, std::nullopt, class_mask);
  check(held >= 0 && held <= in.samples, op, ": held must be in [0, ", in.samples, "], got ", held);
  const auto last = [&](Tensor t) { return torch::stable::narrow(t, 0, in.samples - held, held); };
  const LastLayer buffer(op, last(in.features), last(in.logits), last(target), std::nullopt, std::nullopt, class_mask);
  const GroupedSamples one(op, buffer, zeros(logits, {held}, ScalarType::Long), 1, "mean", scope);
  auto [weight, offset] = group_gradients(op, buffer, one, scope);
  if (!bias) torch::stable::zero_(offset);
  const int64_t classes = in.classes;
  const auto [score_sum, count] = pair_sums(op, in, torch::stable::select(weight, 0, 0), torch::stable::select(offset, 0, 0), classes, scope);
  Tensor scores = empty(logits, {classes, classes}, acc_scalar_type(in.dtype)), scored = empty(logits, {classes, classes}, ScalarType::Bool);
  check_launch(launch_linear_pairs({score_sum.const_data_ptr(), static_cast<const int64_t*>(count.const_data_ptr()), classes,
                                    scores.mutable_data_ptr(), static_cast<uint8_t*>(scored.mutable_data_ptr()), is_wide(in.dtype)},
                                   scope.stream()),
               op);
  return {scores, scored};
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("linear_scores", TORCH_BOX(&gradmix::cuda::linear_scores)); }
