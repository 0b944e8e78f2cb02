// blend_scores and observe_scores: the scores of a batch's samples enter the moving averages of their class pairs, in place; pairs that
// the batch does not have are not even looked at.
#include "common/binding.h"

#include <algorithm>
#include <numeric>

#include "common/class_pairs.h"
#include "scoring.h"

namespace gradmix::cpu {
namespace {

// A matrix [K, K] that is changed.
template <class T>
struct Pairs {
  explicit Pairs(Tensor& t) : data(static_cast<T*>(t.mutable_data_ptr())), row(t.stride(0)), column(t.stride(1)) {}
  T& at(int64_t a, int64_t b) const { return data[a * row + b * column]; }
  T* data;
  int64_t row, column;
};

// The moving averages [K, K] of the class pairs, checked.
class Averages {
 public:
  Averages(const char* op, Tensor& scores, Tensor& scored, Tensor& allowed, double momentum, double threshold)
      : type(scores.scalar_type()),
        classes(score_classes(scores, op)),
        scores_(scores),
        scored_(checked(scored, classes, op, "scored")),
        allowed_(checked(allowed, classes, op, "allowed")),
        momentum_(momentum),
        threshold_(threshold) {
    check_cpu(scores, op, "scores");
    check_blending(momentum, threshold, op);
  }

  template <class A>
  void blend(const A* value, const int64_t* target, const int64_t* partner_target, int64_t samples) {
    const Pairs<A> scores(scores_);
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
      const A now = scored_.at(a, b) != 0 ? old + static_cast<A>(1 - momentum_) * (mean - old) : mean;
      scores.at(a, b) = scores.at(b, a) = now;
      scored_.at(a, b) = scored_.at(b, a) = 1;
      allowed_.at(a, b) = allowed_.at(b, a) = now >= static_cast<A>(threshold_);
    }
  }

  const ScalarType type;
  const int64_t classes;

 private:
  static Tensor& checked(Tensor& t, int64_t classes, const char* op, const char* name) {
    check_cpu(t, op, name);
    check_pairs(t, classes, ScalarType::Bool, op, name);
    return t;
  }

  Tensor scores_;
  Pairs<uint8_t> scored_, allowed_;
  double momentum_, threshold_;
};

DType accumulated(ScalarType type) { return type == ScalarType::Double ? DType::f64 : DType::f32; }

void blend_scores(Tensor scores, Tensor scored, Tensor allowed, const Tensor& value, const Tensor& target,
                  const Tensor& partner_target, double momentum, double threshold) {
  constexpr const char* op = "blend_scores";
  Averages averages(op, scores, scored, allowed, momentum, threshold);
  check_cpu(value, op, "value");
  check_dim(value, 1, op, "value");
  check(value.scalar_type() == averages.type, op, ": value must have the dtype of scores");
  const int64_t samples = value.size(0);
  const ClassMask every(std::nullopt, averages.classes, op);
  const Column<int64_t> own(target, samples, op, "target"), other(partner_target, samples, op, "partner_target");
  check_labels(own, samples, averages.classes, every, op, "target");
  check_labels(other, samples, averages.classes, every, op, "partner_target");
  const Tensor values = make_contiguous(value);
  with_acc(accumulated(averages.type), [&](auto zero) {
    averages.blend(static_cast<const decltype(zero)*>(values.const_data_ptr()), own.data(), other.data(), samples);
  });
}

void observe_scores(Tensor scores, Tensor scored, Tensor allowed, const Tensor& features, const Tensor& logits, const Tensor& target,
                    const Tensor& partner_target, const Tensor& lam, const Tensor& direction_weight, const Tensor& direction_bias,
                    double momentum, double threshold, const std::optional<Tensor>& class_mask) {
  constexpr const char* op = "observe_scores";
  Averages averages(op, scores, scored, allowed, momentum, threshold);
  const Scoring samples(op, features, logits, target, partner_target, lam, direction_weight, direction_bias, class_mask,
                        averages.classes);
  const LastLayer& in = samples.in;
  with_acc(in.dtype, [&](auto from) {
    std::vector<decltype(from)> value(in.samples);
    score_samples(in, samples.weight, samples.bias, value.data());
    with_acc(accumulated(averages.type), [&](auto to) {
      const std::vector<decltype(to)> converted(value.begin(), value.end());
      averages.blend(converted.data(), in.target.data(), in.partner_target.data(), in.samples);
    });
  });
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) {
  m.impl("blend_scores", TORCH_BOX(&gradmix::cpu::blend_scores));
  m.impl("observe_scores", TORCH_BOX(&gradmix::cpu::observe_scores));
}
