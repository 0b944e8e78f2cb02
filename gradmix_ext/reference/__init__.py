"""What each fused op means, in pure PyTorch.

The same names and signatures as :mod:`gradmix_ext.ops`. These functions are the fallback where no
compiled library serves a device, and the truth that the kernels are tested against. They are
differentiable by PyTorch's own autograd and never hold an [N, C, d] tensor.
"""

from gradmix_ext.reference.blend_scores import blend_scores
from gradmix_ext.reference.class_gradients import class_gradients, class_gram
from gradmix_ext.reference.draw_partners import draw_partners
from gradmix_ext.reference.draw_softly import draw_softly
from gradmix_ext.reference.gather_augment_mixup import gather_augment_mixup
from gradmix_ext.reference.linear_scores import linear_scores
from gradmix_ext.reference.masked_mixup import masked_mixup, masked_mixup_backward
from gradmix_ext.reference.mix_batch import mix_batch
from gradmix_ext.reference.mix_labels import mix_labels
from gradmix_ext.reference.mixup_cross_entropy import (
    mixup_cross_entropy,
    mixup_cross_entropy_backward,
)
from gradmix_ext.reference.observe_scores import observe_scores
from gradmix_ext.reference.pair_preferences import pair_preferences
from gradmix_ext.reference.pair_scores import pair_scores, sample_scores

__all__ = [
    "blend_scores",
    "class_gradients",
    "class_gram",
    "draw_partners",
    "draw_softly",
    "gather_augment_mixup",
    "linear_scores",
    "masked_mixup",
    "masked_mixup_backward",
    "mix_batch",
    "mix_labels",
    "mixup_cross_entropy",
    "mixup_cross_entropy_backward",
    "observe_scores",
    "pair_preferences",
    "pair_scores",
    "sample_scores",
]
