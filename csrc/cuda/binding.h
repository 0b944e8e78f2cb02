// What the CUDA bindings need beyond common/binding.h: checks that need no synchronisation, arguments as the kernels take them, memory.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/binding.h"
#include "cuda/kernels.h"
#include "cuda/runtime.h"

// The tests build these bindings once more, for the emulated device and under another name.
#ifndef GRADMIX_CUDA_NAMESPACE
#define GRADMIX_CUDA_NAMESPACE gradmix_ext
#define GRADMIX_CUDA_KEY CUDA
#endif
#define GRADMIX_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(GRADMIX_CUDA_NAMESPACE, GRADMIX_CUDA_KEY, m)

namespace gradmix::cuda {

inline void check_launch(cudaError_t error, const char* op) {
  check(error != cudaErrorNoKernelImageForDevice, op,
        ": the CUDA kernels were compiled for GPUs of compute capability ", GRADMIX_EXT_CUDA_ARCHS,
        ", and this one is none of them: name it in TORCH_CUDA_ARCH_LIST, or GRADMIX_EXT_BACKEND=cpp runs pure PyTorch on it");
  check(error == cudaSuccess, op, ": ", cudaGetErrorString(error));
}

// On the device, that of `like` where there is one.
void check_device(const Tensor& t, const char* op, const char* name);
void check_device(const Tensor& t, const Tensor& like, const char* op, const char* name);

// A contiguous vector of `expected` elements, copied where it is not; keeps the copy.
class Column {
 public:
  Column() = default;
  Column(const Tensor& t, const Tensor& like, int64_t expected, ScalarType type, const char* op, const char* name);
  const int64_t* indices() const { return static_cast<const int64_t*>(data_); }
  const uint8_t* flags() const { return static_cast<const uint8_t*>(data_); }
  const double* numbers() const { return static_cast<const double*>(data_); }

 private:
  std::optional<Tensor> held_;
  const void* data_ = nullptr;
};
inline Column indices(const Tensor& t, const Tensor& like, int64_t expected, const char* op, const char* name) {
  return Column(t, like, expected, ScalarType::Long, op, name);
}
inline Column flags(const std::optional<Tensor>& t, const Tensor& like, int64_t expected, const char* op, const char* name) {
  return t ? Column(*t, like, expected, ScalarType::Bool, op, name) : Column();
}
// One number for the batch or one per sample, read where it lies.
PerSample per_sample(const Tensor& t, const Tensor& like, int64_t samples, const char* op, const char* name);

Tensor empty_strided(const Tensor& like, Shape sizes, Shape strides, ScalarType dtype);
Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype);
Tensor zeros(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype);
// Rows whose elements lie side by side.
Tensor readable_rows(const Tensor& t);

// Samples in the stable order of a key, and where each key starts.
struct Order {
  Tensor order, key;
  std::optional<Tensor> offsets;
  const int64_t* samples() const { return static_cast<const int64_t*>(order.const_data_ptr()); }
  const int64_t* keys() const { return static_cast<const int64_t*>(key.const_data_ptr()); }
  const int64_t* starts() const { return static_cast<const int64_t*>(offsets->const_data_ptr()); }
};
// By index: samples that the mask leaves out, or whose index is not in [0, bound), come last. `count` takes the size of each group.
Order order_by_index(const Tensor& like, const int64_t* index, const uint8_t* mask, int64_t samples, int64_t bound,
                     int64_t* count, const char* op, cudaStream_t stream);
// By index without the starts, for many possible indices.
Order order_by_cell(const Tensor& like, const int64_t* cell, int64_t samples, int64_t bound, const char* op,
                    cudaStream_t stream);
Order order_by_noise(const Tensor& like, const double* noise, int64_t samples, const char* op, cudaStream_t stream);

}  // namespace gradmix::cuda
