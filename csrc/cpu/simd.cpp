#include "simd.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

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

const char* name_of(Level level) {
  switch (level) {
    case Level::avx512:
      return "avx512";
    case Level::avx2:
      return "avx2";
    default:
      return "default";
  }
}

Level chosen_level() {
  const Level best = best_level();
  const char* wanted = std::getenv("GRADMIX_EXT_SIMD");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (const Level asked : {Level::baseline, Level::avx2, Level::avx512})
    if (std::strcmp(wanted, name_of(asked)) == 0) return std::min(asked, best);
  throw std::invalid_argument(std::string("GRADMIX_EXT_SIMD='") + wanted + "' is not one of default, avx2, avx512");
}

}  // namespace

Level level() {
  static const Level chosen = chosen_level();
  return chosen;
}

const char* simd_level() { return name_of(level()); }

}  // namespace gradmix::cpu
