#include "simd.h"

#include <cstdlib>
#include <cstring>

#include "kernels/dispatch.h"

namespace gradmix::cpu {
namespace {

Level best_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) return Level::avx512;
  if (avx2) return Level::avx2;
#endif
  return Level::baseline;
}

Level chosen_level() {
  const Level best = best_level();
  const char* wanted = std::getenv("GRADMIX_EXT_SIMD");
  if (wanted == nullptr) return best;
  Level asked = best;
  if (std::strcmp(wanted, "default") == 0) asked = Level::baseline;
  if (std::strcmp(wanted, "avx2") == 0) asked = Level::avx2;
  return asked < best ? asked : best;
}

}  // namespace

Level level() {
  static const Level chosen = chosen_level();
  return chosen;
}

const char* simd_level() {
  switch (level()) {
    case Level::avx512:
      return "avx512";
    case Level::avx2:
      return "avx2";
    default:
      return "default";
  }
}

}  // namespace gradmix::cpu
