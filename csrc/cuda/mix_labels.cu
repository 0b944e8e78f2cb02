// mix_labels: the labels of the partners, λ as it is used, powers of the class sizes; then the mean of the powers taken out in one order.
#include "cuda/device.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 256;
using Labels = int64_t[threads];

// Samples of the batch with a label. N^2 comparisons over all threads, but no launch more, no atomics, and labels can be any integers.
__device__ int64_t class_size(const MixLabelsParams& p, int64_t label, Labels& tile) {
  int64_t size = 0;
  for (int64_t first = 0; first < p.samples; first += threads) {
    const int64_t k = first + threadIdx.x;
    if (k < p.samples) tile[threadIdx.x] = p.target[k];
    __syncthreads();
    const int filled = static_cast<int>(p.samples - first < threads ? p.samples - first : threads);
    for (int t = 0; t < filled; ++t) size += tile[t] == label;
    __syncthreads();  // before the tile is written again
  }
  return size;
}

template <class A>
__global__ void __launch_bounds__(threads) label_terms(MixLabelsParams p) {
  GRADMIX_SHARED(Labels, tile);
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  const int64_t label = i < p.samples ? p.target[i] : 0;
  const int64_t size = p.balance > 0 ? class_size(p, label, tile) : 1;
  if (i >= p.samples) return;
  p.weight[i] = static_cast<float>(pow(static_cast<double>(size), -p.balance));
  const int64_t j = p.partner[i];
  const bool exists = j >= 0 && j < p.samples;
  p.partner_target[i] = exists ? p.target[j] : label;
  const auto used = [&](const PerSample& lam) {
    if (!exists || p.mask[i] == 0) return A(1);
    const A given = value_at<A>(lam, i);
    return p.strength < 1 ? 1 - static_cast<A>(p.strength) * (1 - given) : given;
  };
  static_cast<A*>(p.used_x)[i] = used(p.lam_x);
  static_cast<A*>(p.used_y)[i] = used(p.lam_y);
}

__global__ void __launch_bounds__(threads) divide_by_mean(MixLabelsParams p) {
  GRADMIX_SHARED(WarpParts<double>, parts);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.samples; i += threads) sum += static_cast<double>(p.weight[i]);
  const float scale = static_cast<float>(static_cast<double>(p.samples) / block_sum(sum, parts));
  for (int64_t i = threadIdx.x; i < p.samples; i += threads) p.weight[i] *= scale;
}

}  // namespace

cudaError_t launch_label_terms(const MixLabelsParams& p, cudaStream_t stream) {
  return with_acc(p.wide, [&](auto zero) {
    return launch(label_terms<decltype(zero)>, blocks_for(p.samples, threads), dim3(threads), p, stream);
  });
}
cudaError_t launch_divide_by_mean(const MixLabelsParams& p, cudaStream_t stream) {
  return launch(divide_by_mean, p.samples > 0 ? 1 : 0, dim3(threads), p, stream);
}

}  // namespace gradmix::cuda
