// pair_preferences on CUDA tensors.
#include "common/binding.h"

#include "common/class_pairs.h"
#include "cuda/binding.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "pair_preferences";

Tensor pair_preferences(const Tensor& scores, const Tensor& scored, double temperature) {
  check_device(scores, op, "scores");
  const DeviceScope scope(scores);
  check_device(scored, scores, op, "scored");
  const ScalarType type = scores.scalar_type();
  const int64_t classes = score_classes(scores, op);
  check_pairs(scored, classes, ScalarType::Bool, op, "scored");
  check(temperature > 0, op, ": temperature must be positive, got ", temperature);
  const Tensor values = make_contiguous(scores), known = make_contiguous(scored);
  Tensor preference = empty(scores, {classes, classes}, type);
  check_launch(launch_pair_preferences({values.const_data_ptr(), static_cast<const uint8_t*>(known.const_data_ptr()), classes * classes,
                                        temperature, preference.mutable_data_ptr(), type == ScalarType::Double},
                                       scope.stream()),
               op);
  return preference;
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("pair_preferences", TORCH_BOX(&gradmix::cuda::pair_preferences)); }
