// linear_scores: the mean gradient of the held samples, the inner products of all with it, and what they mean for pairs of classes.
#include "common/binding.h"

#include <limits>
#include <tuple>
#include <vector>

#include "grouping.h"
#include "scoring.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "linear_scores";

std::tuple<Tensor, Tensor> linear_scores(const Tensor& features, const Tensor& logits, const Tensor& target, int64_t held, bool bias,
                                         const std::optional<Tensor>& class_mask) {
  const LastLayer in(op, features, logits, target, std::nullopt, std::nullopt, class_mask, std::numeric_limits<int64_t>::max());
  check(held >= 0 && held <= in.samples, op, ": held must be in [0, ", in.samples, "], got ", held);
  const int64_t classes = in.classes;
  Tensor scores = empty({classes, classes}, acc_scalar_type(in.dtype)), scored = empty({classes, classes}, ScalarType::Bool);
  with_acc(in.dtype, [&](auto zero) {
    using A = decltype(zero);
    std::vector<A> value(in.samples), sum(classes);
    std::vector<int64_t> count(classes);
    auto [direction_weight, direction_bias] = group_gradients(in, Groups(in, in.samples - held), GroupReduction::mean);
    if (!bias) torch::stable::zero_(direction_bias);
    score_samples(in, direction_weight, direction_bias, value.data());
    for (int64_t i = 0; i < in.samples; ++i) {
      sum[in.target[i]] += value[i];
      ++count[in.target[i]];
    }
    for (int64_t k = 0; k < classes; ++k)
      if (count[k] > 0) sum[k] = A(0.5) * sum[k] / static_cast<A>(count[k]);
    A* score = static_cast<A*>(scores.mutable_data_ptr());
    uint8_t* known = static_cast<uint8_t*>(scored.mutable_data_ptr());
    for (int64_t a = 0; a < classes; ++a)
      for (int64_t b = 0; b < classes; ++b) {
        const bool both = count[a] > 0 && count[b] > 0;
        known[a * classes + b] = both;
        score[a * classes + b] = both ? sum[a] + sum[b] : A(0);
      }
  });
  return {scores, scored};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("linear_scores", TORCH_BOX(&gradmix::cpu::linear_scores)); }
