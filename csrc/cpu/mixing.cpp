#include "mixing.h"

namespace gradmix::cpu {

PartnerDraw::PartnerDraw(const char* op, const Tensor& target, const Tensor& pairs, const char* pairs_name,
                         const std::optional<Tensor>& noise, int64_t numbers_per_sample)
    : op_(op), pairs_name_(pairs_name) {
  check_cpu(target, op, "target");
  check_dim(target, 1, op, "target");
  samples_ = target.size(0);
  target_ = Column<int64_t>(target, samples_, op, "target");
  check_cpu(pairs, op, pairs_name);
  check_dim(pairs, 2, op, pairs_name);
  classes_ = pairs.size(0);
  check(pairs.size(1) == classes_, op, ": ", pairs_name, " must be square");
  check_labels(target_, samples_, classes_, ClassMask(std::nullopt, classes_, op), op, "target");
  const int64_t numbers = numbers_per_sample * samples_;
  noise_ = Column<double>(noise ? *noise : fill_uniform(empty({numbers}, ScalarType::Double)), numbers, op, "noise");
  partner = empty({samples_}, ScalarType::Long);
  mask = empty({samples_}, ScalarType::Bool);
}

Drawing PartnerDraw::drawing() const {
  return {op_,      pairs_name_, target_.data(), noise_.data(), samples_,
          classes_, static_cast<int64_t*>(partner.mutable_data_ptr()), static_cast<uint8_t*>(mask.mutable_data_ptr())};
}

}  // namespace gradmix::cpu
