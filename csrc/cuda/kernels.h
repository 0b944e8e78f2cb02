// The kernels: parameters as plain structs, one launch function each. N samples, d features, C logits, K groups.
//
// `void*` arrays are of the type `dtype` where nothing else is said; "acc" is its accumulation type. All pointers are to device
// memory. Labels, groups and partners out of range are skipped: they cause no access out of bounds.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/dtype.h"

namespace gradmix::cuda {

// Products of rows are formed in tiles of so many rows by so many.
constexpr int tile_side = 64;
inline int64_t tiles_of(int64_t rows) { return (rows + tile_side - 1) / tile_side; }

// One number for the batch (stride 0) or one per sample, of any of the four types.
struct PerSample {
  const void* data;
  int64_t stride;
  DType dtype;
};

// out[i] = lam_i x[i] + (1 - lam_i) x[partner[i]] where mask_i, else x[i].
struct MixupParams {
  const void* x;
  void* out;
  const int64_t* partner;
  PerSample lam;
  const uint8_t* mask;  // null: mix every sample
  int64_t samples;
  int64_t sample_size;  // elements
  DType dtype;
  const int64_t* rows;  // where in x each sample is; null: the batch is all of x, in order
  int64_t stored;       // rows of x
};
cudaError_t launch_masked_mixup(const MixupParams&, cudaStream_t);

// The adjoint: x is the incoming gradient; the sources of sample j are order[offsets[j]] .. order[offsets[j + 1] - 1].
struct MixupBackwardParams {
  MixupParams mixup;
  const int64_t* order;
  const int64_t* offsets;  // [N + 1]
};
cudaError_t launch_masked_mixup_backward(const MixupBackwardParams&, cudaStream_t);

// out[i] = lam_i A(images[index[i]]) + (1 - lam_i) A'(images[partner_index[i]]) where mask_i, else A(images[index[i]]). A shifts, mirrors
// and takes the value u of a pixel to (u / 255 - mean) / std. An image that does not exist is black as a sample and no partner.
struct GatherAugmentMixupParams {
  const uint8_t* images;
  int64_t image_stride, channel_stride, row_stride, column_stride;  // bytes
  int64_t count;                                                    // of images
  int channels, height, width;                                      // of an image, whose elements are fewer than 2^31
  const int64_t* index;
  const int64_t* partner_index;  // null: mix no sample
  PerSample lam;
  const uint8_t* mask;  // null: mix every sample
  PerSample mean, std;  // of the channels
  const float* noise;   // [N, roles, 3] (dy, dx, flip) of the sample and of the partner; null: neither crop nor flip
  int roles;
  int64_t padding;
  bool hflip;
  int64_t samples;
  void* out;  // [N, ch, H, W], channels last or contiguous
  bool channels_last;
  DType dtype;
};
cudaError_t launch_gather_augment_mixup(const GatherAugmentMixupParams&, cudaStream_t);

// Stable order of the samples by an integer key: index (`bound` where it is out of range or masked), or the noise.
struct OrderParams {
  const int64_t* index;  // null: by noise
  const double* noise;
  const uint8_t* mask;  // null: all count
  int64_t samples;
  int64_t bound;
  int64_t* key;    // [N] sorted by launch_rank_order, in the order of the samples by launch_order_keys
  int64_t* order;  // [N]
};
cudaError_t launch_rank_order(const OrderParams&, cudaStream_t);
cudaError_t launch_order_keys(const OrderParams&, cudaStream_t);

// offsets[k] = how many of the sorted keys are below k, for k in [0, groups]; count[k] = how many are k.
struct OffsetsParams {
  const int64_t* key;
  int64_t samples;
  int64_t groups;
  int64_t* offsets;
  int64_t* count;  // [groups] null: not wanted
};
cudaError_t launch_offsets(const OffsetsParams&, cudaStream_t);

// The logits of the samples and what their targets are.
struct LogitParams {
  const void* logits;
  int64_t row_stride;
  const uint8_t* class_mask;  // [C] null: all classes
  const int64_t* target;
  const int64_t* partner_target;  // null: one label
  PerSample lam;
  int64_t samples;
  int64_t classes;
  DType dtype;
};

struct CrossEntropyParams {
  LogitParams in;
  double smoothing;
  PerSample sample_weight;  // data is null: 1
  void* loss;               // [N] in acc, or in dtype when final
  bool final_type;          // no reduction follows
  PerSample grad_loss;      // backward
  double grad_scale;        // 1/N for the mean
  void* grad_logits;        // [N, C] contiguous
};
cudaError_t launch_cross_entropy(const CrossEntropyParams&, cudaStream_t);
cudaError_t launch_cross_entropy_backward(const CrossEntropyParams&, cudaStream_t);

// out = the sum of the losses, or their mean: NaN where there are none.
struct LossSumParams {
  const void* loss;  // [N] acc
  int64_t samples;
  bool mean;
  void* out;  // dtype
  DType dtype;
};
cudaError_t launch_loss_sum(const LossSumParams&, cudaStream_t);

// delta [N, C] in acc; row r is that of sample order[r].
struct ResidualParams {
  LogitParams in;
  const int64_t* order;
  void* delta;
};
cudaError_t launch_residual(const ResidualParams&, cudaStream_t);

// Samples sorted by group. Group k holds the rows offsets[k] .. offsets[k + 1]; rows from offsets[groups] on belong to none.
struct GroupedParams {
  const void* delta;  // [N, C] acc, in sorted order
  const void* features;  // row r at order[r] * feature_stride
  int64_t feature_stride;
  const int64_t* order;
  const int64_t* key;  // [N] the group of each row
  const int64_t* offsets;
  int64_t samples;
  int64_t classes;
  int64_t depth;  // d
  int64_t groups;
  bool mean;
  DType dtype;
};

// Gradients of classes first_class .. first_class + class_count; (group, class) at (group * class_count + class) * stride.
struct GradientParams {
  GroupedParams in;
  int64_t first_class;
  int64_t class_count;
  void* weight;  // acc
  int64_t weight_stride;
  void* bias;  // acc
  int64_t bias_stride;
  int64_t padding;  // zeros to write behind each element of the bias
};
cudaError_t launch_class_gradients(const GradientParams&, cudaStream_t);

// Rows of a matrix times each other, in tiles, the depth cut into slices. partial [slices, tile pairs, tile_side, tile_side].
struct ProductParams {
  const void* rows;  // [groups, length], acc
  int64_t groups;
  int64_t length;
  int64_t slices;
  void* partial;
  void* gram;  // [groups, groups], acc
  bool add;    // to what gram holds
  bool wide;   // acc is float64
};
cudaError_t launch_row_products(const ProductParams&, cudaStream_t);
cudaError_t launch_sum_slices(const ProductParams&, cudaStream_t);

// The pairs of samples in a panel of row tiles and a panel of column tiles, summed over the groups within each tile: cell
// (tile in panel + group) x (tile in panel + group) of partial, whose rows have panel_tiles + groups cells.
struct PairwiseParams {
  GroupedParams in;
  int64_t first_row_tile;
  int64_t first_column_tile;
  int64_t panel_tiles;
  void* partial;  // acc
  void* gram;     // [K, K], acc
  bool add;
};
cudaError_t launch_gram_pairs(const PairwiseParams&, cudaStream_t);
cudaError_t launch_sum_pairs(const PairwiseParams&, cudaStream_t);

// projected = features direction^T.
struct ProjectParams {
  const void* features;  // [N, d]
  int64_t feature_stride;
  const void* direction;  // [C, d] acc
  int64_t samples;
  int64_t classes;
  int64_t depth;
  void* projected;  // [N, C] acc
  DType dtype;
};
cudaError_t launch_project_features(const ProjectParams&, cudaStream_t);

// value_i = sum_c delta_ic (projected_ic + bias_c), and the cell of the sample's pair (K*K where a label is none); a sample without a
// partner is its own.
struct PairValueParams {
  LogitParams in;
  const void* projected;  // [N, C] acc
  const void* bias;       // [C] acc
  int64_t pair_classes;   // K
  void* value;            // [N] acc
  int64_t* cell;          // [N] null: not wanted
};
cudaError_t launch_pair_values(const PairValueParams&, cudaStream_t);

// Samples sorted by the cell of their class pair.
struct CellRunParams {
  const void* value;     // [N] acc, in the order of the samples
  const int64_t* order;  // samples sorted by cell
  const int64_t* cell;   // [N] sorted
  int64_t samples;
};

// Sums of the values of each cell into the symmetric [K, K] matrices, which hold zeros.
struct PairSumParams {
  CellRunParams runs;
  int64_t pair_classes;
  void* score_sum;  // acc
  int64_t* count;
  bool wide;
};
cudaError_t launch_pair_sums(const PairSumParams&, cudaStream_t);

// scores = (mean_a + mean_b) / 2 from the sums and the numbers of samples on the diagonals, where both classes have samples.
struct LinearPairParams {
  const void* score_sum;  // [K, K] acc
  const int64_t* count;   // [K, K]
  int64_t classes;
  void* scores;  // [K, K] acc
  uint8_t* scored;
  bool wide;
};
cudaError_t launch_linear_pairs(const LinearPairParams&, cudaStream_t);

// The cells of the pairs of labels, for samples that have them.
struct PairCellParams {
  const int64_t* target;
  const int64_t* partner_target;
  int64_t samples;
  int64_t pair_classes;
  int64_t* cell;
};
cudaError_t launch_pair_cells(const PairCellParams&, cudaStream_t);

// The mean of each cell enters its moving average, on both sides of the diagonal; a pair that was not scored takes it whole.
struct BlendParams {
  CellRunParams runs;
  int64_t pair_classes;
  void* scores;  // [K, K] of the type of the values, with these strides
  int64_t score_row, score_column;
  uint8_t* scored;
  int64_t scored_row, scored_column;
  uint8_t* allowed;
  int64_t allowed_row, allowed_column;
  double momentum;
  double threshold;
  bool wide;
};
cudaError_t launch_blend_scores(const BlendParams&, cudaStream_t);

// redraw: the sample at a position, given by the noise, among the samples of the allowed classes in the order of (class, index).
// skip: the samples in the order of the noise. order and offsets are by class for redraw; order is by noise for skip.
struct PartnerParams {
  const int64_t* target;
  const uint8_t* allowed;  // [K, K]
  const double* noise;
  double exploration;
  const int64_t* order;
  const int64_t* offsets;  // [K + 1]
  int64_t samples;
  int64_t classes;
  int64_t* partner;
  uint8_t* mask;
};
cudaError_t launch_redraw_partners(const PartnerParams&, cudaStream_t);
cudaError_t launch_skip_partners(const PartnerParams&, cudaStream_t);

// A class of the batch with odds exp(preference[label, class]), then one of its samples; order and offsets are by class.
struct SoftPartnerParams {
  const int64_t* target;
  const void* preference;  // [K, K] with these strides
  int64_t row, column;
  DType dtype;
  const double* noise;
  const int64_t* order;
  const int64_t* offsets;  // [K + 1]
  int64_t samples;
  int64_t classes;
  int64_t* partner;
  uint8_t* mask;
};
cudaError_t launch_soft_partners(const SoftPartnerParams&, cudaStream_t);

// partner_target_i = target[partner[i]]; used_i = lam_i at this strength where mask_i, else 1; weight_i = (samples with the label of
// i)^-balance, then divided by its mean. A sample whose partner does not exist stays unmixed.
struct MixLabelsParams {
  const int64_t* target;
  const int64_t* partner;
  const uint8_t* mask;
  PerSample lam_x, lam_y;
  double strength;
  double balance;
  int64_t samples;
  int64_t* partner_target;
  void* used_x;  // float64 if wide, else float32
  void* used_y;
  float* weight;
  bool wide;
};
cudaError_t launch_label_terms(const MixLabelsParams&, cudaStream_t);
cudaError_t launch_divide_by_mean(const MixLabelsParams&, cudaStream_t);

// preference = (score - mean) / (temperature * standard deviation) over the pairs that have a score, 0 for the others.
struct PreferenceParams {
  const void* scores;  // rows side by side, float64 if wide, else float32
  const uint8_t* scored;
  int64_t pairs;  // K^2
  double temperature;
  void* preference;
  bool wide;
};
cudaError_t launch_pair_preferences(const PreferenceParams&, cudaStream_t);

}  // namespace gradmix::cuda
