// The common inputs of the ops on logits and last-layer features: checked, and as the kernels take them.
#pragma once

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

}  // namespace gradmix::cuda
