// Kernels that are wrong on purpose, and small ones that are right: what the emulator has to catch and to compute.
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/mma.h"

namespace {

constexpr int threads = 64;
using Row = float[threads];

struct ReverseParams {
  const float* in;
  float* out;
  bool barrier;
};
__global__ void reverse(ReverseParams p) {
  GRADMIX_SHARED(Row, row);
  row[threadIdx.x] = p.in[blockIdx.x * threads + threadIdx.x];
  if (p.barrier) __syncthreads();
  p.out[blockIdx.x * threads + threadIdx.x] = row[threads - 1 - threadIdx.x];
}

struct WriteParams {
  float* out;
  int64_t count;
  bool shared;
};
__global__ void write_beyond(WriteParams p) {
  GRADMIX_SHARED(Row, row);
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;  // no check against count
  if (p.shared)
    row[i] = 1;
  else
    p.out[i] = 1;
}

struct DivergeParams {
  int kind;
  float* out;
};
__global__ void diverge(DivergeParams p) {
  if (p.kind == 0) {
    if (threadIdx.x < 10) __syncthreads();  // the others return
  } else if (p.kind == 1) {
    if (threadIdx.x < 10)
      __syncthreads();
    else
      __syncthreads();
  } else if (threadIdx.x != 5) {
    p.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);  // lane 5 is missing
  }
}

struct WarpParams {
  int32_t* out;  // [6 * 64]
};
__global__ void warp(WarpParams p) {
  const int t = threadIdx.x, lane = t % 32;
  p.out[t] = __shfl_sync(0xffffffffu, t, 3);
  p.out[threads + t] = __shfl_up_sync(0xffffffffu, t, 2);
  p.out[2 * threads + t] = __shfl_xor_sync(0xffffffffu, t, 5);
  p.out[3 * threads + t] = static_cast<int32_t>(__ballot_sync(0xffffffffu, lane % 3 == 0));
  __syncwarp();
  atomicAdd(p.out + 4 * threads + t % 4, 1);
  p.out[5 * threads + t] = static_cast<int32_t>(blockDim.x * 1000 + gridDim.x);
}

struct MultiplyParams {
  const uint32_t *a, *b;  // [32, 4] and [32, 2]: the words of each lane
  float* sum;             // [32, 4]
};
__global__ void multiply(MultiplyParams p) {
  const uint32_t *a = p.a + 4 * threadIdx.x, *b = p.b + 2 * threadIdx.x;
  float* sum = p.sum + 4 * threadIdx.x;
  const uint32_t words[4] = {a[0], a[1], a[2], a[3]};
  float result[4] = {sum[0], sum[1], sum[2], sum[3]};
  gradmix::cuda::mma_bf16(result, words, b[0], b[1]);
  for (int i = 0; i < 4; ++i) sum[i] = result[i];
}

struct RoundParams {
  const float* in;  // [64, 2]
  uint32_t* out;    // [64]
};
__global__ void round_pairs(RoundParams p) {
  p.out[threadIdx.x] = gradmix::cuda::pack_bf16(p.in[2 * threadIdx.x], p.in[2 * threadIdx.x + 1]);
}

template <class P>
int launch(void (*kernel)(P), P params, int blocks, int block = threads) {
  void* arguments[] = {&params};
  return cudaLaunchKernel(kernel, dim3(blocks), dim3(block), arguments, 0, nullptr);
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {
int run_reverse(const float* in, float* out, int blocks, int barrier) {
  return launch(reverse, {in, out, barrier != 0}, blocks);
}
int run_write_beyond(float* out, int64_t count, int blocks, int shared) {
  return launch(write_beyond, {out, count, shared != 0}, blocks);
}
int run_diverge(int kind, float* out) { return launch(diverge, {kind, out}, 2); }
int run_warp(int32_t* out) { return launch(warp, {out}, 1); }
int run_multiply(const uint32_t* a, const uint32_t* b, float* sum) { return launch(multiply, {a, b, sum}, 1, 32); }
int run_round_pairs(const float* in, uint32_t* out) { return launch(round_pairs, {in, out}, 1); }
int run_too_large(int32_t* out) { return launch(warp, {out}, 1, 2048); }
}
#pragma GCC visibility pop
