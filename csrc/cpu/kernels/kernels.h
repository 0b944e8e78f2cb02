// The kernels: free of torch, single-threaded over the range they are given. The bindings check, allocate and split the work.
#pragma once

#include <cstdint>

#include "../../common/params.h"

namespace gradmix::cpu::kernels {

// Tasks are (chunk of a sample, sample) pairs, chunk by chunk: samples * ceil(sample_size / chunk) of them.
void masked_mixup(const MixupParams& p, int64_t begin, int64_t end);
void masked_mixup_backward(const MixupBackwardParams& p, int64_t begin, int64_t end);

// Tasks are rows. The backward kernel needs one row of the accumulation type.
void cross_entropy(const CrossEntropyParams& p, int64_t begin, int64_t end);
void cross_entropy_backward(const CrossEntropyParams& p, int64_t begin, int64_t end, void* scratch);

// Tasks are rows.
void residual(const ResidualParams& p, int64_t begin, int64_t end);
void gather_rows(const GatherParams& p, int64_t begin, int64_t end);

// Elements of float32 (float64 if wide) in a vector: class dimensions are padded to a multiple of it.
int vector_lanes(bool wide);
void pack_panels(const PanelParams& p);
// Tasks are rows; scratch holds (block + 1) * padded_classes elements of the accumulation type.
void pair_scores(const PairScoreParams& p, int64_t begin, int64_t end, void* scratch);

}  // namespace gradmix::cpu::kernels
