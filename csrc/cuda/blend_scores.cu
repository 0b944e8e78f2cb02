// blend_scores: a warp for each class pair of the batch, whose mean enters the moving average.
#include "cuda/cell_run.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 256;

__global__ void __launch_bounds__(threads) pair_cells(PairCellParams p) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < p.samples) p.cell[i] = pair_cell(p.target[i], p.partner_target[i], p.pair_classes);
}

template <class A>
__global__ void __launch_bounds__(threads) blend_runs(BlendParams p) {
  const CellRun<A> run(p.runs, p.pair_classes);
  if (run.count == 0 || threadIdx.x != 0) return;
  const int64_t a = run.cell / p.pair_classes, b = run.cell % p.pair_classes;
  A* scores = static_cast<A*>(p.scores);
  const A mean = run.sum / static_cast<A>(run.count), old = scores[a * p.score_row + b * p.score_column];
  // The first score of a pair is taken whole, later ones share with the past.
  const bool known = p.scored[a * p.scored_row + b * p.scored_column] != 0;
  const A now = known ? old + static_cast<A>(1 - p.momentum) * (mean - old) : mean;
  scores[a * p.score_row + b * p.score_column] = scores[b * p.score_row + a * p.score_column] = now;
  p.scored[a * p.scored_row + b * p.scored_column] = p.scored[b * p.scored_row + a * p.scored_column] = 1;
  const uint8_t open = now >= static_cast<A>(p.threshold);
  p.allowed[a * p.allowed_row + b * p.allowed_column] = p.allowed[b * p.allowed_row + a * p.allowed_column] = open;
}

}  // namespace

cudaError_t launch_pair_cells(const PairCellParams& p, cudaStream_t stream) {
  return launch(pair_cells, blocks_for(p.samples, threads), dim3(threads), p, stream);
}
cudaError_t launch_blend_scores(const BlendParams& p, cudaStream_t stream) {
  return with_acc(p.wide, [&](auto zero) {
    const int per_block = threads / warp_lanes;
    return launch(blend_runs<decltype(zero)>, blocks_for(p.runs.samples, per_block), dim3(warp_lanes, per_block), p, stream);
  });
}

}  // namespace gradmix::cuda
