// The last-layer ops' common inputs: checked, converted to the accumulation type and restricted to the allowed classes.
#pragma once

#include <optional>
#include <vector>

#include "binding.h"
#include "kernels/kernels.h"

namespace gradmix::cpu {

// The distance between rows of `width` elements that are read together: not a multiple of 512 bytes.
int64_t row_spacing(int64_t width, int64_t element_size, int64_t pad);

struct LastLayer {
  LastLayer(const char* op, const Tensor& features, const Tensor& logits, const Tensor& target,
            const std::optional<Tensor>& partner_target, const std::optional<Tensor>& lam,
            const std::optional<Tensor>& class_mask, int64_t label_bound);

  // Positions of the labels among the allowed classes.
  const int64_t* target_position() const { return mask.given ? target_positions.data() : target.data(); }
  const int64_t* partner_position() const {
    return !mixed ? nullptr : mask.given ? partner_positions.data() : partner_target.data();
  }
  const int64_t* allowed_columns() const { return mask.given ? mask.columns.data() : nullptr; }

  // What the kernels need to lay out delta and the features, from the `first` on, of the samples in `order`.
  ResidualParams residual_to(void* delta, const Panels& panels, const int64_t* order) const;
  GatherParams features_to(void* out, const Panels& panels, const int64_t* order, int64_t first = 0) const;

  Tensor features, logits;  // rows with stride(1) == 1
  DType dtype;
  int64_t samples, classes, feature_count;
  ClassMask mask;
  bool mixed;  // two labels and lam
  Column<int64_t> target, partner_target;
  PerSample lam;
  std::vector<int64_t> target_positions, partner_positions;
};

}  // namespace gradmix::cpu
