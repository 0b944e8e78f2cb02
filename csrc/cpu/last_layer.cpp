#include "common/binding.h"

#include "last_layer.h"

#include <algorithm>

namespace gradmix::cpu {
namespace {

Tensor checked_rows(const Tensor& t, const char* op, const char* name) {
  check_cpu(t, op, name);
  check_dim(t, 2, op, name);
  data_type(t, op, name);
  return t.numel() > 0 && t.size(1) > 1 && t.stride(1) != 1 ? make_contiguous(t) : t;
}

std::vector<int64_t> positions(const Column<int64_t>& label, int64_t samples, const ClassMask& mask) {
  std::vector<int64_t> result(samples);
  for (int64_t i = 0; i < samples; ++i) result[i] = mask.position[label[i]];
  return result;
}

}  // namespace

int64_t row_spacing(int64_t width, int64_t element_size, int64_t pad) {
  int64_t spacing = (width + pad - 1) / pad * pad;
  if (spacing * element_size % 512 == 0) spacing += pad;
  return spacing;
}

LastLayer::LastLayer(const char* op, const Tensor& features_given, const Tensor& logits_given, const Tensor& target_given,
                     const std::optional<Tensor>& partner_given, const std::optional<Tensor>& lam_given,
                     const std::optional<Tensor>& class_mask, int64_t label_bound)
    : features(checked_rows(features_given, op, "features")),
      logits(checked_rows(logits_given, op, "logits")),
      dtype(data_type(logits, op, "logits")),
      samples(logits.size(0)),
      classes(logits.size(1)),
      feature_count(features.size(1)),
      mask(class_mask, classes, op),
      mixed(partner_given.has_value()) {
  check(data_type(features, op, "features") == dtype, op, ": features and logits must have one dtype");
  check(features.size(0) == samples, op, ": features and logits must have as many rows, got ", features.size(0), " and ",
        samples);
  check(partner_given.has_value() == lam_given.has_value(), op, ": partner_target and lam come together");
  const int64_t bound = std::min(classes, label_bound);
  target = Column<int64_t>(target_given, samples, op, "target");
  check_labels(target, samples, bound, mask, op, "target");
  if (mask.given) target_positions = positions(target, samples, mask);
  if (!mixed) return;
  partner_target = Column<int64_t>(*partner_given, samples, op, "partner_target");
  check_labels(partner_target, samples, bound, mask, op, "partner_target");
  if (mask.given) partner_positions = positions(partner_target, samples, mask);
  lam = PerSample(*lam_given, samples, dtype, op);
}

ResidualParams LastLayer::residual_to(void* delta, const Panels& panels, const int64_t* order) const {
  return {logits.const_data_ptr(), logits.stride(0), allowed_columns(), target_position(), partner_position(),
          lam.data(), lam.stride(), order, mask.allowed, dtype, delta, panels};
}

GatherParams LastLayer::features_to(void* out, const Panels& panels, const int64_t* order, int64_t first) const {
  const char* source = static_cast<const char*>(features.const_data_ptr()) + first * element_bytes(dtype);
  return {source, features.stride(0), order, feature_count - first, dtype, out, panels};
}

}  // namespace gradmix::cpu
