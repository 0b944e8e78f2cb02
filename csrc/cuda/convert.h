// float16 and bfloat16 to and from float, on the host and on the device, without a CUDA header.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dtype.h"

namespace gradmix::cuda {

__host__ __device__ inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
__host__ __device__ inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

__host__ __device__ inline float to_acc(float value) { return value; }
__host__ __device__ inline double to_acc(double value) { return value; }
__host__ __device__ inline float to_acc(bf16 value) {
#ifdef __CUDA_ARCH__
  float result;
  asm("{.reg .b16 low; mov.b16 low, 0; mov.b32 %0, {low, %1};}" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return float_of_bits(uint32_t{value.bits} << 16);
#endif
}
__host__ __device__ inline float to_acc(f16 value) {
#ifdef __CUDA_ARCH__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16, exponent = value.bits >> 10 & 31u, fraction = value.bits & 1023u;
  if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
  if (exponent > 0) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;  // subnormal, or zero
  return sign != 0 ? -small : small;
#endif
}

// Rounds to the nearest, ties to even.
template <class T>
__host__ __device__ inline T from_acc(acc_t<T> value) {
  return value;
}
template <>
__host__ __device__ inline bf16 from_acc<bf16>(float value) {
#ifdef __CUDA_ARCH__
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // NaN: rounding up could turn it into infinity
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
#endif
}
template <>
__host__ __device__ inline f16 from_acc<f16>(float value) {
#ifdef __CUDA_ARCH__
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000u;
  uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return {0x7fff};
  if (size >= 0x47800000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 2^16 and more
  if (size < 0x38800000u)  // subnormal: the last place of 0.5 is the unit of the subnormals
    return {static_cast<uint16_t>(sign | (bits_of_float(float_of_bits(size) + 0.5f) - 0x3f000000u))};
  size += 0xc8000fffu + (size >> 13 & 1u);  // exponent from bias 127 to bias 15, and round
  return {static_cast<uint16_t>(sign | size >> 13)};
#endif
}

}  // namespace gradmix::cuda
