// class_weights: powers of the class sizes, then their mean taken out in one order.
#include "cuda/device.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 256;
using Labels = int64_t[threads];

// N^2 comparisons, but one launch, no atomics, and labels can be any integers.
__global__ void __launch_bounds__(threads) class_powers(ClassWeightParams p) {
  GRADMIX_SHARED(Labels, tile);
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  const int64_t own = i < p.samples ? p.target[i] : 0;
  int64_t size = 0;
  for (int64_t first = 0; first < p.samples; first += threads) {
    const int64_t k = first + threadIdx.x;
    if (k < p.samples) tile[threadIdx.x] = p.target[k];
    __syncthreads();
    const int filled = static_cast<int>(p.samples - first < threads ? p.samples - first : threads);
    for (int t = 0; t < filled; ++t) size += tile[t] == own;
    __syncthreads();  // before the tile is written again
  }
  if (i < p.samples) p.weight[i] = static_cast<float>(pow(static_cast<double>(size), -p.balance));
}

__global__ void __launch_bounds__(threads) divide_by_mean(ClassWeightParams p) {
  GRADMIX_SHARED(WarpParts<double>, parts);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.samples; i += threads) sum += static_cast<double>(p.weight[i]);
  const float scale = static_cast<float>(static_cast<double>(p.samples) / block_sum(sum, parts));
  for (int64_t i = threadIdx.x; i < p.samples; i += threads) p.weight[i] *= scale;
}

}  // namespace

cudaError_t launch_class_powers(const ClassWeightParams& p, cudaStream_t stream) {
  return launch(class_powers, blocks_for(p.samples, threads), dim3(threads), p, stream);
}
cudaError_t launch_divide_by_mean(const ClassWeightParams& p, cudaStream_t stream) {
  return launch(divide_by_mean, 1, dim3(threads), p, stream);
}

}  // namespace gradmix::cuda
