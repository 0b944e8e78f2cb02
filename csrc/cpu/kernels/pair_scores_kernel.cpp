#define GRADMIX_KERNEL_BODY "pair_scores_body.h"
#include "foreach_level.h"

#include "kernels.h"

namespace gradmix::cpu::kernels {

int vector_lanes(bool wide) { GRADMIX_DISPATCH(vector_lanes, wide); }
void pack_panels(const PanelParams& p) { GRADMIX_DISPATCH(pack_panels, p); }
int64_t pair_scores_scratch(const PairScoreParams& p) { GRADMIX_DISPATCH(pair_scores_scratch, p); }
void pair_scores(const PairScoreParams& p, int64_t begin, int64_t end, void* scratch) {
  GRADMIX_DISPATCH(pair_scores, p, begin, end, scratch);
}

}  // namespace gradmix::cpu::kernels
