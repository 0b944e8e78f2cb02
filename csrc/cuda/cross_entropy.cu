// mixup_cross_entropy: the loss of each sample from one read of its logits; the sum of the losses in one order.
#include "cuda/logit_row.h"

namespace gradmix::cuda {
namespace {

constexpr int sum_threads = 1024;  // of the one block that adds the losses

template <class T, int P, int TEAM>
__global__ void __launch_bounds__(row_threads) cross_entropy(CrossEntropyParams p) {
  using A = acc_t<T>;
  using Row = LogitRow<T, P, TEAM>;
  GRADMIX_SHARED(WarpParts<A>, parts);
  const int64_t sample = team_row<TEAM>();
  if (sample >= p.in.samples) return;  // a whole team
  Row row(p.in, sample);
  A logits = 0, classes = 0;
  row.read(parts, [&](int64_t, A z) {
    logits += z;
    classes += A(1);
  });

  // -sum_c q_c log p_c = (sum_c q_c) log(exp_sum) - sum_c q_c (z_c - maximum)
  const TwoHot<A> label(p.in, row, sample);
  const A hard = A(1) - static_cast<A>(p.smoothing);
  const A first = hard * label.first_weight, second = hard * label.second_weight;
  const A spread = logarithm(row.exp_sum);
  A loss = (first + second) * spread;
  if (first != A(0)) loss -= first * (row.logit(label.first) - row.maximum);
  if (second != A(0)) loss -= second * (row.logit(label.second) - row.maximum);
  if (p.smoothing > 0) {
    logits = row.team_sum(logits, parts);
    classes = row.team_sum(classes, parts);
    loss += static_cast<A>(p.smoothing) * (spread - (logits / classes - row.maximum));
  }
  if (row.exp_sum != row.exp_sum) loss = row.exp_sum;  // NaN also where every weight is 0
  loss *= sample_weight<A>(p, sample);
  if (threadIdx.x != 0) return;
  if (p.final_type)
    static_cast<T*>(p.loss)[sample] = from_acc<T>(loss);
  else
    static_cast<A*>(p.loss)[sample] = loss;
}

template <class T>
__global__ void __launch_bounds__(sum_threads) loss_sum(LossSumParams p) {
  using A = acc_t<T>;
  GRADMIX_SHARED(WarpParts<double>, parts);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.samples; i += sum_threads) sum += static_cast<double>(static_cast<const A*>(p.loss)[i]);
  sum = block_sum(sum, parts);
  if (threadIdx.x == 0)
    *static_cast<T*>(p.out) = from_acc<T>(static_cast<A>(p.mean ? sum / static_cast<double>(p.samples) : sum));
}

}  // namespace

cudaError_t launch_cross_entropy(const CrossEntropyParams& p, cudaStream_t stream) {
  return with_dtype(p.in.dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_team<T>(p.in, true, [&](auto size, auto team) {
      return launch_rows(cross_entropy<T, size(), team()>, team(), p.in.samples, p, stream);
    });
  });
}

cudaError_t launch_loss_sum(const LossSumParams& p, cudaStream_t stream) {
  return with_dtype(p.dtype, [&](auto zero) {
    return launch(loss_sum<decltype(zero)>, 1, dim3(sum_threads), p, stream);
  });
}

}  // namespace gradmix::cuda
