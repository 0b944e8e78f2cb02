"""The fused ops, each with a schema, a pure PyTorch meaning, kernels and gradients.

Registered as ``torch.ops.gradmix_ext.*``. A call runs the compiled kernel for its device when there
is one and pure PyTorch (:mod:`gradmix_ext.reference`) when there is none.
"""

from gradmix_ext._checks import debug_checks
from gradmix_ext.ops.blend_scores import blend_scores
from gradmix_ext.ops.class_gradients import class_gradients, class_gram
from gradmix_ext.ops.draw_partners import draw_partners
from gradmix_ext.ops.draw_softly import draw_softly
from gradmix_ext.ops.gather_augment_mixup import gather_augment_mixup
from gradmix_ext.ops.linear_scores import linear_scores
from gradmix_ext.ops.masked_mixup import masked_mixup
from gradmix_ext.ops.mix_batch import mix_batch
from gradmix_ext.ops.mix_labels import mix_labels
from gradmix_ext.ops.mixup_cross_entropy import mixup_cross_entropy
from gradmix_ext.ops.observe_scores import observe_scores
from gradmix_ext.ops.pair_preferences import pair_preferences
from gradmix_ext.ops.pair_scores import pair_scores, sample_scores

__all__ = [
    "blend_scores",
    "class_gradients",
    "class_gram",
    "debug_checks",
    "draw_partners",
    "draw_softly",
    "gather_augment_mixup",
    "linear_scores",
    "masked_mixup",
    "mix_batch",
    "mix_labels",
    "mixup_cross_entropy",
    "observe_scores",
    "pair_preferences",
    "pair_scores",
    "sample_scores",
]
