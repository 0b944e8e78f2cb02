// blend_scores and observe_scores on CUDA tensors.
#include "common/binding.h"

#include "common/class_pairs.h"
#include "cuda/cuda_last_layer.h"

namespace gradmix::cuda {
namespace {

// The moving averages [K, K] of the class pairs, checked.
class Averages {
 public:
  Averages(const char* op, const Tensor& scores, const Tensor& scored, const Tensor& allowed, double momentum, double threshold)
      : type(scores.scalar_type()), classes(score_classes(scores, op)), op_(op), scores_(scores), scored_(scored), allowed_(allowed),
        momentum_(momentum), threshold_(threshold) {
    for (const auto& [pairs, name] : {std::pair{scored, "scored"}, {allowed, "allowed"}}) {
      check_device(pairs, scores, op, name);
      check_pairs(pairs, classes, ScalarType::Bool, op, name);
    }
    check_blending(momentum, threshold, op);
  }

  // The values [N] of this type enter the averages of the cells [N] of their pairs.
  void blend(const Tensor& value, const int64_t* cells, const DeviceScope& scope) {
    const int64_t samples = value.size(0);
    const Order order = order_by_cell(scores_, cells, samples, classes * classes, op_, scope.stream());
    check_launch(launch_blend_scores({{value.const_data_ptr(), order.samples(), order.keys(), samples},
                                      classes,
                                      scores_.mutable_data_ptr(),
                                      scores_.stride(0),
                                      scores_.stride(1),
                                      static_cast<uint8_t*>(scored_.mutable_data_ptr()),
                                      scored_.stride(0),
                                      scored_.stride(1),
                                      static_cast<uint8_t*>(allowed_.mutable_data_ptr()),
                                      allowed_.stride(0),
                                      allowed_.stride(1),
                                      momentum_,
                                      threshold_,
                                      type == ScalarType::Double},
                                     scope.stream()),
                 op_);
  }

  const ScalarType type;
  const int64_t classes;

 private:
  const char* op_;
  Tensor scores_, scored_, allowed_;
  double momentum_, threshold_;
};

void blend_scores(Tensor scores, Tensor scored, Tensor allowed, const Tensor& value, const Tensor& target,
                  const Tensor& partner_target, double momentum, double threshold) {
  constexpr const char* op = "blend_scores";
  check_device(scores, op, "scores");
  const DeviceScope scope(scores);
  Averages averages(op, scores, scored, allowed, momentum, threshold);
  check_device(value, scores, op, "value");
  check_dim(value, 1, op, "value");
  check(value.scalar_type() == averages.type, op, ": value must have the dtype of scores");
  const int64_t samples = value.size(0);
  const Column own = indices(target, scores, samples, op, "target"), other = indices(partner_target, scores, samples, op, "partner_target");
  if (samples == 0) return;
  Tensor cell = empty(scores, {samples}, ScalarType::Long);
  int64_t* cells = static_cast<int64_t*>(cell.mutable_data_ptr());
  check_launch(launch_pair_cells({own.indices(), other.indices(), samples, averages.classes, cells}, scope.stream()), op);
  averages.blend(make_contiguous(value), cells, scope);
}

void observe_scores(Tensor scores, Tensor scored, Tensor allowed, const Tensor& features, const Tensor& logits, const Tensor& target,
                    const Tensor& partner_target, const Tensor& lam, const Tensor& direction_weight, const Tensor& direction_bias,
                    double momentum, double threshold, const std::optional<Tensor>& class_mask) {
  constexpr const char* op = "observe_scores";
  check_device(scores, op, "scores");
  const DeviceScope scope(scores);
  Averages averages(op, scores, scored, allowed, momentum, threshold);
  check_device(logits, scores, op, "logits");
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask);
  Tensor cell = empty(logits, {in.samples}, ScalarType::Long);
  int64_t* cells = static_cast<int64_t*>(cell.mutable_data_ptr());
  const Tensor value = score_samples(op, in, direction_weight, direction_bias, averages.classes, cells, scope);
  if (in.samples > 0) averages.blend(to_dtype(value, averages.type), cells, scope);
}

}  // namespace
}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) {
  m.impl("blend_scores", TORCH_BOX(&gradmix::cuda::blend_scores));
  m.impl("observe_scores", TORCH_BOX(&gradmix::cuda::observe_scores));
}
