#define GRADMIX_KERNEL_BODY "gather_augment_mixup_body.h"
#include "foreach_level.h"

#include "kernels.h"

namespace gradmix::cpu::kernels {

void gather_augment_mixup(const GatherAugmentMixupParams& p, int64_t begin, int64_t end) {
  GRADMIX_DISPATCH(gather_augment_mixup, p, begin, end);
}

}  // namespace gradmix::cpu::kernels
