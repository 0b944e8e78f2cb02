#include "common/binding.h"

#include "mixing.h"

namespace gradmix::cpu {

PartnerDraw::PartnerDraw(const char* op, const Tensor& target_given, const Tensor& pairs, const char* pairs_name,
                         const std::optional<Tensor>& noise_given, int64_t numbers_per_sample)
    : Drawing{op, pairs_name} {
  check_cpu(target_given, op, "target");
  check_dim(target_given, 1, op, "target");
  samples = target_given.size(0);
  target_ = Column<int64_t>(target_given, samples, op, "target");
  check_cpu(pairs, op, pairs_name);
  check_dim(pairs, 2, op, pairs_name);
  classes = pairs.size(0);
  check(pairs.size(1) == classes, op, ": ", pairs_name, " must be square");
  check_labels(target_, samples, classes, ClassMask(std::nullopt, classes, op), op, "target");
  const int64_t numbers = numbers_per_sample * samples;
  noise_ = Column<double>(noise_given ? *noise_given : fill_uniform(empty({numbers}, ScalarType::Double)), numbers, op, "noise");
  partners = empty({samples}, ScalarType::Long);
  masks = empty({samples}, ScalarType::Bool);
  target = target_.data();
  noise = noise_.data();
  partner = static_cast<int64_t*>(partners.mutable_data_ptr());
  mask = static_cast<uint8_t*>(masks.mutable_data_ptr());
}

}  // namespace gradmix::cpu
