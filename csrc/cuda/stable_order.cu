// The samples in the order of an integer key, equal keys by index, and where each key starts.
#include "cuda/device.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 128;
using Keys = int64_t[threads];

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

// The rank of a sample is how many come before it: N^2 comparisons, but one launch, no atomics and no temporary.
__global__ void __launch_bounds__(threads) rank_order(OrderParams p) {
  GRADMIX_SHARED(Keys, tile);
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  const int64_t own = i < p.samples ? key_of(p, i) : 0;
  int64_t rank = 0;
  for (int64_t first = 0; first < p.samples; first += threads) {
    const int64_t k = first + threadIdx.x;
    tile[threadIdx.x] = k < p.samples ? key_of(p, k) : 0;
    __syncthreads();
    const int filled = static_cast<int>(p.samples - first < threads ? p.samples - first : threads);
    for (int t = 0; t < filled; ++t) rank += tile[t] < own || (tile[t] == own && first + t < i);
    __syncthreads();  // before the tile is written again
  }
  if (i >= p.samples) return;
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
  return launch(rank_order, blocks_for(p.samples, threads), dim3(threads), p, stream);
}
cudaError_t launch_order_keys(const OrderParams& p, cudaStream_t stream) {
  return launch(order_keys, blocks_for(p.samples, threads), dim3(threads), p, stream);
}
cudaError_t launch_offsets(const OffsetsParams& p, cudaStream_t stream) {
  return launch(offsets, blocks_for(p.groups + 1, threads), dim3(threads), p, stream);
}

}  // namespace gradmix::cuda
