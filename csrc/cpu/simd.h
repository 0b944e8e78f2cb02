#pragma once

namespace gradmix::cpu {

// "default", "avx2" or "avx512": the kernels that this process runs. Throws as level() does (kernels/dispatch.h).
const char* simd_level();

}  // namespace gradmix::cpu
