// The kernels: free of torch, single-threaded over the range they are given. The bindings check, allocate and split the work.
#pragma once

#include <cstdint>

#include "params.h"

namespace gradmix::cpu::kernels {

// Tasks are (chunk of a sample, sample) pairs, chunk by chunk: samples * ceil(sample_size / chunk) of them.
void masked_mixup(const MixupParams& p, int64_t begin, int64_t end);
void masked_mixup_backward(const MixupBackwardParams& p, int64_t begin, int64_t end);

// Tasks are samples.
void gather_augment_mixup(const GatherAugmentMixupParams& p, int64_t begin, int64_t end);

// Tasks are rows. The backward kernel needs one row of the accumulation type; it forms the loss too where there is room for it.
void cross_entropy(const CrossEntropyParams& p, int64_t begin, int64_t end);
void cross_entropy_backward(const CrossEntropyParams& p, int64_t begin, int64_t end, void* scratch);

// Tasks are rows. The residual needs one row of the accumulation type.
void residual(const ResidualParams& p, int64_t begin, int64_t end, void* scratch);
void gather_rows(const GatherParams& p, int64_t begin, int64_t end);

// Elements of float32 (float64 if wide) in a vector: class dimensions are padded to a multiple of it.
int vector_lanes(bool wide);
void pack_panels(const PanelParams& p);
// Tasks are rows; scratch holds pair_scores_scratch(p) elements of the accumulation type.
int64_t pair_scores_scratch(const PairScoreParams& p);
void pair_scores(const PairScoreParams& p, int64_t begin, int64_t end, void* scratch);

// How delta and the features are to be laid out for the kernels below: the widths of their panels.
int64_t class_panel(int64_t classes, bool wide);
int64_t feature_panel(bool wide);

// The gradient of one group.
void group_gradients(const GroupGradientParams& p);

// The Gram matrix of the groups' gradients by classes: tasks are blocks of (class, feature) pairs, each adding its share to `gram`
// [groups, groups], of which what is on and above the diagonal counts. Of sums, whatever group_scale is. scratch holds
// classwise_scratch(p) elements.
int64_t classwise_tasks(const GroupedParams& p);
int64_t classwise_scratch(const GroupedParams& p);
void gram_classwise(const GroupedParams& p, int64_t begin, int64_t end, void* gram, void* scratch);
// The share of the bias, in the same scratch.
void gram_of_bias(const GroupedParams& p, void* gram, void* scratch);

// The same by pairs of samples, whose delta and features are laid out row by row: tasks are panels of samples, that with most work
// first. scratch holds pairwise_scratch(p) elements.
int64_t pairwise_tasks(const GroupedParams& p);
int64_t pairwise_scratch(const GroupedParams& p);
void gram_pairwise(const GroupedParams& p, int64_t begin, int64_t end, void* gram, void* scratch);

}  // namespace gradmix::cpu::kernels
