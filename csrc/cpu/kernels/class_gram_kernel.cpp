#define GRADMIX_KERNEL_BODY "class_gram_body.h"
#include "foreach_level.h"

#include "kernels.h"

namespace gradmix::cpu::kernels {

void group_gradients(const GroupGradientParams& p) { GRADMIX_DISPATCH(group_gradients, p); }
int64_t class_panel(int64_t classes, bool wide) { GRADMIX_DISPATCH(class_panel, classes, wide); }
int64_t feature_panel(bool wide) { GRADMIX_DISPATCH(feature_panel, wide); }
int64_t classwise_tasks(const GroupedParams& p) { GRADMIX_DISPATCH(classwise_tasks, p); }
int64_t classwise_scratch(const GroupedParams& p) { GRADMIX_DISPATCH(classwise_scratch, p); }
void gram_classwise(const GroupedParams& p, int64_t begin, int64_t end, void* gram, void* scratch) {
  GRADMIX_DISPATCH(gram_classwise, p, begin, end, gram, scratch);
}
void gram_of_bias(const GroupedParams& p, void* gram, void* scratch) { GRADMIX_DISPATCH(gram_of_bias, p, gram, scratch); }
int64_t pairwise_tasks(const GroupedParams& p) { GRADMIX_DISPATCH(pairwise_tasks, p); }
int64_t pairwise_scratch(const GroupedParams& p) { GRADMIX_DISPATCH(pairwise_scratch, p); }
void gram_pairwise(const GroupedParams& p, int64_t begin, int64_t end, void* gram, void* scratch) {
  GRADMIX_DISPATCH(gram_pairwise, p, begin, end, gram, scratch);
}

}  // namespace gradmix::cpu::kernels
