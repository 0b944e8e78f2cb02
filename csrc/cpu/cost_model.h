// Which way to form a Gram matrix of gradients is cheaper. n samples, c logits, d features, k groups that have samples.
#pragma once

#include <cstdint>

namespace gradmix::cpu {

// Seconds per core, up to a factor common to both: only the ratio is used.
double pairwise_cost(int64_t n, int64_t c, int64_t d, int64_t k);
double classwise_cost(int64_t n, int64_t c, int64_t d, int64_t k);

}  // namespace gradmix::cpu
