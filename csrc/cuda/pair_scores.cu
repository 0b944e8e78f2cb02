// pair_scores behind the product of features and direction: softmax, two-hot residual and dot product in one pass over both
// matrices; then the values of each class pair are summed in the order of the samples.
#include "cuda/cell_run.h"
#include "cuda/logit_row.h"

namespace gradmix::cuda {
namespace {

template <class T, int P, int TEAM>
__global__ void __launch_bounds__(row_threads) pair_values(PairValueParams p) {
  using A = acc_t<T>;
  using Row = LogitRow<T, P, TEAM>;
  GRADMIX_SHARED(WarpParts<A>, parts);
  const int64_t sample = team_row<TEAM>();
  if (sample >= p.in.samples) return;  // a whole team
  Row row(p.in, sample);
  row.read(parts, [](int64_t, A) {});
  const TwoHot<A> label(p.in, row, sample);
  const A* projected = static_cast<const A*>(p.projected) + sample * p.in.classes;
  const A* bias = static_cast<const A*>(p.bias);
  A value = 0;
  row.again([&](auto column, const Packet<T, P>& packet) {
#pragma unroll
    for (int e = 0; e < P; ++e) {
      const auto c = column + e;
      if (row.is_allowed(c)) value += (row.probability(packet.v[e]) - label.at(c)) * (projected[c] + bias[c]);
    }
  });
  value = row.team_sum(value, parts);
  if (threadIdx.x != 0) return;
  static_cast<A*>(p.value)[sample] = value;
  if (p.cell == nullptr) return;
  const int64_t* partner_target = p.in.partner_target != nullptr ? p.in.partner_target : p.in.target;
  p.cell[sample] = pair_cell(p.in.target[sample], partner_target[sample], p.pair_classes);
}

// A warp for each sorted sample; those that start a cell sum it and write it on both sides of the diagonal.
template <class A>
__global__ void __launch_bounds__(row_threads) pair_sums(PairSumParams p) {
  const int64_t k = p.pair_classes;
  const CellRun<A> run(p.runs, k);
  if (run.count == 0 || threadIdx.x != 0) return;
  const int64_t mirrored = run.cell % k * k + run.cell / k;
  static_cast<A*>(p.score_sum)[run.cell] = static_cast<A*>(p.score_sum)[mirrored] = run.sum;
  p.count[run.cell] = p.count[mirrored] = run.count;
}

// A thread for each pair of classes.
template <class A>
__global__ void __launch_bounds__(row_threads) linear_pairs(LinearPairParams p) {
  const int64_t k = p.classes, pair = int64_t{blockIdx.x} * row_threads + threadIdx.x;
  if (pair >= k * k) return;
  const int64_t a = pair / k * (k + 1), b = pair % k * (k + 1);
  const auto half = [&](int64_t cell) { return A(0.5) * static_cast<const A*>(p.score_sum)[cell] / static_cast<A>(p.count[cell]); };
  const bool both = p.count[a] > 0 && p.count[b] > 0;
  static_cast<A*>(p.scores)[pair] = both ? half(a) + half(b) : A(0);
  p.scored[pair] = both;
}

}  // namespace

cudaError_t launch_pair_values(const PairValueParams& p, cudaStream_t stream) {
  return with_dtype(p.in.dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_team<T>(p.in, true, [&](auto size, auto team) {
      return launch_rows(pair_values<T, size(), team()>, team(), p.in.samples, p, stream);
    });
  });
}

cudaError_t launch_pair_sums(const PairSumParams& p, cudaStream_t stream) {
  return with_acc(p.wide, [&](auto zero) {
    return launch_rows(pair_sums<decltype(zero)>, warp_lanes, p.runs.samples, p, stream);
  });
}

cudaError_t launch_linear_pairs(const LinearPairParams& p, cudaStream_t stream) {
  return with_acc(p.wide, [&](auto zero) {
    return launch(linear_pairs<decltype(zero)>, blocks_for(p.classes * p.classes, row_threads), dim3(row_threads), p, stream);
  });
}

}  // namespace gradmix::cuda
