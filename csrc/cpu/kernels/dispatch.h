// The instruction set in use, for the dispatch of kernels.
#pragma once

namespace gradmix::cpu {

enum class Level { baseline, avx2, avx512 };

// The best level of this machine, lowered by GRADMIX_EXT_SIMD=default|avx2|avx512, which is read once. Any other value, unless it is empty, is a
// std::invalid_argument every time.
Level level();

}  // namespace gradmix::cpu
