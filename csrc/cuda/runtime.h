// Where the bindings meet PyTorch's CUDA: device and stream of a call, and memory on the device.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

namespace gradmix::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

bool on_device(const Tensor& t);
int32_t device_type();

// Makes the device of a tensor the current one for as long as it lives, and knows the current stream of that device.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& on);
  cudaStream_t stream() const { return stream_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace gradmix::cuda
