// blend_scores: the scores of a batch's samples enter the moving averages of their class pairs, in place; pairs that the batch does not
// have are not even looked at.
#include <algorithm>
#include <numeric>

#include "binding.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "blend_scores";

// A matrix [K, K] that is changed.
template <class T>
struct Pairs {
  Pairs(Tensor& t, int64_t classes, ScalarType type, const char* name)
      : data(static_cast<T*>(t.mutable_data_ptr())), row(t.dim() == 2 ? t.stride(0) : 0), column(t.dim() == 2 ? t.stride(1) : 0) {
    check_cpu(t, op, name);
    check(t.scalar_type() == type, op, ": ", name, " has the wrong dtype");
    check(t.dim() == 2 && t.size(0) == classes && t.size(1) == classes, op, ": ", name, " must be square and as large as scores");
  }
  T& at(int64_t a, int64_t b) const { return data[a * row + b * column]; }
  T* data;
  int64_t row, column;
};

template <class A>
void blend(const Pairs<A>& scores, const Pairs<uint8_t>& scored, const Pairs<uint8_t>& allowed, const A* value, const int64_t* target,
           const int64_t* partner_target, int64_t samples, int64_t classes, double momentum, double threshold) {
  const auto low = [&](int64_t i) { return std::min(target[i], partner_target[i]); };
  const auto high = [&](int64_t i) { return std::max(target[i], partner_target[i]); };
  const auto cell = [&](int64_t i) { return low(i) * classes + high(i); };
  std::vector<int64_t> order(samples);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return cell(i) != cell(j) ? cell(i) < cell(j) : i < j; });
  for (int64_t first = 0, last; first < samples; first = last) {
    const int64_t a = low(order[first]), b = high(order[first]);
    A sum = 0;
    for (last = first; last < samples && cell(order[last]) == cell(order[first]); ++last) sum += value[order[last]];
    const A mean = sum / static_cast<A>(last - first), old = scores.at(a, b);
    // The first score of a pair is taken whole, later ones share with the past.
    const A now = scored.at(a, b) != 0 ? old + static_cast<A>(1 - momentum) * (mean - old) : mean;
    scores.at(a, b) = scores.at(b, a) = now;
    scored.at(a, b) = scored.at(b, a) = 1;
    allowed.at(a, b) = allowed.at(b, a) = now >= static_cast<A>(threshold);
  }
}

void blend_scores(Tensor scores, Tensor scored, Tensor allowed, const Tensor& value, const Tensor& target,
                  const Tensor& partner_target, double momentum, double threshold) {
  const ScalarType type = scores.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::Double, op, ": scores must be float32 or float64");
  check_dim(scores, 2, op, "scores");
  const int64_t classes = scores.size(0);
  check_cpu(value, op, "value");
  check_dim(value, 1, op, "value");
  check(value.scalar_type() == type, op, ": value must have the dtype of scores");
  const int64_t samples = value.size(0);
  const ClassMask every(std::nullopt, classes, op);
  const Column<int64_t> own(target, samples, op, "target"), other(partner_target, samples, op, "partner_target");
  check_labels(own, samples, classes, every, op, "target");
  check_labels(other, samples, classes, every, op, "partner_target");
  const Tensor values = make_contiguous(value);
  const Pairs<uint8_t> known(scored, classes, ScalarType::Bool, "scored"), open(allowed, classes, ScalarType::Bool, "allowed");
  with_acc(type == ScalarType::Double ? DType::f64 : DType::f32, [&](auto zero) {
    using A = decltype(zero);
    blend(Pairs<A>(scores, classes, type, "scores"), known, open, static_cast<const A*>(values.const_data_ptr()), own.data(),
          other.data(), samples, classes, momentum, threshold);
  });
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("blend_scores", TORCH_BOX(&gradmix::cpu::blend_scores)); }
