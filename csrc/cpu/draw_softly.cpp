// draw_softly: the class of a sample's partner by the preferences of its own class, then any sample of that class. A class of samples is
// worked out once, whatever the number of its samples.
#include "common/binding.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "class_runs.h"
#include "mixing.h"

namespace gradmix::cpu {
namespace {

constexpr int64_t grain_exponentials = 1 << 12;

// Odds as integers, whose sums are exact in any order: the most preferred class has this many steps.
constexpr double resolution = 1099511627776.0;  // 2^40
int64_t share_of(double preference) { return static_cast<int64_t>(std::exp(preference) * resolution); }

// floor(steps * size / of), in floating point: the product of integers would overflow from 2^23 samples of a class on.
int64_t share_of_run(int64_t steps, int64_t of, int64_t size) {
  const double at = static_cast<double>(steps) * static_cast<double>(size) / static_cast<double>(of);
  return std::min(static_cast<int64_t>(at), size - 1);
}

// The partners of the samples of one class, by its row of preferences; `edge` has room for the classes present.
template <class A>
void draw_of_class(const Drawing& d, const ClassRuns& runs, int64_t own, const A* preferences, int64_t column, std::vector<int64_t>& edge) {
  const std::vector<int64_t>& present = runs.present;
  const auto preference_of = [&](int64_t c) { return static_cast<double>(preferences[c * column]); };
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
  for (int64_t s = runs.start[own]; s < runs.start[own + 1]; ++s) {
    const int64_t i = runs.sorted[s];
    d.mask[i] = !excluded;
    d.partner[i] = i;
    if (excluded) continue;
    const int64_t point = position_of(d.noise[i], total);
    const int64_t run = first_beyond(edge.data(), static_cast<int64_t>(edge.size()), point);
    const int64_t before = run > 0 ? edge[run - 1] : 0, c = present[run];
    // Where the point lies within the interval of its class is uniform too, and chooses the sample.
    d.partner[i] = runs.sorted[runs.start[c] + share_of_run(point - before, edge[run] - before, runs.size(c))];
  }
}

}  // namespace

void soft_partners(const Drawing& d, const Tensor& preference) {
  const DType dtype = data_type(preference, d.op, d.pairs_name);
  const Tensor odds = to_dtype(preference, acc_scalar_type(dtype));
  const int64_t row = odds.stride(0), column = odds.stride(1);
  const ClassRuns runs(d.target, d.samples, d.classes);
  const int64_t present = static_cast<int64_t>(runs.present.size());
  with_acc(dtype, [&](auto zero) {
    const auto* preferences = static_cast<const decltype(zero)*>(odds.const_data_ptr());
    parallel(present, std::max<int64_t>(1, grain_exponentials / std::max<int64_t>(present, 1)), [&](int64_t begin, int64_t end) {
      std::vector<int64_t> edge(present);
      for (int64_t r = begin; r < end; ++r) draw_of_class(d, runs, runs.present[r], preferences + runs.present[r] * row, column, edge);
    });
  });
}

namespace {

std::tuple<Tensor, Tensor> draw_softly(const Tensor& target, const Tensor& preference, const std::optional<Tensor>& noise) {
  const PartnerDraw draw("draw_softly", target, preference, "preference", noise);
  soft_partners(draw, preference);
  return {draw.partners, draw.masks};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("draw_softly", TORCH_BOX(&gradmix::cpu::draw_softly)); }
