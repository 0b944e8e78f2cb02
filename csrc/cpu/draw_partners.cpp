// draw_partners: one uniform number per sample decides its partner, in O(N log K + K^2) instead of O(N^2).
#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>

#include "class_runs.h"

namespace gradmix::cpu {
namespace {

constexpr const char* op = "draw_partners";

// A sample explores where its number is among the lowest ones, of which there is this share: its partner is any of the batch then.
bool explores(double noise, double exploration, int64_t samples, int64_t& partner, uint8_t& mask) {
  if (!(noise < exploration)) return false;
  partner = position_of(noise / exploration, samples);
  mask = 1;
  return true;
}

void skip(const int64_t* target, const uint8_t* allowed, int64_t classes, const double* noise, double exploration, int64_t samples,
          int64_t* partner, uint8_t* mask) {
  std::iota(partner, partner + samples, int64_t{0});
  // NaN last, as torch.sort does: without that the order would not be a strict weak one.
  std::stable_sort(partner, partner + samples, [noise](int64_t a, int64_t b) {
    return noise[a] < noise[b] || (noise[b] != noise[b] && noise[a] == noise[a]);
  });
  for (int64_t i = 0; i < samples; ++i)
    if (!explores(noise[i], exploration, samples, partner[i], mask[i]))
      mask[i] = allowed[target[i] * classes + target[partner[i]]] != 0;
}

void redraw(const int64_t* target, const uint8_t* allowed, int64_t classes, const double* noise, double exploration, int64_t samples,
            int64_t* partner, uint8_t* mask) {
  // The candidates of a sample are runs of the sorted batch: one for each class that is allowed with its own.
  const ClassRuns runs(target, samples, classes);
  const int64_t present = static_cast<int64_t>(runs.present.size());
  std::vector<int64_t> size(present), run_end(present);
  for (int64_t r = 0; r < present; ++r) size[r] = runs.size(runs.present[r]);
  for (const int64_t own : runs.present) {
    const uint8_t* row = allowed + own * classes;
    int64_t candidates = 0;
    for (int64_t r = 0; r < present; ++r) {
      candidates += row[runs.present[r]] != 0 ? size[r] : 0;
      run_end[r] = candidates;
    }
    for (int64_t s = runs.start[own]; s < runs.start[own + 1]; ++s) {
      const int64_t i = runs.sorted[s];
      if (explores(noise[i], exploration, samples, partner[i], mask[i])) continue;
      mask[i] = candidates > 0;
      partner[i] = i;
      if (candidates == 0) continue;
      const int64_t position = position_of((noise[i] - exploration) / (1 - exploration), candidates);
      const int64_t run = std::upper_bound(run_end.begin(), run_end.end(), position) - run_end.begin();
      partner[i] = runs.sorted[runs.start[runs.present[run] + 1] - (run_end[run] - position)];
    }
  }
}

std::tuple<Tensor, Tensor> draw_partners(const Tensor& target, const Tensor& allowed, std::string policy,
                                         const std::optional<Tensor>& noise, double exploration) {
  check_dim(target, 1, op, "target");
  const int64_t samples = target.size(0);
  const Column<int64_t> label(target, samples, op, "target");
  check_cpu(allowed, op, "allowed");
  check_dim(allowed, 2, op, "allowed");
  const int64_t classes = allowed.size(0);
  check(allowed.size(1) == classes, op, ": allowed must be square");
  check(allowed.scalar_type() == ScalarType::Bool, op, ": allowed must be bool");
  check(policy == "redraw" || policy == "skip", op, ": policy must be redraw or skip, got ", policy);
  check(exploration >= 0 && exploration < 1, op, ": exploration must be in [0, 1), got ", exploration);
  check_labels(label, samples, classes, ClassMask(std::nullopt, classes, op), op, "target");
  const Column<double> uniform(noise ? *noise : fill_uniform(empty({samples}, ScalarType::Double)), samples, op, "noise");
  const Tensor allowed_rows = make_contiguous(allowed);

  const Tensor partner = empty({samples}, ScalarType::Long);
  const Tensor mask = empty({samples}, ScalarType::Bool);
  if (samples > 0) {
    const auto draw = policy == "skip" ? skip : redraw;
    draw(label.data(), static_cast<const uint8_t*>(allowed_rows.const_data_ptr()), classes, uniform.data(), exploration, samples,
         static_cast<int64_t*>(partner.mutable_data_ptr()), static_cast<uint8_t*>(mask.mutable_data_ptr()));
  }
  return {partner, mask};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("draw_partners", TORCH_BOX(&gradmix::cpu::draw_partners)); }
