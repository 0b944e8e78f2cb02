// The product of two strips of 64 rows, as 256 threads of a block compute it: 4 x 4 results each, 16 columns at a time.
#pragma once

#include "cuda/device.h"

namespace gradmix::cuda {

constexpr int tile_depth = 16;
constexpr int tile_threads = 256;
constexpr int tile_results = 4;  // along each side, per thread
constexpr int tile_loads = tile_side * tile_depth / tile_threads;
constexpr int tile_lanes = tile_side / tile_results;

// Two stages, so that one is filled while the other is used. Transposed, and padded against bank conflicts.
template <class A>
struct TileBuffers {
  A left[2][tile_depth][tile_side + 4];
  A right[2][tile_depth][tile_side + 4];
};

enum class Contiguous { along_depth, along_rows };  // which way neighbouring threads read

template <Contiguous C>
struct TileElement {
  int row, k;
  __device__ explicit TileElement(int load) {
    const int t = threadIdx.x;
    row = C == Contiguous::along_depth ? t / tile_depth + load * (tile_side / tile_loads) : t % tile_side;
    k = C == Contiguous::along_depth ? t % tile_depth : t / tile_side + load * (tile_depth / tile_loads);
  }
};

// sum[a][b] += sum over k < depth of left(row, k) right(column, k), for this thread's rows and columns. All threads of the block call
// it with one depth; left and right give 0 for rows that are none. Afterwards the buffers can be used again.
template <Contiguous C, class A, class Left, class Right>
__device__ void multiply_tiles(A (&sum)[tile_results][tile_results], int64_t depth, const Left& left, const Right& right,
                               TileBuffers<A>& buffers) {
  A next_left[tile_loads], next_right[tile_loads];
  const auto fetch = [&](int64_t first) {
#pragma unroll
    for (int load = 0; load < tile_loads; ++load) {
      const TileElement<C> at(load);
      const bool inside = first + at.k < depth;
      next_left[load] = inside ? left(at.row, first + at.k) : A(0);
      next_right[load] = inside ? right(at.row, first + at.k) : A(0);
    }
  };
  const auto store = [&](int stage) {
#pragma unroll
    for (int load = 0; load < tile_loads; ++load) {
      const TileElement<C> at(load);
      buffers.left[stage][at.k][at.row] = next_left[load];
      buffers.right[stage][at.k][at.row] = next_right[load];
    }
  };
  const int row = threadIdx.x / tile_lanes * tile_results, column = threadIdx.x % tile_lanes * tile_results;
  fetch(0);
  store(0);
  __syncthreads();
  int stage = 0;
  for (int64_t first = 0; first < depth; first += tile_depth, stage ^= 1) {
    const bool more = first + tile_depth < depth;
    if (more) fetch(first + tile_depth);
#pragma unroll
    for (int k = 0; k < tile_depth; ++k) {
      A a[tile_results], b[tile_results];
#pragma unroll
      for (int r = 0; r < tile_results; ++r) {
        a[r] = buffers.left[stage][k][row + r];
        b[r] = buffers.right[stage][k][column + r];
      }
#pragma unroll
      for (int r = 0; r < tile_results; ++r)
#pragma unroll
        for (int s = 0; s < tile_results; ++s) sum[r][s] += a[r] * b[s];
    }
    if (more) store(stage ^ 1);
    __syncthreads();  // the stage just used is filled next, the one just filled is used next
  }
}

// f(row, column, results) for the results of this thread, which are side by side in a row from that column on.
template <class A, class F>
__device__ void each_row(const A (&sum)[tile_results][tile_results], F&& f) {
  const int row = threadIdx.x / tile_lanes * tile_results, column = threadIdx.x % tile_lanes * tile_results;
#pragma unroll
  for (int r = 0; r < tile_results; ++r) f(row + r, column, sum[r]);
}

}  // namespace gradmix::cuda
