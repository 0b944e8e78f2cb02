// draw_softly: the class of a sample's partner by the preferences of its own class, then any sample of that class. A class of samples is
// worked out once, whatever the number of its samples.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "class_runs.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "draw_softly";
constexpr int64_t grain_exponentials = 1 << 12;

// Odds as integers, whose sums are exact in any order: the most preferred class has this many steps.
constexpr double resolution = 1099511627776.0;  // 2^40
int64_t share_of(double preference) { return static_cast<int64_t>(std::exp(preference) * resolution); }

struct Draw {
  const ClassRuns& runs;
  const double* noise;
  int64_t row, column;  // strides of the preferences
  int64_t* partner;
  uint8_t* mask;
};

// The partners of the samples of one class, whose preferences are `row`; `edge` has room for the classes present.
template <class A>
void draw_of_class(const Draw& d, int64_t own, const A* preferences, std::vector<int64_t>& edge) {
  const std::vector<int64_t>& present = d.runs.present;
  const auto preference_of = [&](int64_t c) { return static_cast<double>(preferences[own * d.row + c * d.column]); };
  double best = -INFINITY;
  for (const int64_t c : present) best = std::max(best, preference_of(c));
  int64_t total = 0;
  bool excluded = !std::isfinite(best);
  for (size_t r = 0; r < present.size(); ++r) {
    const double preference = preference_of(present[r]);
    excluded = excluded || std::isnan(preference);
    total += excluded ? 0 : share_of(preference - best);
    edge[r] = total;
  }
  for (int64_t s = d.runs.start[own]; s < d.runs.start[own + 1]; ++s) {
    const int64_t i = d.runs.sorted[s];
    d.mask[i] = !excluded;
    d.partner[i] = i;
    if (excluded) continue;
    const int64_t point = position_of(d.noise[i], total);
    const int64_t run = std::upper_bound(edge.begin(), edge.end(), point) - edge.begin();
    const int64_t before = run > 0 ? edge[run - 1] : 0, c = present[run];
    // Where the point lies within the interval of its class is uniform too, and chooses the sample.
    const int64_t within = (point - before) * d.runs.size(c) / (edge[run] - before);
    d.partner[i] = d.runs.sorted[d.runs.start[c] + within];
  }
}

template <class A>
void draw_all(const Draw& d, const A* preference) {
  const int64_t present = static_cast<int64_t>(d.runs.present.size());
  parallel(present, std::max<int64_t>(1, grain_exponentials / std::max<int64_t>(present, 1)), [&](int64_t begin, int64_t end) {
    std::vector<int64_t> edge(present);
    for (int64_t r = begin; r < end; ++r) draw_of_class(d, d.runs.present[r], preference, edge);
  });
}

std::tuple<Tensor, Tensor> draw_softly(const Tensor& target, const Tensor& preference, const std::optional<Tensor>& noise) {
  check_cpu(target, op, "target");
  check_dim(target, 1, op, "target");
  const int64_t samples = target.size(0);
  const Column<int64_t> label(target, samples, op, "target");
  check_cpu(preference, op, "preference");
  check_dim(preference, 2, op, "preference");
  const int64_t classes = preference.size(0);
  check(preference.size(1) == classes, op, ": preference must be square");
  const DType dtype = data_type(preference, op, "preference");
  check_labels(label, samples, classes, ClassMask(std::nullopt, classes, op), op, "target");
  const Column<double> uniform(noise ? *noise : fill_uniform(empty({samples}, ScalarType::Double)), samples, op, "noise");
  const Tensor odds = to_dtype(preference, acc_scalar_type(dtype));

  const Tensor partner = empty({samples}, ScalarType::Long);
  const Tensor mask = empty({samples}, ScalarType::Bool);
  const ClassRuns runs(label.data(), samples, classes);
  const Draw draw{runs, uniform.data(), odds.stride(0), odds.stride(1), static_cast<int64_t*>(partner.mutable_data_ptr()),
                  static_cast<uint8_t*>(mask.mutable_data_ptr())};
  with_acc(dtype, [&](auto zero) {
    using A = decltype(zero);
    draw_all(draw, static_cast<const A*>(odds.const_data_ptr()));
  });
  return {partner, mask};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("draw_softly", TORCH_BOX(&gradmix::cpu::draw_softly)); }
