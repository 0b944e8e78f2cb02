// pair_preferences: the scores of class pairs, relative to their mean and spread.
#include "cuda/device.h"

namespace gradmix::cuda {
namespace {

constexpr int threads = 1024;

// One block: the matrix is small with few classes, and with many it is needed once an epoch, but for online scores and a soft draw.
template <class A>
__global__ void __launch_bounds__(threads) standardise(PreferenceParams p) {
  GRADMIX_SHARED(WarpParts<int64_t>, counts);
  GRADMIX_SHARED(WarpParts<double>, bests);
  GRADMIX_SHARED(WarpParts<double>, sums);
  GRADMIX_SHARED(WarpParts<double>, square_sums);
  const auto score = [&](int64_t k) { return static_cast<double>(static_cast<const A*>(p.scores)[k]); };
  const auto each = [&](const auto& f) {
#pragma unroll 4
    for (int64_t k = threadIdx.x; k < p.pairs; k += threads) {
      const double s = score(k);  // beside the flag and not after it
      if (p.scored[k] != 0) f(s);
    }
  };
  // From the best on, so that scores which are all alike have no spread whatever their sum is rounded to.
  double best = -INFINITY, sum = 0, squares = 0;
  int64_t count = 0;
  each([&](double s) { best = larger(best, s), ++count; });
  count = block_sum(count, counts);
  best = block_max(best, bests);
  each([&](double s) { sum += s - best; });
  const double number = static_cast<double>(count > 0 ? count : 1), mean = block_sum(sum, sums) / number;
  each([&](double s) { squares += (s - best - mean) * (s - best - mean); });
  const double spread = sqrt(block_sum(squares, square_sums) / number);
  for (int64_t k = threadIdx.x; k < p.pairs; k += threads) {
    const double relative = (score(k) - best - mean) / (p.temperature * spread);
    static_cast<A*>(p.preference)[k] = p.scored[k] == 0 || spread == 0 ? A(0) : static_cast<A>(relative);
  }
}

}  // namespace

cudaError_t launch_pair_preferences(const PreferenceParams& p, cudaStream_t stream) {
  return with_acc(p.wide, [&](auto zero) {
    return launch(standardise<decltype(zero)>, p.pairs > 0 ? 1 : 0, dim3(threads), p, stream);
  });
}

}  // namespace gradmix::cuda
