#define GRADMIX_KERNEL_BODY "masked_mixup_body.h"
#include "foreach_level.h"

#include "kernels.h"

namespace gradmix::cpu::kernels {

void masked_mixup(const MixupParams& p, int64_t begin, int64_t end) { GRADMIX_DISPATCH(masked_mixup, p, begin, end); }

void masked_mixup_backward(const MixupBackwardParams& p, int64_t begin, int64_t end) {
  GRADMIX_DISPATCH(masked_mixup_backward, p, begin, end);
}

}  // namespace gradmix::cpu::kernels
