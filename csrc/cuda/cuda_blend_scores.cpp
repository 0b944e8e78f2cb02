// blend_scores on CUDA tensors.
#include "cuda/binding.h"

namespace gradmix::cuda {
namespace {

constexpr const char* op = "blend_scores";

void check_pairs(const Tensor& t, const Tensor& like, int64_t classes, ScalarType type, const char* name) {
  check_device(t, like, op, name);
  check(t.scalar_type() == type, op, ": ", name, " has the wrong dtype");
  check(t.dim() == 2 && t.size(0) == classes && t.size(1) == classes, op, ": ", name, " must be square and as large as scores");
}

void blend_scores(Tensor scores, Tensor scored, Tensor allowed, const Tensor& value, const Tensor& target,
                  const Tensor& partner_target, double momentum, double threshold) {
  check_device(scores, op, "scores");
  const DeviceScope scope(scores);
  const ScalarType type = scores.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::Double, op, ": scores must be float32 or float64");
  check_dim(scores, 2, op, "scores");
  const int64_t classes = scores.size(0);
  check_pairs(scores, scores, classes, type, "scores");
  check_pairs(scored, scores, classes, ScalarType::Bool, "scored");
  check_pairs(allowed, scores, classes, ScalarType::Bool, "allowed");
  check_device(value, scores, op, "value");
  check_dim(value, 1, op, "value");
  check(value.scalar_type() == type, op, ": value must have the dtype of scores");
  const int64_t samples = value.size(0);
  const Column own = indices(target, scores, samples, op, "target"), other = indices(partner_target, scores, samples, op, "partner_target");
  if (samples == 0) return;
  const Tensor values = make_contiguous(value);
  Tensor cell = empty(scores, {samples}, ScalarType::Long);
  int64_t* cells = static_cast<int64_t*>(cell.mutable_data_ptr());
  check_launch(launch_pair_cells({own.indices(), other.indices(), samples, classes, cells}, scope.stream()), op);
  const Order order = order_by_cell(scores, cells, samples, classes * classes, op, scope.stream());
  check_launch(launch_blend_scores({{values.const_data_ptr(), order.samples(), order.keys(), samples},
                                    classes,
                                    scores.mutable_data_ptr(),
                                    scores.stride(0),
                                    scores.stride(1),
                                    static_cast<uint8_t*>(scored.mutable_data_ptr()),
                                    scored.stride(0),
                                    scored.stride(1),
                                    static_cast<uint8_t*>(allowed.mutable_data_ptr()),
                                    allowed.stride(0),
                                    allowed.stride(1),
                                    momentum,
                                    threshold,
                                    type == ScalarType::Double},
                                   scope.stream()),
               op);
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) { m.impl("blend_scores", TORCH_BOX(&gradmix::cuda::blend_scores)); }
