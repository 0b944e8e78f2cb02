// One row of logits, its softmax over the allowed classes and its target distribution, worked on by a team of threads.
//
// A team is a warp, which keeps the row in registers (up to held_classes), or a block, which reads a longer row again; the second
// read comes from the caches. Either way the row is read from memory once.
#pragma once

#include <type_traits>

#include "cuda/device.h"

namespace gradmix::cuda {

constexpr int row_threads = 256;
// 32 registers a thread of either kind.
template <class T>
constexpr int held_classes = sizeof(T) == 8 ? 512 : 1024;

template <class T, int P, int TEAM>
class LogitRow {
 public:
  using A = acc_t<T>;
  using V = Packet<T, P>;
  using Parts = WarpParts<A>;

  __device__ LogitRow(const LogitParams& p, int64_t sample)
      : params(p), row(static_cast<const T*>(p.logits) + sample * p.row_stride) {}

  // Finds maximum and sum of exponentials; f(column, value) is called for every allowed class.
  template <class F>
  __device__ void read(Parts& parts, F&& f) {
    if constexpr (TEAM == warp_lanes)
      read_held(f);
    else
      read_long(parts, f);
    inverse_sum = A(1) / exp_sum;
  }

  // f(column, packet of logits) once more, without reading a row that is held.
  template <class F>
  __device__ void again(F&& f) {
    each_packet(f);
  }

  __device__ bool is_allowed(int64_t c) const { return params.class_mask == nullptr || params.class_mask[c] != 0; }
  __device__ bool is_label(int64_t c) const { return c >= 0 && c < params.classes && is_allowed(c); }
  __device__ A logit(int64_t c) const { return to_acc(row[c]); }
  __device__ A probability(T value) const { return exponential(to_acc(value) - maximum) * inverse_sum; }

  // Sums over the team, for all its threads.
  template <class B>
  __device__ B team_sum(B value, WarpParts<B>& parts) const {
    if constexpr (TEAM == warp_lanes) {
      return warp_sum(value);
    } else {
      const B total = block_sum(value, parts);
      __syncthreads();  // parts can be used again
      return total;
    }
  }
  A maximum, exp_sum, inverse_sum;

 private:
  static __device__ int held_column(int slot) { return (slot * TEAM + static_cast<int>(threadIdx.x)) * P; }

  template <class F>
  __device__ void read_held(F&& f) {
#pragma unroll
    for (int k = 0; k < slots; ++k)  // all loads before the first use
      if (held_column(k) < params.classes) held[k] = *reinterpret_cast<const V*>(row + held_column(k));
    A top = -INFINITY;
    each_packet([&](auto column, const V& packet) {
#pragma unroll
      for (int e = 0; e < P; ++e)
        if (is_allowed(column + e)) {
          f(column + e, to_acc(packet.v[e]));
          top = larger(top, to_acc(packet.v[e]));
        }
    });
    maximum = warp_max(top);
    A sum = 0;
    each_packet([&](auto column, const V& packet) {
#pragma unroll
      for (int e = 0; e < P; ++e)
        if (is_allowed(column + e)) sum += exponential(to_acc(packet.v[e]) - maximum);
    });
    exp_sum = warp_sum(sum);
  }

  // Keeps the sum relative to the maximum so far, so that one pass finds both.
  template <class F>
  __device__ void read_long(Parts& parts, F&& f) {
    A top = -INFINITY, sum = 0;
    each_packet([&](auto column, const V& packet) {
      A z[P], best = top;
#pragma unroll
      for (int e = 0; e < P; ++e) {
        const bool allowed = is_allowed(column + e);
        z[e] = allowed ? to_acc(packet.v[e]) : A(-INFINITY);
        if (allowed) f(column + e, z[e]);
        best = larger(best, z[e]);
      }
      if (best == A(-INFINITY)) {  // nothing but -inf so far; but a NaN, which no maximum shows, must not get lost
#pragma unroll
        for (int e = 0; e < P; ++e)
          if (z[e] != z[e]) sum = z[e];
        return;
      }
      sum *= exponential(top - best);
#pragma unroll
      for (int e = 0; e < P; ++e) sum += exponential(z[e] - best);
      top = best;
    });
    maximum = block_max(top, parts);
    __syncthreads();  // parts can be used again
    // A thread that saw no finite logit adds nothing, even where nobody did.
    exp_sum = team_sum(top == A(-INFINITY) ? sum : sum * exponential(top - maximum), parts);
  }

  template <class F>
  __device__ void each_packet(F&& f) {
    if constexpr (TEAM == warp_lanes) {
#pragma unroll
      for (int k = 0; k < slots; ++k)
        if (held_column(k) < params.classes) f(held_column(k), held[k]);
    } else {
      for (int64_t column = int64_t{threadIdx.x} * P; column < params.classes; column += int64_t{TEAM} * P)
        f(column, *reinterpret_cast<const V*>(row + column));
    }
  }

  static constexpr int slots = TEAM == warp_lanes ? held_classes<T> / (warp_lanes * P) : 1;
  const LogitParams& params;
  const T* row;
  V held[slots];
};

// The two labels of a sample and their weights; a label that is none has weight 0.
template <class A>
struct TwoHot {
  template <class Row>
  __device__ TwoHot(const LogitParams& p, const Row& row, int64_t sample) {
    first = p.target[sample];
    second = p.partner_target != nullptr ? p.partner_target[sample] : -1;
    const A lam = p.partner_target != nullptr ? value_at<A>(p.lam, sample) : A(1);
    first_weight = row.is_label(first) ? lam : A(0);
    second_weight = row.is_label(second) ? A(1) - lam : A(0);
  }
  // Columns of a held row are int; a label that does not fit one has no weight.
  template <class I>
  __device__ A at(I c) const {
    return (c == static_cast<I>(first) ? first_weight : A(0)) + (c == static_cast<I>(second) ? second_weight : A(0));
  }

  int64_t first, second;
  A first_weight, second_weight;
};

template <class A>
__device__ A sample_weight(const CrossEntropyParams& p, int64_t sample) {
  return p.sample_weight.data != nullptr ? value_at<A>(p.sample_weight, sample) : A(1);
}

// Rows of a block: threads (team, rows).
template <int TEAM>
__device__ int64_t team_row() {
  return int64_t{blockIdx.x} * (row_threads / TEAM) + threadIdx.y;
}

// Calls f with the packet size and the team that suit the shape; `others` are further arrays of rows of C elements of the same type.
// Packets only where they count, to keep the number of kernels down: neighbouring threads' single loads combine as well.
template <class T, class F>
cudaError_t with_team(const LogitParams& p, bool others_aligned, F&& f) {
  using Warp = std::integral_constant<int, warp_lanes>;
  using Block = std::integral_constant<int, row_threads>;
  constexpr int wide = sizeof(T) == 8 ? 1 : packet_size<T>;
  using One = std::integral_constant<int, 1>;
  if (p.classes > held_classes<T>) return f(One{}, Block{});
  if constexpr (wide > 1)
    if (others_aligned && aligned(p.logits) && p.row_stride % wide == 0 && p.classes % wide == 0)
      return f(std::integral_constant<int, wide>{}, Warp{});
  return f(One{}, Warp{});
}

template <class P>
cudaError_t launch_rows(void (*kernel)(P), int team, int64_t rows, const P& params, cudaStream_t stream) {
  const int per_block = row_threads / team;
  return launch(kernel, blocks_for(rows, per_block), dim3(team, per_block), params, stream);
}

}  // namespace gradmix::cuda
