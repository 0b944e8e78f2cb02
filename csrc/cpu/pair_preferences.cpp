// pair_preferences: the scores of class pairs, relative to their mean and spread.
#include <algorithm>
#include <cmath>

#include "binding.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "pair_preferences";

template <class A>
void standardise(const A* score, const uint8_t* scored, int64_t pairs, double temperature, A* preference) {
  const auto each = [&](const auto& f) {
    for (int64_t k = 0; k < pairs; ++k)
      if (scored[k] != 0) f(static_cast<double>(score[k]));
  };
  // In float64: squares of small scores would vanish in float32. From the best on, so that scores which are all alike have no spread
  // whatever their sum is rounded to.
  double best = -INFINITY, sum = 0, squares = 0;
  int64_t count = 0;
  each([&](double s) { best = std::max(best, s), ++count; });
  each([&](double s) { sum += s - best; });
  const double number = static_cast<double>(std::max<int64_t>(count, 1)), mean = sum / number;
  each([&](double s) { squares += (s - best - mean) * (s - best - mean); });
  const double spread = std::sqrt(squares / number);
  for (int64_t k = 0; k < pairs; ++k) {
    const double relative = (static_cast<double>(score[k]) - best - mean) / (temperature * spread);
    preference[k] = scored[k] == 0 || spread == 0 ? A(0) : static_cast<A>(relative);
  }
}

Tensor pair_preferences(const Tensor& scores, const Tensor& scored, double temperature) {
  check_cpu(scores, op, "scores");
  check_cpu(scored, op, "scored");
  const ScalarType type = scores.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::Double, op, ": scores must be float32 or float64");
  check(scored.scalar_type() == ScalarType::Bool, op, ": scored must be bool");
  check(scores.dim() == 2 && scores.size(0) == scores.size(1), op, ": scores must be square");
  const int64_t classes = scores.size(0);
  check(scored.dim() == 2 && scored.size(0) == classes && scored.size(1) == classes, op, ": scored must be as large as scores");
  check(temperature > 0, op, ": temperature must be positive, got ", temperature);
  const Tensor values = make_contiguous(scores), known = make_contiguous(scored);
  const Tensor preference = empty({classes, classes}, type);
  with_acc(type == ScalarType::Double ? DType::f64 : DType::f32, [&](auto zero) {
    using A = decltype(zero);
    standardise(static_cast<const A*>(values.const_data_ptr()), static_cast<const uint8_t*>(known.const_data_ptr()), classes * classes,
                temperature, static_cast<A*>(preference.mutable_data_ptr()));
  });
  return preference;
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("pair_preferences", TORCH_BOX(&gradmix::cpu::pair_preferences)); }
