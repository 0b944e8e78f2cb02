// What every kernel needs: element types, packets, reductions over a warp and a block, the launch.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "common/dtype.h"
#include "cuda/convert.h"
#include "cuda/kernels.h"

// An array or a struct in the memory that the threads of a block share.
#ifndef GRADMIX_SHARED
#define GRADMIX_SHARED(type, name) __shared__ type name
#endif

namespace gradmix::cuda {

constexpr unsigned all_lanes = 0xffffffffu;
constexpr int warp_lanes = 32;

// Calls f with a value of the element type.
template <class F>
cudaError_t with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::f16:
      return f(f16{});
    case DType::bf16:
      return f(bf16{});
  }
  return cudaErrorInvalidValue;
}
// Calls f with a value of the accumulation type.
template <class F>
cudaError_t with_acc(bool wide, F&& f) {
  return wide ? f(double{}) : f(float{});
}

// P elements that are read or written at once.
template <class T, int P>
struct alignas(P * sizeof(T)) Packet {
  T v[P];
};
// Elements in 16 bytes, the widest access of a thread.
template <class T>
constexpr int packet_size = 16 / sizeof(T);

inline bool aligned(const void* p, size_t bytes = 16) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

template <class A>
__device__ A value_at(const PerSample& w, int64_t i) {
  const int64_t at = i * w.stride;
  switch (w.dtype) {
    case DType::f32:
      return static_cast<A>(static_cast<const float*>(w.data)[at]);
    case DType::f64:
      return static_cast<A>(static_cast<const double*>(w.data)[at]);
    case DType::f16:
      return static_cast<A>(to_acc(static_cast<const f16*>(w.data)[at]));
    default:
      return static_cast<A>(to_acc(static_cast<const bf16*>(w.data)[at]));
  }
}

// The position in [0, count) that a number in [0, 1) stands for; numbers outside, NaN too, cannot lead outside.
template <class A>
__device__ int64_t position_of(A noise, int64_t count) {
  const A at = noise * static_cast<A>(count);
  if (!(at > 0)) return 0;
  return at < static_cast<A>(count) ? static_cast<int64_t>(at) : count - 1;
}

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float logarithm(float x) { return logf(x); }
__device__ inline double logarithm(double x) { return log(x); }
// Within one unit in the last place in float32: exact division is a call.
__device__ inline float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("rcp.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1 / x;
#endif
}
__device__ inline double reciprocal(double x) { return 1 / x; }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline double larger(double a, double b) { return fmax(a, b); }

// Every lane gets the same result: the butterfly adds the same pairs in each.
template <class A>
__device__ A warp_sum(A value) {
#pragma unroll
  for (int step = warp_lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(all_lanes, value, step);
  return value;
}
template <class A>
__device__ A warp_max(A value) {
#pragma unroll
  for (int step = warp_lanes / 2; step > 0; step /= 2) value = larger(value, __shfl_xor_sync(all_lanes, value, step));
  return value;
}

// The sum of the values of this lane and of those left of it.
template <class A>
__device__ A warp_prefix_sum(A value) {
  const int lane = threadIdx.x % warp_lanes;
#pragma unroll
  for (int step = 1; step < warp_lanes; step *= 2) {
    const A left = __shfl_up_sync(all_lanes, value, step);
    if (lane >= step) value += left;
  }
  return value;
}

// Sums over a block of up to 32 whole warps, for all its threads. `parts` is not to be reused without a barrier.
template <class A>
using WarpParts = A[warp_lanes];
template <class A>
__device__ A block_sum(A value, WarpParts<A>& parts) {
  const int lane = threadIdx.x % warp_lanes, warps = blockDim.x / warp_lanes;
  value = warp_sum(value);
  if (lane == 0) parts[threadIdx.x / warp_lanes] = value;
  __syncthreads();
  return warp_sum(lane < warps ? parts[lane] : A(0));
}
template <class A>
__device__ A block_max(A value, WarpParts<A>& parts) {
  const int lane = threadIdx.x % warp_lanes, warps = blockDim.x / warp_lanes;
  value = warp_max(value);
  if (lane == 0) parts[threadIdx.x / warp_lanes] = value;
  __syncthreads();
  return warp_max(parts[lane < warps ? lane : 0]);
}

constexpr int64_t most_blocks = 0x7fffffff;
inline int64_t blocks_for(int64_t work, int64_t per_block) { return (work + per_block - 1) / per_block; }

// Blocks in one dimension, whose limit is 2^31 - 1; no blocks, no launch.
template <class P>
cudaError_t launch(void (*kernel)(P), int64_t blocks, dim3 threads, P params, cudaStream_t stream) {
  if (blocks <= 0) return cudaSuccess;
  if (blocks > most_blocks) return cudaErrorInvalidConfiguration;
  void* arguments[] = {&params};
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), threads, arguments, 0, stream);
}

}  // namespace gradmix::cuda
