// The samples in the order of an integer key, equal keys by index, and where each key starts.
#include "cuda/device.h"
#include "cuda/limits.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 128;
using Keys = int64_t[rank_warps][warp_lanes];
using Ranks = int[rank_warps][warp_lanes];

// Noise as an integer of the same order. NaN comes last, as torch.sort has it.
__device__ int64_t ordered_bits(double noise) {
  if (noise != noise) return INT64_MAX;
  const double value = noise + 0.0;  // -0 and +0 are equal
  int64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits >= 0 ? bits : bits ^ INT64_MAX;
}

__device__ int64_t key_of(const OrderParams& p, int64_t i) {
  if (p.index == nullptr) return ordered_bits(p.noise[i]);
  const int64_t index = p.index[i];
  const bool counts = (p.mask == nullptr || p.mask[i] != 0) && index >= 0 && index < p.bound;
  return counts ? index : p.bound;
}

// The rank of a sample is how many come before it: N^2 comparisons, but one launch, no atomics and no temporary. A lane is a sample; the
// warps of a block share the keys that these are compared with, each by 32 at a time.
__global__ void __launch_bounds__(rank_warps * warp_lanes) rank_order(OrderParams p) {
  GRADMIX_SHARED(Keys, keys);
  GRADMIX_SHARED(Ranks, ranks);
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t i = int64_t{blockIdx.x} * warp_lanes + lane;
  const auto key_at = [&](int64_t k) { return k < p.samples ? key_of(p, k) : int64_t{0}; };
  const int64_t own = key_at(i);
  int rank = 0;
  int64_t next = key_at(warp * warp_lanes + lane);
  for (int64_t first = warp * warp_lanes; first < p.samples; first += rank_warps * warp_lanes) {
    keys[warp][lane] = next;
    __syncwarp();
    next = key_at(first + rank_warps * warp_lanes + lane);  // on its way while these are compared
    const int filled = static_cast<int>(p.samples - first < warp_lanes ? p.samples - first : warp_lanes);
    // Of equal keys those of earlier samples come before.
    const int earlier = i <= first ? 0 : i - first < filled ? static_cast<int>(i - first) : filled;
#pragma unroll 8
    for (int t = 0; t < earlier; ++t) rank += keys[warp][t] <= own;
#pragma unroll 8
    for (int t = earlier; t < filled; ++t) rank += keys[warp][t] < own;
    __syncwarp();  // before the keys are written again
  }
  ranks[warp][lane] = rank;
  __syncthreads();
  if (warp > 0 || i >= p.samples) return;
  for (int other = 1; other < rank_warps; ++other) rank += ranks[other][lane];
  p.order[rank] = i;
  p.key[rank] = own;
}

__global__ void __launch_bounds__(threads) order_keys(OrderParams p) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < p.samples) p.key[i] = key_of(p, i);
}

__device__ int64_t keys_below(const OffsetsParams& p, int64_t k) {
  int64_t low = 0, high = p.samples;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (p.key[middle] < k)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

__global__ void __launch_bounds__(threads) offsets(OffsetsParams p) {
  const int64_t k = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (k > p.groups) return;
  p.offsets[k] = keys_below(p, k);
  if (p.count != nullptr && k < p.groups) p.count[k] = keys_below(p, k + 1) - p.offsets[k];
}

}  // namespace

cudaError_t launch_rank_order(const OrderParams& p, cudaStream_t stream) {
  return launch(rank_order, blocks_for(p.samples, warp_lanes), dim3(warp_lanes, rank_warps), p, stream);
}
cudaError_t launch_order_keys(const OrderParams& p, cudaStream_t stream) {
  return launch(order_keys, blocks_for(p.samples, threads), dim3(threads), p, stream);
}
cudaError_t launch_offsets(const OffsetsParams& p, cudaStream_t stream) {
  return launch(offsets, blocks_for(p.groups + 1, threads), dim3(threads), p, stream);
}

}  // namespace gradmix::cuda
