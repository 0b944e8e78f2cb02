// delta = softmax(z) - q in the accumulation type, for the samples in a given order; 0 on masked classes.
#include "cuda/logit_row.h"

namespace gradmix::cuda {
namespace {

template <class T, int P, int TEAM>
__global__ void __launch_bounds__(row_threads) residual(ResidualParams p) {
  using A = acc_t<T>;
  using Row = LogitRow<T, P, TEAM>;
  GRADMIX_SHARED(WarpParts<A>, parts);
  const int64_t position = team_row<TEAM>();
  if (position >= p.in.samples) return;  // a whole team
  const int64_t sample = p.order[position];
  Row row(p.in, sample);
  row.read(parts, [](int64_t, A) {});
  const TwoHot<A> label(p.in, row, sample);
  A* out = static_cast<A*>(p.delta) + position * p.in.classes;
  row.again([&](auto column, const Packet<T, P>& packet) {
    Packet<A, P> result;
#pragma unroll
    for (int e = 0; e < P; ++e) {
      const auto c = column + e;
      result.v[e] = row.is_allowed(c) ? row.probability(packet.v[e]) - label.at(c) : A(0);
    }
    *reinterpret_cast<Packet<A, P>*>(out + column) = result;
  });
}

}  // namespace

cudaError_t launch_residual(const ResidualParams& p, cudaStream_t stream) {
  if (p.in.classes == 0) return cudaSuccess;
  return with_dtype(p.in.dtype, [&](auto zero) {
    using T = decltype(zero);
    return with_team<T>(p.in, aligned(p.delta, packet_size<T> * sizeof(acc_t<T>)), [&](auto size, auto team) {
      return launch_rows(residual<T, size(), team()>, team(), p.in.samples, p, stream);
    });
  });
}

}  // namespace gradmix::cuda
