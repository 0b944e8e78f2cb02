// csrc/cuda/runtime.cpp for the emulated device: CPU tensors, and no streams.
#include "cuda/runtime.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace gradmix::cuda {

bool on_device(const Tensor& t) { return t.is_cpu(); }
int32_t device_type() { return aoti_torch_device_type_cpu(); }
DeviceScope::DeviceScope(const Tensor&) {}

}  // namespace gradmix::cuda
