// Matrices [K, K] over the class pairs, checked for the bindings of every device.
#pragma once

#include <cmath>

#include "binding.h"

namespace gradmix {

inline void check_pairs(const Tensor& t, int64_t classes, ScalarType type, const char* op, const char* name) {
  check(t.scalar_type() == type, op, ": ", name, " has the wrong dtype");
  check(t.dim() == 2 && t.size(0) == classes && t.size(1) == classes, op, ": ", name, " must be square and as large as scores");
}

// The number of classes K that scores are for: float32 or float64, square.
inline int64_t score_classes(const Tensor& scores, const char* op) {
  const ScalarType type = scores.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::Double, op, ": scores must be float32 or float64");
  check_dim(scores, 2, op, "scores");
  check_pairs(scores, scores.size(0), type, op, "scores");
  return scores.size(0);
}

// How scores enter the moving averages, and which are then high enough.
inline void check_blending(double momentum, double threshold, const char* op) {
  check(momentum >= 0 && momentum < 1, op, ": momentum must be in [0, 1), got ", momentum);
  check(std::isfinite(threshold), op, ": threshold must be finite, got ", threshold);
}

}  // namespace gradmix
