// Which way to form a Gram matrix of gradients does less: multiply-adds in tiles of 64 rows, whose last one is filled up. n samples,
// c logits, d features, k groups. Both ways use the same tile kernel, so one rate serves both.
#pragma once

#include <cstdint>

namespace gradmix::cuda {

inline double in_tiles(int64_t rows) { return static_cast<double>((rows + 63) / 64 * 64); }

// Tiles of pairs of samples on and above the diagonal, in both factors.
inline double pairwise_cost(int64_t n, int64_t c, int64_t d) {
  const double tiles = in_tiles(n) / 64;
  return tiles * (tiles + 1) / 2 * 64 * 64 * (static_cast<double>(c) + static_cast<double>(d));
}

// The gradients of the groups, which the samples share evenly; then tiles of pairs of groups. A tile of gradients is written and read
// for every 64 multiply-adds of its elements; that is the same cost in both terms and left out.
inline double classwise_cost(int64_t n, int64_t c, int64_t d, int64_t k) {
  const double elements = in_tiles(c) * in_tiles(d + 1), tiles = in_tiles(k) / 64;
  return static_cast<double>(n) * elements +
         tiles * (tiles + 1) / 2 * 64 * 64 * static_cast<double>(c) * static_cast<double>(d + 1);
}

}  // namespace gradmix::cuda
