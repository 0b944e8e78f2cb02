// draw_softly: the class of a sample's partner by the preferences of its own class, then any sample of that class.
#include "cuda/device.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 256;
// Odds as integers, whose sums are exact in any order: the most preferred class has this many steps.
constexpr double resolution = 1099511627776.0;  // 2^40

// One warp a sample, its lanes side by side over the classes.
template <class T>
__global__ void __launch_bounds__(threads) soft_partners(SoftPartnerParams p) {
  const int lane = threadIdx.x;
  const int64_t i = int64_t{blockIdx.x} * (threads / warp_lanes) + threadIdx.y;
  if (i >= p.samples) return;  // a whole warp
  const int64_t label = p.target[i];
  const bool valid = label >= 0 && label < p.classes;
  const auto size_of = [&](int64_t c) { return c < p.classes ? p.offsets[c + 1] - p.offsets[c] : int64_t{0}; };
  const T* row = static_cast<const T*>(p.preference) + (valid ? label * p.row : 0);
  const auto preference_of = [&](int64_t c) { return static_cast<double>(to_acc(row[c * p.column])); };
  double best = -INFINITY;
  int unusable = !valid;  // NaN has to be looked for: no maximum shows it
  for (int64_t c = lane; c < p.classes; c += warp_lanes) {
    if (size_of(c) == 0) continue;
    const double preference = preference_of(c);
    best = larger(best, preference);
    unusable |= preference != preference;
  }
  best = warp_max(best);
  unusable = warp_sum(unusable);
  const bool drawn = unusable == 0 && best > -INFINITY && best < INFINITY;
  if (lane == 0) {
    p.mask[i] = drawn;
    p.partner[i] = i;
  }
  if (!drawn) return;  // a whole warp
  const auto share_of = [&](int64_t c) {
    return size_of(c) == 0 ? int64_t{0} : static_cast<int64_t>(exp(preference_of(c) - best) * resolution);
  };
  int64_t total = 0;
  for (int64_t c = lane; c < p.classes; c += warp_lanes) total += share_of(c);
  total = warp_sum(total);

  const int64_t point = position_of(p.noise[i], total);
  int64_t before = 0;  // steps of the classes left of these 32
  for (int64_t first = 0; first < p.classes && before <= point; first += warp_lanes) {
    const int64_t own = share_of(first + lane), end = warp_prefix_sum(own);
    const int64_t start = before + end - own;
    // Where the point lies within the interval of its class is uniform too, and chooses the sample.
    if (start <= point && point < start + own) {
      const int64_t size = size_of(first + lane);
      // In floating point: the product of integers would overflow from 2^23 samples of a class on.
      const double at = static_cast<double>(point - start) * static_cast<double>(size) / static_cast<double>(own);
      const int64_t within = static_cast<int64_t>(at);
      p.partner[i] = p.order[p.offsets[first + lane] + (within < size ? within : size - 1)];
    }
    before += __shfl_sync(all_lanes, end, warp_lanes - 1);
  }
}

}  // namespace

cudaError_t launch_soft_partners(const SoftPartnerParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto zero) {
    const int per_block = threads / warp_lanes;
    return launch(soft_partners<decltype(zero)>, blocks_for(p.samples, per_block), dim3(warp_lanes, per_block), p, stream);
  });
}

}  // namespace gradmix::cuda
