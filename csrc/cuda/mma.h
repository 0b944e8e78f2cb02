// The one tensor-core instruction in use, and the rounding of its operands. The tests put an emulated one in the place of this file.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace gradmix::cuda {

// Two floats rounded to bfloat16, to the nearest, ties to even: `low` in the lower half of the word.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// sum += a b for a warp: a is 16 x 16, b is 16 x 8, of bfloat16, their products are exact and added in float32.
// In PTX's words for mma.m16n8k16, lane = 4 group + t holds
//   of a:   rows group and group + 8 of columns 2t, 2t + 1, then both rows of columns 2t + 8, 2t + 9
//   of b:   rows 2t, 2t + 1, then 2t + 8, 2t + 9 of column group
//   of sum: columns 2t, 2t + 1 of row group, then of row group + 8
__device__ inline void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_first, uint32_t b_second) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_first), "r"(b_second));
}

}  // namespace gradmix::cuda
