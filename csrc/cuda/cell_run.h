// Class pairs as cells of a matrix, and the samples of one cell summed by a warp.
#pragma once

#include "cuda/device.h"

namespace gradmix::cuda {

// The cell of an unordered pair, above the diagonal of [k, k]; k * k where a label is none.
__device__ inline int64_t pair_cell(int64_t a, int64_t b, int64_t k) {
  const bool inside = a >= 0 && a < k && b >= 0 && b < k;
  return !inside ? k * k : a < b ? a * k + b : b * k + a;
}

// What the warp of the sorted sample `first` finds: the sum and the number of the samples of its cell where it is the first of them, else
// none. All lanes get the same.
template <class A>
struct CellRun {
  __device__ CellRun(const CellRunParams& p, int64_t k) {
    const int64_t first = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
    if (first >= p.samples) return;  // a whole warp
    cell = p.cell[first];
    if (cell >= k * k || (first > 0 && p.cell[first - 1] == cell)) return;  // a whole warp
    int64_t last = first;
    for (int64_t r = first + threadIdx.x; r < p.samples && p.cell[r] == cell; r += warp_lanes) {
      sum += static_cast<const A*>(p.value)[p.order[r]];
      last = r;
    }
    sum = warp_sum(sum);
    // The last sorted sample of the cell is the last of one of the lanes.
    count = last - first + 1;
#pragma unroll
    for (int step = warp_lanes / 2; step > 0; step /= 2) {
      const int64_t other = __shfl_xor_sync(all_lanes, count, step);
      count = other > count ? other : count;
    }
  }

  int64_t cell = 0;
  A sum = 0;
  int64_t count = 0;
};

}  // namespace gradmix::cuda
