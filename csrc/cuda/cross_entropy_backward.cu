// The gradient of mixup_cross_entropy: p - q times the incoming gradient, one read and one write.
#include "cuda/logit_row.h"

namespace gradmix::cuda {
namespace {

template <class T, int P, int TEAM>
__global__ void __launch_bounds__(row_threads) cross_entropy_backward(CrossEntropyParams p) {
  using A = acc_t<T>;
  using Row = LogitRow<T, P, TEAM>;
  using V = Packet<T, P>;
  GRADMIX_SHARED(WarpParts<A>, parts);
  const int64_t sample = team_row<TEAM>();
  if (sample >= p.in.samples) return;  // a whole team
  Row row(p.in, sample);
  A classes = 0;
  row.read(parts, [&](int64_t, A) { classes += A(1); });
  const A smoothing = static_cast<A>(p.smoothing);
  const A uniform = p.smoothing > 0 ? smoothing / row.team_sum(classes, parts) : A(0);
  const A scale = sample_weight<A>(p, sample) * value_at<A>(p.grad_loss, sample) * static_cast<A>(p.grad_scale);
  const TwoHot<A> label(p.in, row, sample);

  T* out = static_cast<T*>(p.grad_logits) + sample * p.in.classes;
  row.again([&](auto column, const V& packet) {
    V result;
#pragma unroll
    for (int e = 0; e < P; ++e) {
      const auto c = column + e;
      const A q = (A(1) - smoothing) * label.at(c) + uniform;
      result.v[e] = from_acc<T>(row.is_allowed(c) ? scale * (row.probability(packet.v[e]) - q) : A(0));
    }
    *reinterpret_cast<V*>(out + column) = result;
  });
}

}  // namespace

cudaError_t launch_cross_entropy_backward(const CrossEntropyParams& p, cudaStream_t stream) {
  if (p.in.classes == 0) return cudaSuccess;
  return with_dtype(p.in.dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_team<T>(p.in, aligned(p.grad_logits), [&](auto size, auto team) {
      return launch_rows(cross_entropy_backward<T, size(), team()>, team(), p.in.samples, p, stream);
    });
  });
}

}  // namespace gradmix::cuda
