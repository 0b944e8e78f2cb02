#include "common/binding.h"

#include "cuda/cuda_last_layer.h"

namespace gradmix::cuda {
namespace {

Tensor checked_rows(const Tensor& t, const char* op, const char* name) {
  check_device(t, op, name);
  check_dim(t, 2, op, name);
  data_type(t, op, name);
  return readable_rows(t);
}

int64_t group_count(const char* op, const LastLayer& in, std::optional<int64_t> num_groups) {
  const int64_t count = num_groups.value_or(in.classes);
  check(count >= 0, op, ": num_groups must not be negative, got ", count);
  return count;
}

Order order_by_group(const char* op, const LastLayer& in, const std::optional<Tensor>& groups, Tensor& count,
                     const DeviceScope& scope) {
  const Column given = groups ? indices(*groups, in.logits, in.samples, op, "groups") : in.target;
  return order_by_index(in.logits, given.indices(), nullptr, in.samples, count.size(0),
                        static_cast<int64_t*>(count.mutable_data_ptr()), op, scope.stream());
}

}  // namespace

LabelledLogits::LabelledLogits(const char* op, const Tensor& logits_given, const Tensor& target_given,
                               const std::optional<Tensor>& partner_given, const std::optional<Tensor>& lam,
                               const std::optional<Tensor>& mask_given)
    : logits(checked_rows(logits_given, op, "logits")),
      dtype(data_type(logits, op, "logits")),
      samples(logits.size(0)),
      classes(logits.size(1)),
      target(indices(target_given, logits, samples, op, "target")),
      class_mask(flags(mask_given, logits, classes, op, "class_mask")) {
  check(partner_given.has_value() == lam.has_value(), op, ": partner_target and lam come together");
  PerSample weight{};
  if (partner_given) {
    partner_target = indices(*partner_given, logits, samples, op, "partner_target");
    weight = per_sample(*lam, logits, samples, op, "lam");
  }
  params = {logits.const_data_ptr(), logits.stride(0), class_mask.flags(), target.indices(), partner_target.indices(), weight,
            samples, classes, dtype};
}

LastLayer::LastLayer(const char* op, const Tensor& features_given, const Tensor& logits_given, const Tensor& target_given,
                     const std::optional<Tensor>& partner_given, const std::optional<Tensor>& lam,
                     const std::optional<Tensor>& mask_given)
    : LabelledLogits(op, logits_given, target_given, partner_given, lam, mask_given),
      features(checked_rows(features_given, op, "features")),
      depth(features.size(1)) {
  check_device(features, logits, op, "features");
  check(data_type(features, op, "features") == dtype, op, ": features and logits must have one dtype");
  check(features.size(0) == samples, op, ": features and logits must have as many rows, got ", features.size(0), " and ",
        samples);
}

GroupedSamples::GroupedSamples(const char* op, const LastLayer& in, const std::optional<Tensor>& groups,
                               std::optional<int64_t> num_groups, const std::string& reduction, const DeviceScope& scope)
    : count(empty(in.logits, {group_count(op, in, num_groups)}, ScalarType::Long)),
      order(order_by_group(op, in, groups, count, scope)),
      delta(empty(in.logits, {in.samples, in.classes}, acc_scalar_type(in.dtype))) {
  check(reduction == "mean" || reduction == "sum", op, ": reduction must be mean or sum, got ", reduction);
  check_launch(launch_residual({in.params, order.samples(), delta.mutable_data_ptr()}, scope.stream()), op);
  params = {delta.const_data_ptr(), in.features.const_data_ptr(), in.features.stride(0), order.samples(), order.keys(),
            order.starts(), in.samples, in.classes, in.depth, count.size(0), reduction == "mean", in.dtype};
}

}  // namespace gradmix::cuda
