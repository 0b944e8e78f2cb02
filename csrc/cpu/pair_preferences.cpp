// pair_preferences: the scores of class pairs, relative to their mean and spread.
#include "common/binding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "binding.h"
#include "common/class_pairs.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "pair_preferences";

// Sums side by side, so that they need not wait for each other.
constexpr int64_t lanes = 8;

// The value, or 0, without a branch: which pairs have a score follows no pattern.
double value_if(bool known, double value) {
  int64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= -static_cast<int64_t>(known);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

template <class A>
void standardise(const A* score, const uint8_t* scored, int64_t pairs, double temperature, A* preference) {
  // From one of the scores on, so that scores which are all alike have no spread whatever their sum is rounded to; and in float64, since
  // squares of small scores would vanish in float32.
  const int64_t first = std::find_if(scored, scored + pairs, [](uint8_t known) { return known != 0; }) - scored;
  const double origin = first < pairs ? static_cast<double>(score[first]) : 0;
  const auto above = [&](int64_t k) { return value_if(scored[k] != 0, static_cast<double>(score[k]) - origin); };
  double sums[lanes] = {}, squares[lanes] = {};
  int64_t counts[lanes] = {};
  const auto add = [&](int64_t k, int64_t lane) {
    const double d = above(k);
    sums[lane] += d;
    squares[lane] += d * d;
    counts[lane] += scored[k] != 0;
  };
  int64_t k = first / lanes * lanes;
  for (; k + lanes <= pairs; k += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) add(k + lane, lane);
  for (; k < pairs; ++k) add(k, 0);
  const double count = static_cast<double>(std::max<int64_t>(std::accumulate(counts, counts + lanes, int64_t{0}), 1));
  const double mean = std::accumulate(sums, sums + lanes, 0.0) / count;
  const double variance = std::accumulate(squares, squares + lanes, 0.0) / count - mean * mean;
  const double scale = variance <= 0 ? 0 : 1 / (temperature * std::sqrt(variance));
  for (int64_t i = 0; i < pairs; ++i) preference[i] = static_cast<A>(value_if(scored[i] != 0, (above(i) - mean) * scale));
}

Tensor pair_preferences(const Tensor& scores, const Tensor& scored, double temperature) {
  check_cpu(scores, op, "scores");
  check_cpu(scored, op, "scored");
  const ScalarType type = scores.scalar_type();
  const int64_t classes = score_classes(scores, op);
  check_pairs(scored, classes, ScalarType::Bool, op, "scored");
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
