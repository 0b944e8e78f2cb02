#include "common/binding.h"

#include "cuda/runtime.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <stdexcept>

// Only a CUDA build of PyTorch has it; this library loads with the others as well.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace gradmix::cuda {

bool on_device(const Tensor& t) { return t.is_cuda(); }
int32_t device_type() { return aoti_torch_device_type_cuda(); }

DeviceScope::DeviceScope(const Tensor& on) {
  if (aoti_torch_get_current_cuda_stream == nullptr) throw std::runtime_error("this PyTorch is a build without CUDA");
  const int32_t device = on.get_device_index();
  guard_.emplace(device);
  // The CUDA runtime in this library is its own (it is linked statically) and has to be told as well.
  if (const cudaError_t error = cudaSetDevice(device); error != cudaSuccess)
    throw std::runtime_error(cudaGetErrorString(error));
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  stream_ = static_cast<cudaStream_t>(stream);
}

}  // namespace gradmix::cuda
