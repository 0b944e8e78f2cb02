// The adjoint of masked_mixup as a gather: sample j collects from those that were mixed with it, in increasing order. No atomics.
#include "cuda/mixup_grid.h"

namespace gradmix::cuda {
namespace {

constexpr int unroll = 2;

template <class T, int P>
__global__ void __launch_bounds__(mixup_threads) masked_mixup_backward(MixupBackwardParams params) {
  using A = acc_t<T>;
  using V = Packet<T, P>;
  const MixupParams& p = params.mixup;
  const int64_t packets = p.sample_size / P;
  const V* grad = static_cast<const V*>(p.x);
  const MixupTasks tasks(p.samples, packets, unroll);
  for (int64_t task = blockIdx.x; task < tasks.count; task += gridDim.x) {
    const int64_t j = tasks.sample(task), first = tasks.first(task);
    if (j >= p.samples) continue;
    const int64_t partner = p.partner[j];
    const bool mixed = (p.mask == nullptr || p.mask[j] != 0) && partner >= 0 && partner < p.samples;
    const A own = mixed ? value_at<A>(p.lam, j) : A(1);
    const int64_t begin = params.offsets[j], end = params.offsets[j + 1];

    A sum[unroll][P];
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int64_t at = first + int64_t{blockDim.x} * u;
      if (at >= packets) continue;
      const V g = grad[j * packets + at];
#pragma unroll
      for (int e = 0; e < P; ++e) sum[u][e] = own * to_acc(g.v[e]);
    }
    for (int64_t s = begin; s < end; ++s) {
      const int64_t i = params.order[s];
      const A weight = A(1) - value_at<A>(p.lam, i);
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        const int64_t at = first + int64_t{blockDim.x} * u;
        if (at >= packets) continue;
        const V g = grad[i * packets + at];
#pragma unroll
        for (int e = 0; e < P; ++e) sum[u][e] += weight * to_acc(g.v[e]);
      }
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int64_t at = first + int64_t{blockDim.x} * u;
      if (at >= packets) continue;
      V result;
#pragma unroll
      for (int e = 0; e < P; ++e) result.v[e] = from_acc<T>(sum[u][e]);
      static_cast<V*>(p.out)[j * packets + at] = result;
    }
  }
}

}  // namespace

cudaError_t launch_masked_mixup_backward(const MixupBackwardParams& params, cudaStream_t stream) {
  const MixupParams& p = params.mixup;
  if (p.samples == 0 || p.sample_size == 0) return cudaSuccess;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_packets<T>(p, [&](auto size) {
      constexpr int P = decltype(size)::value;
      const MixupGrid grid = mixup_grid(p.samples, p.sample_size / P, unroll);
      return launch(masked_mixup_backward<T, P>, grid.blocks, grid.threads, params, stream);
    });
  });
}

}  // namespace gradmix::cuda
