// sample_scores and pair_scores on CUDA tensors: one product [N, d] x [d, C], everything else in one pass over it.
#include "common/binding.h"

#include <tuple>

#include "cuda/cuda_last_layer.h"

namespace gradmix::cuda {
namespace {

Tensor direction(const char* op, const Tensor& t, const Tensor& like, DType dtype, const char* name) {
  check_device(t, like, op, name);
  data_type(t, op, name);
  return make_contiguous(to_dtype(t, acc_scalar_type(dtype)));
}

}  // namespace

Tensor score_samples(const char* op, const LastLayer& in, const Tensor& direction_weight, const Tensor& direction_bias,
                     int64_t pair_classes, int64_t* cell, const DeviceScope& scope) {
  check_dim(direction_weight, 2, op, "direction_weight");
  check_dim(direction_bias, 1, op, "direction_bias");
  check(direction_weight.size(0) == in.classes && direction_weight.size(1) == in.depth &&
            direction_bias.size(0) == in.classes,
        op, ": direction_weight and direction_bias must have the shape of the head");
  const Tensor& logits = in.logits;
  const ScalarType acc = acc_scalar_type(in.dtype);
  const Tensor weight = direction(op, direction_weight, logits, in.dtype, "direction_weight");
  const Tensor bias = direction(op, direction_bias, logits, in.dtype, "direction_bias");
  Tensor value = empty(logits, {in.samples}, acc);
  if (in.samples == 0) return value;
  Tensor projected = empty(logits, {in.samples, in.classes}, acc);
  check_launch(launch_project_features({in.features.const_data_ptr(), in.features.stride(0), weight.const_data_ptr(), in.samples,
                                        in.classes, in.depth, projected.mutable_data_ptr(), in.dtype},
                                       scope.stream()),
               op);
  check_launch(launch_pair_values({in.params, projected.const_data_ptr(), bias.const_data_ptr(), pair_classes,
                                   value.mutable_data_ptr(), cell},
                                  scope.stream()),
               op);
  return value;
}

namespace {

Tensor sample_scores(const Tensor& features, const Tensor& logits, const Tensor& target, const Tensor& partner_target,
                     const Tensor& lam, const Tensor& direction_weight, const Tensor& direction_bias,
                     const std::optional<Tensor>& class_mask) {
  constexpr const char* op = "sample_scores";
  check_device(logits, op, "logits");
  const DeviceScope scope(logits);
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask);
  return score_samples(op, in, direction_weight, direction_bias, 0, nullptr, scope);
}

std::tuple<Tensor, Tensor> pair_scores(const Tensor& features, const Tensor& logits, const Tensor& target,
                                       const Tensor& partner_target, const Tensor& lam, const Tensor& direction_weight,
                                       const Tensor& direction_bias, int64_t num_classes,
                                       const std::optional<Tensor>& class_mask) {
  constexpr const char* op = "pair_scores";
  check_device(logits, op, "logits");
  const DeviceScope scope(logits);
  check(num_classes >= 0, op, ": num_classes must not be negative, got ", num_classes);
  const LastLayer in(op, features, logits, target, partner_target, lam, class_mask);
  return pair_sums(op, in, direction_weight, direction_bias, num_classes, scope);
}

}  // namespace

std::tuple<Tensor, Tensor> pair_sums(const char* op, const LastLayer& in, const Tensor& direction_weight, const Tensor& direction_bias,
                                     int64_t num_classes, const DeviceScope& scope) {
  const Tensor& logits = in.logits;
  Tensor cell = empty(logits, {in.samples}, ScalarType::Long);
  int64_t* cells = static_cast<int64_t*>(cell.mutable_data_ptr());
  const Tensor value = score_samples(op, in, direction_weight, direction_bias, num_classes, cells, scope);
  Tensor score_sum = zeros(logits, {num_classes, num_classes}, acc_scalar_type(in.dtype));
  Tensor count = zeros(logits, {num_classes, num_classes}, ScalarType::Long);
  if (in.samples == 0) return {score_sum, count};
  const Order order = order_by_cell(logits, cells, in.samples, num_classes * num_classes, op, scope.stream());
  check_launch(launch_pair_sums({{value.const_data_ptr(), order.samples(), order.keys(), in.samples},
                                 num_classes,
                                 score_sum.mutable_data_ptr(),
                                 static_cast<int64_t*>(count.mutable_data_ptr()),
                                 is_wide(in.dtype)},
                                scope.stream()),
               op);
  return {score_sum, count};
}

}  // namespace gradmix::cuda

GRADMIX_CUDA_LIBRARY(m) {
  m.impl("sample_scores", TORCH_BOX(&gradmix::cuda::sample_scores));
  m.impl("pair_scores", TORCH_BOX(&gradmix::cuda::pair_scores));
}
