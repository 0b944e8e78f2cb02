// Which way to form a Gram matrix of gradients does less, in the time of a float32 multiply-add (float64: of its own): a model, not
// measured. The last tile is filled up. n samples, c logits, d features, k groups.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "cuda/kernels.h"

namespace gradmix::cuda {

inline double in_tiles(int64_t rows) { return static_cast<double>(tiles_of(rows) * tile_side); }
// Products of each two of `rows` rows: tiles on and above the diagonal.
inline double tile_pairs(int64_t rows) {
  const double tiles = static_cast<double>(tiles_of(rows));
  return tiles * (tiles + 1) / 2 * tile_side * tile_side;
}

// One product of elements of a type, from products of bfloat16 (row_tile.h). Tensor cores make 16 of these (A100) or 15 (H100, of
// which mma.sync reaches about two thirds) by the data sheets while one multiply-add of float32 is made; 12 is in between.
inline double product_cost(DType dtype) {
  constexpr double of_bf16 = 1.0 / 12;
  switch (dtype) {
    case DType::f64:
      return 1;
    case DType::f32:
      return 6 * of_bf16;
    case DType::f16:
      return 4 * of_bf16;
    default:
      return of_bf16;
  }
}
inline DType acc_type(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// Tiles of pairs of samples, in both factors.
inline double pairwise_cost(int64_t n, int64_t c, int64_t d, DType dtype) {
  return tile_pairs(n) * (static_cast<double>(c) * product_cost(acc_type(dtype)) + static_cast<double>(d) * product_cost(dtype));
}

// The gradients of the groups, by multiply-adds; then tiles of pairs of groups. A tile of gradients is written and read for every
// tile_side multiply-adds of its elements; that is the same cost in both terms and left out.
inline double classwise_cost(int64_t n, int64_t c, int64_t d, int64_t k, DType dtype) {
  return static_cast<double>(n) * in_tiles(c) * in_tiles(d + 1) +
         tile_pairs(k) * static_cast<double>(c) * static_cast<double>(d + 1) * product_cost(acc_type(dtype));
}

}  // namespace gradmix::cuda
