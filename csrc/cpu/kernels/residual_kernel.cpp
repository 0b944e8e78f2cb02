#define GRADMIX_KERNEL_BODY "residual_body.h"
#include "foreach_level.h"

#include "kernels.h"

namespace gradmix::cpu::kernels {

void residual(const ResidualParams& p, int64_t begin, int64_t end, void* scratch) {
  GRADMIX_DISPATCH(residual, p, begin, end, scratch);
}
void gather_rows(const GatherParams& p, int64_t begin, int64_t end) { GRADMIX_DISPATCH(gather_rows, p, begin, end); }

}  // namespace gradmix::cpu::kernels
