// CUDA on the CPU, for tests: what csrc/cuda needs of <cuda_runtime.h>, so that a C++ compiler takes the very same sources.
//
// Each thread of a block is a fibre, and blocks run one after another. A fibre runs until it reaches a barrier or a warp primitive, or
// returns; the schedule decides who runs next. So a missing barrier shows as a wrong result under some schedule, and a barrier that not
// all threads reach is reported. Memory ordering within a barrier interval, and speed, are not those of a GPU.
#pragma once

#include <array>
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
  cudaErrorNoKernelImageForDevice = 209,
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
void sync_warp(unsigned mask, Place place);
// All lanes of the warp hand in a parcel; returns those of all.
using Parcel = std::array<uint64_t, 3>;
const Parcel* exchange(unsigned mask, const Parcel& parcel, Place place);
int lane();
// The one object for the block that a declaration stands for, all bits set when the block starts.
void* shared_memory(const void* declaration, size_t bytes);

using Call = void (*)(void (*)(), void**);
cudaError_t run(Call call, void (*kernel)(), void** arguments, dim3 grid, dim3 block);

template <class T>
Parcel pack(const T& value) {
  static_assert(sizeof(T) <= sizeof(Parcel));
  Parcel parcel{};
  std::memcpy(&parcel, &value, sizeof value);
  return parcel;
}
template <class T>
T unpack(const Parcel& parcel) {
  T value;
  std::memcpy(&value, &parcel, sizeof value);
  return value;
}
template <class T>
T from_lane(unsigned mask, T value, int source, Place place) {
  return unpack<T>(exchange(mask, pack(value), place)[source]);
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
  emulator::sync_warp(mask, {file, line});
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
  const emulator::Parcel* votes = emulator::exchange(mask, emulator::pack(vote), {file, line});
  unsigned result = 0;
  for (int i = 0; i < 32; ++i)
    result |= static_cast<unsigned>((mask >> i & 1u) && emulator::unpack<int>(votes[i]) != 0) << i;
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
