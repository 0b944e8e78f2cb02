// csrc/cuda/limits.h for the emulated build: small inputs take every way.
#pragma once

#include <cstdint>

namespace gradmix::cuda {

constexpr int64_t most_ranked = 150;
constexpr int rank_warps = 2;
constexpr int64_t panel_tiles = 2;
constexpr int64_t gradient_bytes = 16 << 10;
constexpr int64_t product_blocks = 3, least_depth = 32;

}  // namespace gradmix::cuda
