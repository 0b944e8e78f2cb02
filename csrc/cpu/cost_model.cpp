#include "cost_model.h"

namespace gradmix::cpu {
namespace {

// What one core with AVX-512 reaches: multiply-adds per second in the register tiles (73 % of its peak), and gradients per second
// from a tile into the cache. A machine that is slower in both comes to the same choice. What both ways start from, sorted copies of
// delta and of the features, is left out.
constexpr double multiply_add_rate = 105e9;
constexpr double gradient_rate = 36e9;

}  // namespace

double pairwise_cost(int64_t samples, int64_t classes, int64_t features, int64_t groups) {
  const double n = static_cast<double>(samples), c = static_cast<double>(classes), d = static_cast<double>(features),
               k = static_cast<double>(groups);
  // Half of all pairs; every pair is added to the sums of a group, every sample's sums to the groups.
  return (n * n / 2 * (c + d + 4) + n * k * 4) / multiply_add_rate;
}

double classwise_cost(int64_t samples, int64_t classes, int64_t features, int64_t groups) {
  const double n = static_cast<double>(samples), c = static_cast<double>(classes), d = static_cast<double>(features),
               k = static_cast<double>(groups);
  // The groups' gradients, then half of their products.
  return (n + k * k / 2) * c * d / multiply_add_rate + k * c * d / gradient_rate;
}

}  // namespace gradmix::cpu
