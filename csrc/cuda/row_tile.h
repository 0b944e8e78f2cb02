// The product of 64 rows with 64 other rows over their depth, as a block computes it: in float64 by multiply-adds, else on tensor
// cores. left(row) and right(row) point to a row's elements, null where there is no such row; all threads of the block call
// multiply with one depth, and afterwards the buffers can be used again.
//
// On tensor cores a float is the sum of three bfloat16 (high, middle, low: 8 bits each), a float16 of two, a bfloat16 one. Products of
// terms are exact; middle x low and low x low are left out, no more than 2^-24 of the product. Tensor cores cut off what they add, always
// toward zero, which would build up over a long depth; so they sum 16 elements only, small terms first, and what comes out is added
// by ordinary additions, which round.
#pragma once

#include <type_traits>
#include <utility>

#include "cuda/mma.h"
#include "cuda/tile.h"

namespace gradmix::cuda {

constexpr int most_terms = 3;
template <class T>
constexpr int bf16_terms = most_terms;
template <>
inline constexpr int bf16_terms<f16> = 2;
template <>
inline constexpr int bf16_terms<bf16> = 1;

// What a lane holds of a strip of 16 rows x 16 elements: rows g and g + 8 (g = lane / 4), elements 4t to 4t + 3 (t = lane % 4), two
// to a word: both rows' first two, both rows' last two. mma_bf16 takes them for columns 2t, 2t + 1, 2t + 8, 2t + 9; as that is so of
// both of its operands, the sum over the columns is the same.
using StripWords = Packet<uint32_t, 4>;
constexpr int strip_rows = 16, strip_depth = 16, strips = tile_side / strip_rows;
using StripBuffers = StripWords[most_terms][strips][warp_lanes];

// The elements that a thread brings from memory to shared memory: a warp fills a strip.
template <class T>
class StripSource {
 public:
  template <class Rows>
  __device__ explicit StripSource(const Rows& rows) {
    const int first = threadIdx.x / warp_lanes * strip_rows + threadIdx.x % warp_lanes / 4;
    row_[0] = rows(first);
    row_[1] = rows(first + 8);
  }
  __device__ void fetch(int64_t first, int64_t depth) {
    const int64_t k = first + threadIdx.x % 4 * 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t inside = row_[r] != nullptr ? depth - k : 0;
      if (inside >= 4 && reinterpret_cast<uintptr_t>(row_[r] + k) % sizeof(Packet<T, 4>) == 0) {
        next_[r] = *reinterpret_cast<const Packet<T, 4>*>(row_[r] + k);
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) next_[r].v[e] = e < inside ? row_[r][k + e] : T{};
      }
    }
  }
  __device__ void store(StripBuffers& buffers) const {
    StripWords words[bf16_terms<T>];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const Packet<T, 4>& of_row = next_[w % 2];
      float low = to_acc(of_row.v[w / 2 * 2]), high = to_acc(of_row.v[w / 2 * 2 + 1]);
#pragma unroll
      for (int term = 0; term < bf16_terms<T>; ++term) {
        const uint32_t word = pack_bf16(low, high);
        words[term].v[w] = word;
        low -= float_of_bits(word << 16);
        high -= float_of_bits(word & 0xffff0000u);
      }
    }
#pragma unroll
    for (int term = 0; term < bf16_terms<T>; ++term)
      buffers[term][threadIdx.x / warp_lanes][threadIdx.x % warp_lanes] = words[term];
  }

 private:
  const T* row_[2];
  Packet<T, 4> next_[2];
};

template <class Rows>
using element_of = std::remove_const_t<std::remove_pointer_t<decltype(std::declval<Rows>()(0))>>;

template <class A>
struct RowTile {
  static constexpr int threads = strips * warp_lanes, results = 2 * 4 * 4;  // of a thread
  struct Buffers {  // two stages, so that one is filled while the other is used
    StripBuffers left[2], right[2];
  };
  // Of this thread: (m, n, e) is element e of what mma_bf16 makes of the m-th 16 rows and the n-th 8 columns of its warp's 32 x 32.
  struct Sum {
    float value[results];
  };

