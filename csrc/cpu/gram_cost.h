// Which way to form a Gram matrix of gradients is cheaper, in seconds of a core, up to a factor common to both. n samples, c logits, d
// features, k groups that have samples.
#pragma once

namespace gradmix::cpu {

// What one core with AVX-512 reaches: multiply-adds per second in the register tiles (73 % of its peak), and gradients per second
// from a tile into the cache. A machine that is slower in both comes to the same choice. What both ways start from, sorted copies of
// delta and of the features, is left out.
constexpr double multiply_add_rate = 105e9;
constexpr double gradient_rate = 36e9;

inline double pairwise_cost(double n, double c, double d, double k) {
  // Half of all pairs; every pair is added to the sums of a group, every sample's sums to the groups.
  return (n * n / 2 * (c + d + 4) + n * k * 4) / multiply_add_rate;
}

inline double classwise_cost(double n, double c, double d, double k) {
  // The groups' gradients, then half of their products.
  return (n + k * k / 2) * c * d / multiply_add_rate + k * c * d / gradient_rate;
}

}  // namespace gradmix::cpu
