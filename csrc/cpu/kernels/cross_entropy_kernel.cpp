#define GRADMIX_KERNEL_BODY "cross_entropy_body.h"
#include "foreach_level.h"

#include "kernels.h"

namespace gradmix::cpu::kernels {

void cross_entropy(const CrossEntropyParams& p, int64_t begin, int64_t end) { GRADMIX_DISPATCH(cross_entropy, p, begin, end); }

void cross_entropy_backward(const CrossEntropyParams& p, int64_t begin, int64_t end, void* scratch) {
  GRADMIX_DISPATCH(cross_entropy_backward, p, begin, end, scratch);
}

}  // namespace gradmix::cpu::kernels
