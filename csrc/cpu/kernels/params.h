// What a kernel needs to know, as plain structs. N samples, d features, C logits (compressed
// to the allowed classes where a class mask is given), K groups. `void*` arrays are of the data type, `lam` of its accumulation type.
#pragma once

#include <cstdint>

#include "../../common/dtype.h"

namespace gradmix::cpu {

// out[i] = lam_i x[i] + (1 - lam_i) x[partner[i]] where mask_i, else x[i]; with `rows`, x[rows[i]] stands for x[i] everywhere.
struct MixupParams {
  const void* x;
  void* out;
  const int64_t* partner;
  const void* lam;
  int64_t lam_stride;   // 0: one lam for the batch
  const uint8_t* mask;  // null: mix every sample
  int64_t samples;
  int64_t sample_size;   // elements
  const int64_t* order;  // the order in which to visit the samples
  int64_t chunk;         // elements of a sample handled before the next sample
  DType dtype;
  bool stream;          // write around the cache
  const int64_t* rows;  // null: the batch is all of x, in order
};

// out[j] = own_j grad[j] + sum over s in sources(j) of weight_s grad[s]; sources in increasing order.
struct MixupBackwardParams {
  const void* grad;
  void* out;
  const void* own;          // [N], accumulation type
  const void* weight;       // [N], accumulation type
  const int64_t* sources;   // grouped by destination
  const int64_t* offsets;   // [N + 1] into sources
  int64_t samples;
  int64_t sample_size;
  const int64_t* order;
  int64_t chunk;
  DType dtype;
  bool stream;
};

// Byte e of a block of 16 output elements is byte control[e] of the 16 bytes from `offset` on, or 0 where control[e] is no_byte: beyond
// the 16 bytes, and as a shuffle instruction wants it.
constexpr uint8_t no_byte = 0x90;
struct ByteTap {
  int64_t offset;  // from the start of a line of an image
  uint8_t control[16];
};

// An image as a sample of the output sees it, shifted and mirrored. What the taps of a block give is to be united.
struct ImageView {
  const uint8_t* image;
  const ByteTap* taps;  // [blocks in a line, taps_per_block]
  int64_t taps_per_block;
  int64_t shift;  // row y of the output is row y + shift of the image, or black where that is outside
  double weight;
};

// out[i] = shift + scale (w own[i] + w' partner[i]) for the bytes of two views. A line of the output is a row of one plane (one
// channel, or all of them interleaved).
struct GatherAugmentMixupParams {
  const ImageView* views;  // [N, 2] own, partner
  int64_t planes;
  int64_t rows;
  int64_t line;          // elements of the output in a line
  int64_t span;          // bytes of an image that a line is taken from
  int64_t plane_stride;  // bytes of an image
  int64_t row_stride;
  const void* scale;  // accumulation type: 16 elements for each plane (the same for all blocks), or as many as a line (interleaved)
  const void* shift;
  bool interleaved;
  void* out;
  DType dtype;
};

// Two hard labels with weights lam and 1 - lam, smoothed by eps over the allowed classes.
struct CrossEntropyParams {
  const void* logits;
  int64_t row_stride;
  const int64_t* target;
  const int64_t* partner_target;
  const void* lam;
  int64_t lam_stride;
  const void* sample_weight;  // [N] accumulation type; null: 1
  const void* blocked;  // [C] accumulation type, nonzero where a class is masked; null: none is
  int64_t classes;
  int64_t allowed;
  double smoothing;
  DType dtype;
  void* loss;              // [N] accumulation type (forward; backward: or null)
  const void* grad_loss;   // accumulation type (backward)
  int64_t grad_stride;     // 0: one upstream gradient for the batch
  double grad_scale;       // 1/N for the mean
  void* grad_logits;       // [N, C] contiguous (backward)
};

// How a matrix of rows is laid out: in panels of `width` columns, one after the other, each with all rows. A panel that is as wide as
// the matrix makes it row by row.
struct Panels {
  int64_t rows;
  int64_t width;
  int64_t count;
};

// delta_i = softmax(z_i) - q_i over the allowed classes, written for the samples in `order`.
struct ResidualParams {
  const void* logits;
  int64_t row_stride;
  const int64_t* columns;  // [C] the allowed classes; null: all
  const int64_t* target;   // positions among the allowed classes
  const int64_t* partner_target;  // null: one label
  const void* lam;
  int64_t lam_stride;
  const int64_t* order;  // [N] row r of delta belongs to sample order[r]; null: r
  int64_t classes;
  DType dtype;
  void* delta;  // [N, C] in panels, accumulation type, zero beyond the last class
  Panels panels;
};

// Rows gathered and converted to the accumulation type, zero beyond the last column.
struct GatherParams {
  const void* source;
  int64_t row_stride;
  const int64_t* order;  // which rows; null: all in order
  int64_t columns;
  DType dtype;
  void* out;
  Panels panels;
};

// Rows of a matrix converted to the accumulation type and laid side by side in panels, so that a product reads them as vectors.
struct PanelParams {
  const void* source;  // [rows, depth]
  int64_t row_stride;
  const int64_t* columns;  // which rows of the source; null: all in order
  int64_t rows;
  int64_t padded_rows;
  int64_t depth;
  void* out;  // [padded_rows * depth], zero beyond the last row
  DType dtype;
};

// value_i = delta_i^T (D_W h_i + D_b) over the allowed classes; lam, D and what is computed are of the accumulation type.
struct PairScoreParams {
  const void* features;  // [N, d]
  int64_t feature_stride;
  const void* logits;  // [N, C]
  int64_t logit_stride;
  const int64_t* columns;  // [classes] the allowed classes; null: all
  const int64_t* target;   // positions among the allowed classes
  const int64_t* partner_target;
  const void* lam;
  int64_t lam_stride;
  const void* panels;  // D_W, packed
  const void* bias;    // D_b, zero up to padded_classes
  int64_t classes;
  int64_t padded_classes;
  int64_t depth;
  int64_t block;  // samples converted and projected before their softmax: both stay in the cache
  void* value;    // [N]
  DType dtype;
};

// Samples sorted by group: group g holds rows offsets[g] .. offsets[g + 1]. All in the accumulation type.
struct GroupedParams {
  const void* delta;  // [N, C], zero beyond C
  Panels delta_panels;
  const void* features;  // [N, d], zero beyond d
  Panels feature_panels;
  const int64_t* offsets;  // [groups + 1]
  const int64_t* group_of;  // [N] of each row
  const void* group_scale;  // [groups]: 1, or 1/count for means
  int64_t groups;
  int64_t samples;
  int64_t classes;  // allowed ones
  int64_t depth;    // d
  bool wide;        // accumulation type is float64
};

// Where the gradient of a group goes: that of a class to row class_index[c] of the weight and of the bias.
struct GroupGradientParams {
  GroupedParams in;  // one group
  const int64_t* class_index;  // [classes]; null: all
  void* weight;
  int64_t weight_stride;  // from class to class
  void* bias;  // null: not wanted
};

}  // namespace gradmix::cpu
