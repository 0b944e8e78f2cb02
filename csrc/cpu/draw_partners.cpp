// draw_partners: one uniform number per sample decides its partner, in O(N log K + K^2) instead of O(N^2).
#include "common/binding.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>

#include "class_runs.h"
#include "mixing.h"

namespace gradmix::cpu {
namespace {

// A sample explores where its number is among the lowest ones, of which there is this share: its partner is any of the batch then.
bool explores(double noise, double exploration, int64_t samples, int64_t& partner, uint8_t& mask) {
  if (!(noise < exploration)) return false;
  partner = position_of(noise / exploration, samples);
  mask = 1;
  return true;
}

void skip(const Drawing& d, const uint8_t* allowed, double exploration) {
  std::iota(d.partner, d.partner + d.samples, int64_t{0});
  // NaN last, as torch.sort does: without that the order would not be a strict weak one.
  std::stable_sort(d.partner, d.partner + d.samples, [noise = d.noise](int64_t a, int64_t b) {
    return noise[a] < noise[b] || (noise[b] != noise[b] && noise[a] == noise[a]);
  });
  for (int64_t i = 0; i < d.samples; ++i)
    if (!explores(d.noise[i], exploration, d.samples, d.partner[i], d.mask[i]))
      d.mask[i] = allowed[d.target[i] * d.classes + d.target[d.partner[i]]] != 0;
}

void redraw(const Drawing& d, const uint8_t* allowed, double exploration) {
  // The candidates of a sample are runs of the sorted batch: one for each class that is allowed with its own.
  const ClassRuns runs(d.target, d.samples, d.classes);
  const int64_t present = static_cast<int64_t>(runs.present.size());
  std::vector<int64_t> size(present), run_end(present);
  for (int64_t r = 0; r < present; ++r) size[r] = runs.size(runs.present[r]);
  for (const int64_t own : runs.present) {
    const uint8_t* row = allowed + own * d.classes;
    int64_t candidates = 0;
    for (int64_t r = 0; r < present; ++r) {
      candidates += row[runs.present[r]] != 0 ? size[r] : 0;
      run_end[r] = candidates;
    }
    for (int64_t s = runs.start[own]; s < runs.start[own + 1]; ++s) {
      const int64_t i = runs.sorted[s];
      if (explores(d.noise[i], exploration, d.samples, d.partner[i], d.mask[i])) continue;
      d.mask[i] = candidates > 0;
      d.partner[i] = i;
      if (candidates == 0) continue;
      const int64_t position = position_of((d.noise[i] - exploration) / (1 - exploration), candidates);
      const int64_t run = first_beyond(run_end.data(), present, position);
      d.partner[i] = runs.sorted[runs.start[runs.present[run] + 1] - (run_end[run] - position)];
    }
  }
}

}  // namespace

void hard_partners(const Drawing& d, const Tensor& allowed, const std::string& policy, double exploration) {
  check(allowed.scalar_type() == ScalarType::Bool, d.op, ": ", d.pairs_name, " must be bool");
  check(policy == "redraw" || policy == "skip", d.op, ": policy must be redraw or skip, got ", policy);
  check(exploration >= 0 && exploration < 1, d.op, ": exploration must be in [0, 1), got ", exploration);
  const Tensor rows = make_contiguous(allowed);
  if (d.samples > 0) (policy == "skip" ? skip : redraw)(d, static_cast<const uint8_t*>(rows.const_data_ptr()), exploration);
}

namespace {

std::tuple<Tensor, Tensor> draw_partners(const Tensor& target, const Tensor& allowed, std::string policy,
                                         const std::optional<Tensor>& noise, double exploration) {
  const PartnerDraw draw("draw_partners", target, allowed, "allowed", noise);
  hard_partners(draw, allowed, policy, exploration);
  return {draw.partners, draw.masks};
}

}  // namespace
}  // namespace gradmix::cpu

STABLE_TORCH_LIBRARY_IMPL(gradmix_ext, CPU, m) { m.impl("draw_partners", TORCH_BOX(&gradmix::cpu::draw_partners)); }
