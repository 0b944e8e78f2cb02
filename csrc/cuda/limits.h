// Where a binding changes its way of working. The emulated build has smaller ones, so that small inputs take every way.
#pragma once

#include <cstdint>

namespace gradmix::cuda {

// Up to so many samples ranking by comparison is one short launch; beyond, PyTorch's sort, which takes several but no N^2 comparisons.
constexpr int64_t most_ranked = 16384;
// so many warps to 32 samples, which make a few thousand samples occupy a large GPU.
constexpr int rank_warps = 16;
// class_gram by pairs: tiles along each side of the rectangle of sample pairs that one launch works on.
constexpr int64_t panel_tiles = 64;
// class_gram by classes: gradients of as many classes at a time as fit here; they are read again soon, from the L2 cache.
constexpr int64_t gradient_bytes = int64_t{32} << 20;
// and enough blocks for a large GPU, each with enough to do.
constexpr int64_t product_blocks = 512, least_depth = 128;

}  // namespace gradmix::cuda