  template <class Left, class Right>
  __device__ static void multiply(Sum& sum, int64_t depth, const Left& left_row, const Right& right_row, Buffers& buffers) {
    using L = element_of<Left>;
    using R = element_of<Right>;
    StripSource<L> left(left_row);
    StripSource<R> right(right_row);
    const auto fetch = [&](int64_t first) {
      left.fetch(first, depth);
      right.fetch(first, depth);
    };
    const auto store = [&](int stage) {
      left.store(buffers.left[stage]);
      right.store(buffers.right[stage]);
    };
    fetch(0);
    store(0);
    __syncthreads();
    int stage = 0;
    for (int64_t first = 0; first < depth; first += strip_depth, stage ^= 1) {
      const bool more = first + strip_depth < depth;
      if (more) fetch(first + strip_depth);
      add_products<bf16_terms<L>, bf16_terms<R>>(sum, buffers.left[stage], buffers.right[stage]);
      if (more) store(stage ^ 1);
      __syncthreads();  // the stage just used is filled next, the one just filled is used next
    }
  }

  // f(row, column, result) for the results of this thread.
  template <class F>
  __device__ static void each(const Sum& sum, F&& f) {
    const int lane = threadIdx.x % warp_lanes;
    const int row = left_strip() * strip_rows + lane / 4, column = right_strip() * strip_rows + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          f(row + m * strip_rows + e / 2 * 8, column + n * 8 + e % 2, sum.value[(m * 4 + n) * 4 + e]);
  }

 private:
  __device__ static int left_strip() { return threadIdx.x / warp_lanes / 2 * 2; }
  __device__ static int right_strip() { return threadIdx.x / warp_lanes % 2 * 2; }

  template <int L, int R>
  __device__ static void add_products(Sum& sum, const StripBuffers& left, const StripBuffers& right) {
    StripWords a[L][2], b[R][2];
#pragma unroll
    for (int strip = 0; strip < 2; ++strip) {
#pragma unroll
      for (int term = 0; term < L; ++term) a[term][strip] = left[term][left_strip() + strip][threadIdx.x % warp_lanes];
#pragma unroll
      for (int term = 0; term < R; ++term) b[term][strip] = right[term][right_strip() + strip][threadIdx.x % warp_lanes];
    }
    float step[2][4][4] = {};
#pragma unroll
    for (int order = most_terms - 1; order >= 0; --order)
#pragma unroll
      for (int term = 0; term <= order; ++term)
        if (term < L && order - term < R)
#pragma unroll
          for (int m = 0; m < 2; ++m)
#pragma unroll
            for (int n = 0; n < 4; ++n) {
              const StripWords& of_b = b[order - term][n / 2];
              mma_bf16(step[m][n], a[term][m].v, of_b.v[n % 2], of_b.v[n % 2 + 2]);
            }
#pragma unroll
    for (int i = 0; i < results; ++i) sum.value[i] += step[i / 16][i / 4 % 4][i % 4];
  }
};

template <>
struct RowTile<double> {
  static constexpr int threads = tile_threads, results = tile_results * tile_results;
  using Buffers = TileBuffers<double>;
  struct Sum {
    double value[results];
  };

  template <class Left, class Right>
  __device__ static void multiply(Sum& sum, int64_t depth, const Left& left_row, const Right& right_row, Buffers& buffers) {
    const auto elements = [](const auto& rows) {
      return [&rows](int row, int64_t k) {
        const auto* at = rows(row);
        return at != nullptr ? at[k] : 0.0;
      };
    };
    double result[tile_results][tile_results] = {};
    multiply_tiles<Contiguous::along_depth>(result, depth, elements(left_row), elements(right_row), buffers);
#pragma unroll
    for (int i = 0; i < results; ++i) sum.value[i] += result[i / tile_results][i % tile_results];
  }

  template <class F>
  __device__ static void each(const Sum& sum, F&& f) {
    const int row = threadIdx.x / tile_lanes * tile_results, column = threadIdx.x % tile_lanes * tile_results;
#pragma unroll
    for (int i = 0; i < results; ++i)
      f(row + i / tile_results, column + i % tile_results, sum.value[i]);
  }
};

}  // namespace gradmix::cuda
