// draw_partners: sorted by class, a sample's candidates are runs of the batch, one for each class allowed with its own.
#include "cuda/device.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 256;

// A sample explores where its number is among the lowest ones, of which there is this share: its partner is any of the batch then.
__device__ bool explores(const PartnerParams& p, int64_t i) { return p.noise[i] < p.exploration; }
__device__ void take_any(const PartnerParams& p, int64_t i) {
  p.partner[i] = position_of(p.noise[i] / p.exploration, p.samples);
  p.mask[i] = 1;
}

// One warp a sample, its lanes side by side over the classes.
__global__ void __launch_bounds__(threads) redraw_partners(PartnerParams p) {
  const int lane = threadIdx.x;
  const int64_t i = int64_t{blockIdx.x} * (threads / warp_lanes) + threadIdx.y;
  if (i >= p.samples) return;  // a whole warp
  const int64_t label = p.target[i];
  const bool valid = label >= 0 && label < p.classes;
  if (explores(p, i) && valid) {
    if (lane == 0) take_any(p, i);
    return;  // a whole warp
  }
  const auto candidates_in = [&](int64_t c) {
    return valid && c < p.classes && p.allowed[label * p.classes + c] != 0 ? p.offsets[c + 1] - p.offsets[c] : int64_t{0};
  };
  int64_t candidates = 0;
  for (int64_t c = lane; c < p.classes; c += warp_lanes) candidates += candidates_in(c);
  candidates = warp_sum(candidates);
  if (lane == 0) {
    p.mask[i] = candidates > 0;
    if (candidates == 0) p.partner[i] = i;
  }
  if (candidates == 0) return;  // a whole warp

  const int64_t position = position_of((p.noise[i] - p.exploration) / (1 - p.exploration), candidates);
  int64_t before = 0;  // candidates of the classes left of these 32
  for (int64_t first = 0; first < p.classes && before <= position; first += warp_lanes) {
    const int64_t own = candidates_in(first + lane), end = warp_prefix_sum(own);
    const int64_t start = before + end - own;
    if (start <= position && position < start + own) p.partner[i] = p.order[p.offsets[first + lane] + (position - start)];
    before += __shfl_sync(all_lanes, end, warp_lanes - 1);
  }
}

__global__ void __launch_bounds__(threads) skip_partners(PartnerParams p) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i >= p.samples) return;
  const int64_t partner = p.order[i], a = p.target[i], b = p.target[partner];
  if (explores(p, i) && a >= 0 && a < p.classes) return take_any(p, i);
  p.partner[i] = partner;
  p.mask[i] = a >= 0 && a < p.classes && b >= 0 && b < p.classes && p.allowed[a * p.classes + b] != 0;
}

}  // namespace

cudaError_t launch_redraw_partners(const PartnerParams& p, cudaStream_t stream) {
  const int per_block = threads / warp_lanes;
  return launch(redraw_partners, blocks_for(p.samples, per_block), dim3(warp_lanes, per_block), p, stream);
}
cudaError_t launch_skip_partners(const PartnerParams& p, cudaStream_t stream) {
  return launch(skip_partners, blocks_for(p.samples, threads), dim3(threads), p, stream);
}

}  // namespace gradmix::cuda
