// csrc/cuda/mma.h on the CPU: all lanes hand in their fragments, and each computes its four elements from those of all.
//
// Sums are no more exact than those of a tensor core: 8 products and the sum so far are cut to the last place of the largest of them
// and added, and the result is cut to float32, always toward zero. What was measured of a V100 and an A100 is no worse (Fasi, Higham,
// Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, 2021).
#pragma once

#include <cuda_runtime.h>

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

// The sanitisers leave it alone: it reads two arrays of its caller, and most of the time of an emulated product goes by here.
[[gnu::no_sanitize("address", "undefined")]] inline float add_products(float so_far, const double* a, const double* b) {
  double term[9] = {so_far}, exact = so_far, largest = __builtin_fabs(so_far);
  for (int k = 0; k < 8; ++k) {
    term[k + 1] = a[k] * b[k];
    exact += term[k + 1];
    const double size = __builtin_fabs(term[k + 1]);
    if (size > largest) largest = size;
  }
  if (largest == 0 || !__builtin_isfinite(exact)) return static_cast<float>(exact);
  const uint64_t exponent = __builtin_bit_cast(uint64_t, largest) & 0x7ff0000000000000u;
  double unit = __builtin_bit_cast(double, exponent) * 0x1p-23;
  if (unit < 0x1p-149) unit = 0x1p-149;
  const double units = 1 / unit;
  int64_t sum = 0;
  for (const double t : term) sum += static_cast<int64_t>(t * units);
  const double cut = static_cast<double>(sum) * unit;
  const float nearest = static_cast<float>(cut);
  return __builtin_fabs(nearest) > __builtin_fabs(cut) ? __builtin_nextafterf(nearest, 0) : nearest;
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
    for (int first = 0; first < 16; first += 8)
      sum[i] = mma::add_products(sum[i], a_row[i / 2] + first, b_column[i % 2] + first);
}

}  // namespace gradmix::cuda
