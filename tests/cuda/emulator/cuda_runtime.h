// CUDA on the CPU, for tests: what csrc/cuda needs of <cuda_runtime.h>, so that a C++ compiler takes the very same sources.
//
// Each thread of a block is a fibre, and blocks run one after another. A fibre runs until it reaches a barrier or a warp primitive, or
// returns; the schedule decides who runs next. So a missing barrier shows as a wrong result under some schedule, and a barrier that not
// all threads reach is reported. Memory ordering within a barrier interval, and speed, are not those of a GPU.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719
};
using cudaStream_t = struct CUstream_st*;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulator {

// Where the running fibre is.
inline dim3 thread_index, block_index, block_size, grid_size;

struct Place {  // in the sources, of a barrier or a warp primitive
  const char* file;
  int line;
};

void sync_threads(Place place);
// All lanes of the warp hand in 64 bits; returns those of all.
const uint64_t* exchange(unsigned mask, uint64_t bits, Place place);
int lane();
// The one object for the block that a declaration stands for, all bits set when the block starts.
void* shared_memory(const void* declaration, size_t bytes);

using Call = void (*)(void (*)(), void**);
cudaError_t run(Call call, void (*kernel)(), void** arguments, dim3 grid, dim3 block);

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_lane(unsigned mask, T value, int source, Place place) {
  const uint64_t bits = exchange(mask, to_bits(value), place)[source];
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulator

#define threadIdx (::emulator::thread_index)
#define blockIdx (::emulator::block_index)
#define blockDim (::emulator::block_size)
#define gridDim (::emulator::grid_size)

#define __syncthreads() ::emulator::sync_threads({__FILE__, __LINE__})
#define GRADMIX_SHARED(type, name)  \
  static const char name##_declaration = 0; \
  auto& name = *static_cast<type*>(::emulator::shared_memory(&name##_declaration, sizeof(type)))

inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::exchange(mask, 0, {file, line});
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return emulator::from_lane(mask, value, source & 31, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return emulator::from_lane(mask, value, (emulator::lane() ^ bits) & 31, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int step, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const int own = emulator::lane();
  return emulator::from_lane(mask, value, own >= step ? own - step : own, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const uint64_t* votes = emulator::exchange(mask, vote != 0, {file, line});
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= static_cast<unsigned>((mask >> i & 1u) && votes[i] != 0) << i;
  return result;
}
// Fibres change places at barriers only, so nothing can come between.
template <class T>
T atomicAdd(T* at, T value) {
  return std::exchange(*at, *at + value);
}

template <class P>
cudaError_t cudaLaunchKernel(void (*kernel)(P), dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t) {
  const auto call = [](void (*f)(), void** values) { reinterpret_cast<void (*)(P)>(f)(*static_cast<P*>(values[0])); };
  return emulator::run(call, reinterpret_cast<void (*)()>(kernel), arguments, grid, block);
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  if (bytes > 0) std::memset(at, value, bytes);
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error);
