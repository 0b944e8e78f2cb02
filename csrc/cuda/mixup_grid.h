// How a batch is spread over threads: x along a sample, y over samples, so that short samples fill a block as well.
#pragma once

#include <type_traits>

#include "cuda/device.h"

namespace gradmix::cuda {

constexpr int mixup_threads = 256;

struct MixupGrid {
  dim3 threads;
  int64_t blocks;
};

// `packets` in a sample, of which a thread handles up to `unroll`.
inline MixupGrid mixup_grid(int64_t samples, int64_t packets, int unroll) {
  int along = 1;
  while (along < mixup_threads && along * unroll < packets) along *= 2;
  const int across = mixup_threads / along;
  const int64_t tasks = blocks_for(samples, across) * blocks_for(packets, int64_t{along} * unroll);
  return {dim3(along, across), tasks < most_blocks ? tasks : most_blocks};
}

// The part of the batch that is a block's: one chunk of a row of samples after another.
struct MixupTasks {
  int64_t chunk;
  int64_t chunks;
  int64_t count;
  __device__ MixupTasks(int64_t samples, int64_t packets, int unroll)
      : chunk(int64_t{blockDim.x} * unroll),
        chunks((packets + chunk - 1) / chunk),
        count((samples + blockDim.y - 1) / blockDim.y * chunks) {}
  __device__ int64_t sample(int64_t task) const { return (chunks == 1 ? task : task / chunks) * blockDim.y + threadIdx.y; }
  __device__ int64_t first(int64_t task) const { return (chunks == 1 ? 0 : task % chunks * chunk) + threadIdx.x; }
};

// Calls f with the number of elements that fit one access: all samples have to start where such an access may.
template <class T, class F>
cudaError_t with_packets(const MixupParams& p, F&& f) {
  constexpr int wide = packet_size<T>;
  const bool packed = aligned(p.x) && aligned(p.out) && p.sample_size % wide == 0;
  return packed ? f(std::integral_constant<int, wide>{}) : f(std::integral_constant<int, 1>{});
}

}  // namespace gradmix::cuda
