// The kernels: free of torch, single-threaded over the range they are given. The bindings check, allocate and split the work.
#pragma once

#include <cstdint>

#include "../../common/params.h"

namespace gradmix::cpu::kernels {

// Tasks are (chunk of a sample, sample) pairs, chunk by chunk: samples * ceil(sample_size / chunk) of them.
void masked_mixup(const MixupParams& p, int64_t begin, int64_t end);
void masked_mixup_backward(const MixupBackwardParams& p, int64_t begin, int64_t end);

}  // namespace gradmix::cpu::kernels
