// Inner products of samples' gradients with a direction, on arguments that have been read: what several ops begin with.
#pragma once

#include "last_layer.h"

namespace gradmix::cpu {

// Mixed samples and a direction [C, d], [C], checked.
struct Scoring {
  Scoring(const char* op, const Tensor& features, const Tensor& logits, const Tensor& target, const Tensor& partner_target,
          const Tensor& lam, const Tensor& direction_weight, const Tensor& direction_bias, const std::optional<Tensor>& class_mask,
          int64_t label_bound);
  LastLayer in;
  Tensor weight, bias;
};

// <g_i, direction> [N] for every sample, in the accumulation type; the direction is contiguous, of that type or of that of the features.
template <class A>
void score_samples(const LastLayer& in, const Tensor& weight, const Tensor& bias, A* value);

}  // namespace gradmix::cpu
