// csrc/cuda/mma.h on the CPU: all lanes hand in their fragments, and each computes its four elements from those of all.
//
// Sums are no more exact than those of a tensor core: 8 products and the sum so far are cut to the unit in the last place of the
// largest of them and added, and the result is cut to float32, always toward zero. So an A100 was seen to add (Fasi, Higham, Mikaitis
// and Pranesh, Numerical behavior of NVIDIA tensor cores, 2021), but for a few more bits that it keeps.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "cuda/convert.h"

namespace gradmix::cuda {

inline uint32_t pack_bf16(float low, float high) {
  return from_acc<bf16>(low).bits | uint32_t{from_acc<bf16>(high).bits} << 16;
}

namespace mma {

struct Fragments {
  uint32_t a[4], b[2];
};

inline double low_half(uint32_t word) { return float_of_bits(word << 16); }
inline double high_half(uint32_t word) { return float_of_bits(word & 0xffff0000u); }

inline float cut_sum(const double (&term)[9]) {
  double largest = 0, exact = 0;
  for (const double t : term) {
    largest = std::max(largest, std::abs(t));
    exact += t;
  }
  if (largest == 0 || !std::isfinite(exact)) return static_cast<float>(exact);
  const uint64_t bits = std::bit_cast<uint64_t>(largest) & 0x7ff0000000000000u;  // the power of two below it
  const double unit = std::max(std::bit_cast<double>(bits) * 0x1p-23, 0x1p-149), units = 1 / unit;
  int64_t sum = 0;
  for (const double t : term) sum += static_cast<int64_t>(t * units);
  const double cut = static_cast<double>(sum) * unit;
  const float nearest = static_cast<float>(cut);
  return std::abs(static_cast<double>(nearest)) > std::abs(cut) ? std::nextafter(nearest, 0.0f) : nearest;
}

}  // namespace mma

inline void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_first, uint32_t b_second,
                     const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const mma::Fragments own{{a[0], a[1], a[2], a[3]}, {b_first, b_second}};
  const emulator::Parcel* parcels = emulator::exchange(0xffffffffu, emulator::pack(own), {file, line});
  const int group = emulator::lane() / 4, t = emulator::lane() % 4;
  double a_row[2][16], b_column[2][16];  // rows group and group + 8, columns 2t and 2t + 1
  for (int other = 0; other < 4; ++other)
    for (int i = 0; i < 2; ++i) {
      const auto of_a = emulator::unpack<mma::Fragments>(parcels[4 * group + other]);
      const auto of_b = emulator::unpack<mma::Fragments>(parcels[4 * (2 * t + i) + other]);
      for (int half = 0; half < 2; ++half) {
        const int k = 2 * other + 8 * half;
        a_row[i][k] = mma::low_half(of_a.a[i + 2 * half]);
        a_row[i][k + 1] = mma::high_half(of_a.a[i + 2 * half]);
        b_column[i][k] = mma::low_half(of_b.b[half]);
        b_column[i][k + 1] = mma::high_half(of_b.b[half]);
      }
    }
  for (int i = 0; i < 4; ++i)
    for (int first = 0; first < 16; first += 8) {
      double term[9] = {sum[i]};
      for (int k = 0; k < 8; ++k) term[k + 1] = a_row[i / 2][first + k] * b_column[i % 2][first + k];
      sum[i] = mma::cut_sum(term);
    }
}

}  // namespace gradmix::cuda
