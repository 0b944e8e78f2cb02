// masked_mixup: reads x[i] and, where it is mixed, x[partner[i]]; writes out[i]. Nothing else touches memory. With `rows` the batch lies
// in a larger x, at these rows.
#include "cuda/mixup_grid.h"

namespace gradmix::cuda {
namespace {

// Loads in flight per thread and row: 4 x 16 bytes.
constexpr int unroll = 4;

// Where sample i lies in x, or -1 if x has no such row.
__device__ int64_t row_of(const MixupParams& p, int64_t i) {
  if (p.rows == nullptr) return i;
  const int64_t row = p.rows[i];
  return row >= 0 && row < p.stored ? row : -1;
}

template <class T, int P>
__global__ void __launch_bounds__(mixup_threads) masked_mixup(MixupParams p) {
  using A = acc_t<T>;
  using V = Packet<T, P>;
  const int64_t packets = p.sample_size / P;
  const MixupTasks tasks(p.samples, packets, unroll);
  for (int64_t task = blockIdx.x; task < tasks.count; task += gridDim.x) {
    const int64_t i = tasks.sample(task), first = tasks.first(task);
    if (i >= p.samples) continue;
    const int64_t j = p.partner[i];
    const bool mixed = (p.mask == nullptr || p.mask[i] != 0) && j >= 0 && j < p.samples;
    const int64_t own_row = row_of(p, i), other_row = mixed ? row_of(p, j) : own_row;
    const V* own = static_cast<const V*>(p.x) + own_row * packets;
    const V* other = static_cast<const V*>(p.x) + other_row * packets;
    V* out = static_cast<V*>(p.out) + i * packets;
    const A a = mixed ? value_at<A>(p.lam, i) : A(1), b = A(1) - a;

    V x[unroll] = {}, y[unroll] = {};  // what has no row is 0
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int64_t at = first + int64_t{blockDim.x} * u;
      if (at >= packets) continue;
      if (own_row >= 0) x[u] = own[at];
      if (mixed && other_row >= 0) y[u] = other[at];
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const int64_t at = first + int64_t{blockDim.x} * u;
      if (at >= packets) continue;
      if (mixed)
#pragma unroll
        for (int e = 0; e < P; ++e) x[u].v[e] = from_acc<T>(a * to_acc(x[u].v[e]) + b * to_acc(y[u].v[e]));
      out[at] = x[u];
    }
  }
}

}  // namespace

cudaError_t launch_masked_mixup(const MixupParams& p, cudaStream_t stream) {
  if (p.samples == 0 || p.sample_size == 0) return cudaSuccess;
  return with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_packets<T>(p, [&](auto size) {
      constexpr int P = decltype(size)::value;
      const MixupGrid grid = mixup_grid(p.samples, p.sample_size / P, unroll);
      return launch(masked_mixup<T, P>, grid.blocks, grid.threads, p, stream);
    });
  });
}

}  // namespace gradmix::cuda
