// The common inputs of the ops on logits and last-layer features: checked, and as the kernels take them.
#pragma once

#include <string>
#include <tuple>

#include "cuda/binding.h"

namespace gradmix::cuda {

// Logits [N, C] with their labels.
struct LabelledLogits {
  LabelledLogits(const char* op, const Tensor& logits, const Tensor& target, const std::optional<Tensor>& partner_target,
                 const std::optional<Tensor>& lam, const std::optional<Tensor>& class_mask);

  Tensor logits;  // rows with stride(1) == 1
  DType dtype;
  int64_t samples, classes;
  Column target, partner_target, class_mask;
  LogitParams params{};
};

// Features [N, d] beside them.
struct LastLayer : LabelledLogits {
  LastLayer(const char* op, const Tensor& features, const Tensor& logits, const Tensor& target,
            const std::optional<Tensor>& partner_target, const std::optional<Tensor>& lam,
            const std::optional<Tensor>& class_mask);

  Tensor features;  // rows with stride(1) == 1
  int64_t depth;
};

// The samples sorted by group with the residuals in that order: what the kernels of class_gradients and class_gram read.
struct GroupedSamples {
  GroupedSamples(const char* op, const LastLayer& in, const std::optional<Tensor>& groups, std::optional<int64_t> num_groups,
                 const std::string& reduction, const DeviceScope& scope);

  Tensor count;  // [K]
  Order order;
  Tensor delta;  // [N, C] in the accumulation type
  GroupedParams params{};
};

// The gradients [K, C, d] and [K, C] of the groups in the accumulation type; 0 where a group has no samples.
std::tuple<Tensor, Tensor> group_gradients(const char* op, const LastLayer& in, const GroupedSamples& grouped, const DeviceScope& scope);

// <g_i, direction> [N] for every sample, and the cells of the pairs in [pair_classes, pair_classes] where `cell` is not null.
Tensor score_samples(const char* op, const LastLayer& in, const Tensor& direction_weight, const Tensor& direction_bias,
                     int64_t pair_classes, int64_t* cell, const DeviceScope& scope);

// Sums of <g_i, direction> over the samples of each class pair, and their numbers, [K, K] both.
std::tuple<Tensor, Tensor> pair_sums(const char* op, const LastLayer& in, const Tensor& direction_weight, const Tensor& direction_bias,
                                     int64_t num_classes, const DeviceScope& scope);

}  // namespace gradmix::cuda
