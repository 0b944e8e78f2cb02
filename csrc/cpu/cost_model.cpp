#include "cost_model.h"

namespace gradmix::cpu {
namespace {

// Multiply-adds per second in the two kinds of register tile, and bytes per second to and from the memory behind the caches.
constexpr double panel_rate = 45e9;
constexpr double dot_rate = 42e9;
constexpr double byte_rate = 10e9;
// Both ways start from sorted copies of delta and of the features.
double copies(double n, double c, double d) { return n * (c + d) * 8 / byte_rate; }

}  // namespace

double pairwise_cost(int64_t samples, int64_t classes, int64_t features, int64_t groups) {
  const double n = static_cast<double>(samples), c = static_cast<double>(classes), d = static_cast<double>(features),
               k = static_cast<double>(groups);
  // Half of all pairs; every pair is added to the sums of a group, every sample's sums to the groups.
  const double multiply_adds = n * n / 2 * (c + d + 4);
  return multiply_adds / panel_rate + n * k * 4 / panel_rate + copies(n, c, d);
}

double classwise_cost(int64_t samples, int64_t classes, int64_t features, int64_t groups) {
  const double n = static_cast<double>(samples), c = static_cast<double>(classes), d = static_cast<double>(features) + 1,
               k = static_cast<double>(groups);
  // The groups' gradients, then half of their products; a store and a load of every gradient in the cache between them.
  return n * c * d / panel_rate + k * k / 2 * c * d / dot_rate + k * c * d / panel_rate + copies(n, c, d);
}

}  // namespace gradmix::cpu
