"""Bad input: an error that names the argument and the value, on every backend."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import gradmix_ext as gx

N, C, D = 5, 4, 3
M = 9  # images


def arguments(op):
    """Valid arguments of an op, by name."""
    h, z = torch.randn(N, D), torch.randn(N, C)
    y, y2, lam = torch.arange(N) % C, torch.zeros(N, dtype=torch.int64), torch.rand(N)
    return {
        "masked_mixup": {"x": torch.randn(N, D), "partner": torch.arange(N), "lam": lam},
        "mixup_cross_entropy": {"logits": z, "target": y, "partner_target": y2, "lam": lam},
        "class_gradients": {"features": h, "logits": z, "target": y},
        "class_gram": {"features": h, "logits": z, "target": y},
        "pair_scores": {
            "features": h, "logits": z, "target": y, "partner_target": y2, "lam": lam,
            "direction_weight": torch.randn(C, D), "direction_bias": torch.randn(C),
            "num_classes": C,
        },
        "sample_scores": {
            "features": h, "logits": z, "target": y, "partner_target": y2, "lam": lam,
            "direction_weight": torch.randn(C, D), "direction_bias": torch.randn(C),
        },
        "blend_scores": {
            "scores": torch.randn(C, C), "scored": torch.ones(C, C, dtype=torch.bool),
            "allowed": torch.ones(C, C, dtype=torch.bool), "value": torch.randn(N), "target": y,
            "partner_target": y2, "momentum": 0.9, "threshold": 0.0,
        },
        "observe_scores": {
            "scores": torch.randn(C, C), "scored": torch.ones(C, C, dtype=torch.bool),
            "allowed": torch.ones(C, C, dtype=torch.bool), "features": h, "logits": z, "target": y,
            "partner_target": y2, "lam": lam, "direction_weight": torch.randn(C, D),
            "direction_bias": torch.randn(C), "momentum": 0.9, "threshold": 0.0,
        },
        "linear_scores": {"features": h, "logits": z, "target": y, "held": 2},
        "gather_augment_mixup": {
            "images": torch.zeros(M, 3, 2, 2, dtype=torch.uint8), "index": torch.arange(N),
            "partner_index": y, "lam": lam, "mean": [0.5] * 3, "std": torch.ones(3),
        },
        "draw_partners": {"target": y, "allowed": torch.ones(C, C, dtype=torch.bool)},
        "draw_softly": {"target": y, "preference": torch.zeros(C, C)},
        "mix_labels": {
            "target": y, "partner": torch.arange(N), "mask": torch.ones(N, dtype=torch.bool),
            "lam_x": torch.rand(N), "lam_y": torch.tensor(0.5), "strength": 0.5, "balance": 0.5,
        },
        "mix_batch": {
            "x": torch.randn(N, D), "target": y, "pairs": torch.zeros(C, C), "policy": "soft",
            "lam_x": torch.rand(N), "lam_y": torch.tensor(0.5), "noise": torch.rand(N).double(),
        },
        "pair_preferences": {
            "scores": torch.randn(C, C), "scored": torch.ones(C, C, dtype=torch.bool),
            "temperature": 4.0,
        },
    }[op]  # fmt: skip


def at(position, value, of):
    changed = of.clone()
    changed[position] = value
    return changed


LABELS = torch.arange(N) % C
NO_CLASS_2 = torch.tensor([True, True, False, True])
LAST_LAYER = [
    ({"features": torch.randn(N)}, r"features must have 2 dimensions, got shape \[5\]"),
    ({"features": torch.randn(4, D)}, "as many rows, got 4 and 5"),
    ({"features": torch.randn(N, D).double()}, "features and logits must have one dtype"),
    ({"logits": torch.randint(9, (N, C))}, "logits must be float32, .* got torch.int64"),
    ({"target": LABELS[:4]}, r"target must have shape \[5\], got \[4\]"),
    ({"target": LABELS.int()}, "target must be torch.int64, got torch.int32"),
    ({"target": at(2, C, LABELS)}, r"target\[2\] = 4 is out of range for 4 classes"),
    ({"target": at(1, -1, LABELS)}, r"target\[1\] = -1 is out of range for 4 classes"),
    ({"class_mask": NO_CLASS_2}, r"target\[2\] = 2 is not a class of class_mask"),
    ({"class_mask": NO_CLASS_2.int()}, "class_mask must be torch.bool"),
    ({"class_mask": NO_CLASS_2[:3]}, r"class_mask must have shape \[4\], got \[3\]"),
]
GROUPED = [
    *LAST_LAYER,
    ({"lam": 0.5}, "partner_target and lam come together, partner_target is missing"),
    ({"partner_target": LABELS}, "partner_target and lam come together, lam is missing"),
    ({"groups": LABELS, "num_groups": 2}, r"groups\[2\] = 2 is out of range for 2 groups"),
    ({"num_groups": 3}, r"target\[3\] = 3 is out of range for 3 groups"),
    ({"num_groups": -1}, "num_groups must not be negative, got -1"),
    ({"reduction": "none"}, "reduction must be one of mean, sum, got 'none'"),
]
BLENDING = [
    ({"momentum": 2.0}, r"momentum must be in \[0, 1\), got 2.0"),
    ({"momentum": -0.1}, r"momentum must be in \[0, 1\), got -0.1"),
    ({"momentum": float("nan")}, r"momentum must be in \[0, 1\), got nan"),
    ({"threshold": float("nan")}, "threshold must be finite, got nan"),
    ({"threshold": float("-inf")}, "threshold must be finite, got -inf"),
]
CASES = {
    "masked_mixup": [
        ({"x": torch.tensor(1.0)}, "x must have a batch dimension"),
        ({"x": torch.ones(N, D, dtype=torch.uint8)}, "x must be float32, .* got torch.uint8"),
        ({"x": [1.0]}, "x must be a tensor, got list"),
        ({"partner": torch.arange(N - 1)}, r"partner must have shape \[5\], got \[4\]"),
        ({"partner": torch.zeros(N)}, "partner must be torch.int64, got torch.float32"),
        ({"partner": at(3, 17, LABELS)}, r"partner\[3\] = 17 is out of range for a batch of 5"),
        ({"partner": at(0, -1, LABELS)}, r"partner\[0\] = -1 is out of range"),
        ({"lam": torch.rand(3)}, r"lam must be a scalar or have shape \[5\], got \[3\]"),
        ({"lam": torch.arange(N)}, "lam must be floating point, got torch.int64"),
        ({"lam": "0.5"}, "lam must be a tensor or a number, got str"),
        ({"lam": torch.rand(N, requires_grad=True)}, "lam must not require grad"),
        ({"mask": torch.ones(N)}, "mask must be torch.bool, got torch.float32"),
        ({"mask": torch.ones(N, device="meta").bool()}, "mask must be on cpu, got meta"),
    ],
    "mixup_cross_entropy": [
        ({"logits": torch.randn(N)}, "logits must have 2 dimensions"),
        ({"target": LABELS[:4]}, r"target must have shape \[5\]"),
        ({"partner_target": at(4, 9, LABELS)}, r"partner_target\[4\] = 9 is out of range for 4"),
        ({"target": at(0, -1, LABELS)}, r"target\[0\] = -1 is out of range for 4 classes"),
        ({"class_mask": NO_CLASS_2}, r"target\[2\] = 2 is not a class of class_mask"),
        ({"reduction": "average"}, "reduction must be one of mean, sum, none, got 'average'"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\], got 1.5"),
        ({"lam": torch.rand(2, 2)}, r"lam must be a scalar or have shape \[5\], got \[2, 2\]"),
        ({"sample_weight": torch.rand(1)}, r"sample_weight must have shape \[5\], got \[1\]"),
        ({"sample_weight": torch.rand(())}, r"sample_weight must have shape \[5\], got \[\]"),
        ({"sample_weight": LABELS}, "sample_weight must be float32, .* got torch.int64"),
        ({"sample_weight": 0.5}, "sample_weight must be a tensor, got float"),
        ({"sample_weight": torch.ones(N, requires_grad=True)}, "sample_weight must not require"),
    ],
    "class_gradients": GROUPED,
    "class_gram": [*GROUPED, ({"algorithm": "fast"}, "algorithm must be one of auto, pairwise")],
    "pair_scores": [
        *LAST_LAYER,
        ({"direction_weight": torch.randn(C, 2)}, r"direction_weight must have shape \[4, 3\]"),
        ({"direction_bias": torch.randn(3)}, r"direction_bias must have shape \[4\], got \[3\]"),
        ({"num_classes": 2}, r"target\[2\] = 2 is out of range for 2 classes"),
        ({"num_classes": -1}, "num_classes must not be negative, got -1"),
    ],
    "sample_scores": [
        *LAST_LAYER,
        ({"partner_target": at(4, 9, LABELS)}, r"partner_target\[4\] = 9 is out of range for 4"),
        ({"direction_weight": torch.randn(C, 2)}, r"direction_weight must have shape \[4, 3\]"),
        ({"direction_bias": torch.randn(3)}, r"direction_bias must have shape \[4\], got \[3\]"),
    ],
    "blend_scores": [
        ({"scores": torch.randn(C, 3)}, r"scores must be square, got shape \[4, 3\]"),
        (
            {"scores": torch.randn(C, C).half()},
            "scores must be float32 or float64, got torch.float",
        ),
        ({"scored": torch.ones(C, C)}, "scored must be torch.bool, got torch.float32"),
        ({"allowed": torch.ones(3, 3).bool()}, r"allowed must have shape \[4, 4\], got \[3, 3\]"),
        ({"value": torch.randn(3)}, r"value must have shape \[5\], got \[3\]"),
        ({"value": torch.randn(N).double()}, "value must be torch.float32, got torch.float64"),
        ({"target": at(2, 7, LABELS)}, r"target\[2\] = 7 is out of range for 4 classes"),
        ({"partner_target": at(0, -1, LABELS)}, r"partner_target\[0\] = -1 is out of range for 4"),
        *BLENDING,
    ],
    "observe_scores": [
        *LAST_LAYER,
        *BLENDING,
        ({"scores": torch.randn(C, 3)}, r"scores must be square, got shape \[4, 3\]"),
        ({"scores": torch.randn(C)}, r"scores must have 2 dimensions, got shape \[4\]"),
        ({"scored": torch.ones(C, C)}, "scored must be torch.bool, got torch.float32"),
        ({"allowed": torch.ones(3, 3).bool()}, r"allowed must have shape \[4, 4\], got \[3, 3\]"),
        ({"partner_target": at(4, 9, LABELS)}, r"partner_target\[4\] = 9 is out of range for 4"),
        ({"lam": torch.rand(3)}, r"lam must be a scalar or have shape \[5\], got \[3\]"),
        ({"direction_weight": torch.randn(C, 2)}, r"direction_weight must have shape \[4, 3\]"),
        ({"direction_bias": torch.randn(3)}, r"direction_bias must have shape \[4\], got \[3\]"),
        ({"logits": torch.randn(N, C, requires_grad=True)}, "logits must not require grad"),
        ({"scores": torch.randn(C, C, requires_grad=True)}, "scores must not require grad"),
        ({"features": [1.0]}, "features must be a tensor, got list"),
        ({"logits": None}, "logits must be a tensor, got NoneType"),
        (
            {
                "scores": torch.randn(3, 3),
                "scored": torch.ones(3, 3).bool(),
                "allowed": torch.ones(3, 3).bool(),
            },
            r"target\[3\] = 3 is out of range for 3 classes",
        ),
    ],
    "linear_scores": [
        *LAST_LAYER,
        ({"held": 6}, r"held must be in \[0, 5\], got 6"),
        ({"held": -1}, r"held must be in \[0, 5\], got -1"),
        ({"features": torch.randn(N, D, requires_grad=True)}, "features must not require grad"),
    ],
    "gather_augment_mixup": [
        ({"images": torch.zeros(M, 3, 2, 2)}, "images must be torch.uint8, got torch.float32"),
        ({"images": torch.zeros(M, 2, 2, dtype=torch.uint8)}, "images must have 4 dimensions, got"),
        ({"layout": "nchw"}, "layout must be one of chw, hwc, got 'nchw'"),
        ({"layout": "hwc"}, r"mean must have shape \[2\], got \[3\]"),
        ({"index": LABELS.int()}, "index must be torch.int64, got torch.int32"),
        ({"index": LABELS[None]}, r"index must have 1 dimension, got shape \[1, 5\]"),
        ({"index": at(3, M, LABELS)}, r"index\[3\] = 9 is out of range for 9 images"),
        ({"index": at(0, -1, LABELS)}, r"index\[0\] = -1 is out of range for 9 images"),
        ({"partner_index": LABELS[:4]}, r"partner_index must have shape \[5\], got \[4\]"),
        ({"partner_index": at(4, 12, LABELS)}, r"partner_index\[4\] = 12 is out of range for 9"),
        ({"partner_index": None}, "lam needs partner_index, which is missing"),
        ({"partner_index": None, "lam": 0.5}, "lam needs partner_index, which is missing"),
        ({"partner_index": None, "lam": 1.0, "mask": LABELS > 0}, "mask needs partner_index"),
        ({"lam": torch.rand(3)}, r"lam must be a scalar or have shape \[5\], got \[3\]"),
        ({"mask": LABELS}, "mask must be torch.bool, got torch.int64"),
        ({"mean": [0.5, 0.5]}, r"mean must have shape \[3\], got \[2\]"),
        ({"std": torch.ones(3).long()}, "std must be float32, .* got torch.int64"),
        ({"std": torch.tensor([1.0, 0.0, 1.0])}, r"std\[1\] is zero"),
        ({"padding": -1}, "padding must not be negative, got -1"),
        ({"hflip": True, "noise": torch.rand(N, 2, 3).double()}, "noise must be torch.float32"),
        ({"noise": torch.rand(N, 1, 3)}, r"noise must have shape \[5, 2, 3\], got \[5, 1, 3\]"),
        ({"dtype": torch.uint8}, "dtype must be float32, .* got torch.uint8"),
        ({"memory_format": torch.preserve_format}, "memory_format must be contiguous_format or"),
    ],
    "draw_partners": [
        ({"target": LABELS[None]}, r"target must have 1 dimension, got shape \[1, 5\]"),
        ({"target": at(2, 7, LABELS)}, r"target\[2\] = 7 is out of range for 4 classes"),
        ({"allowed": torch.ones(C, C)}, "allowed must be torch.bool"),
        ({"allowed": torch.ones(C, 3).bool()}, r"allowed must be square, got shape \[4, 3\]"),
        ({"policy": "best"}, "policy must be one of redraw, skip, got 'best'"),
        ({"exploration": 1.0}, r"exploration must be in \[0, 1\), got 1.0"),
        ({"noise": torch.rand(N)}, "noise must be torch.float64, got torch.float32"),
    ],
    "draw_softly": [
        ({"target": LABELS[None]}, r"target must have 1 dimension, got shape \[1, 5\]"),
        ({"target": LABELS.int()}, "target must be torch.int64, got torch.int32"),
        ({"target": at(2, 7, LABELS)}, r"target\[2\] = 7 is out of range for 4 classes"),
        ({"target": at(0, -1, LABELS)}, r"target\[0\] = -1 is out of range for 4 classes"),
        ({"preference": torch.ones(C, C).int()}, "preference must be float32, .* got torch.int32"),
        ({"preference": torch.ones(C)}, "preference must have 2 dimensions, got"),
        ({"preference": torch.ones(C, 3)}, r"preference must be square, got shape \[4, 3\]"),
        ({"noise": torch.rand(N)}, "noise must be torch.float64, got torch.float32"),
        ({"noise": torch.rand(3).double()}, r"noise must have shape \[5\], got \[3\]"),
    ],
    "mix_labels": [
        ({"target": LABELS[None]}, r"target must have 1 dimension, got shape \[1, 5\]"),
        ({"target": LABELS.float()}, "target must be torch.int64, got torch.float32"),
        ({"partner": LABELS[:3]}, r"partner must have shape \[5\], got \[3\]"),
        ({"partner": at(3, 5, LABELS)}, r"partner\[3\] = 5 is out of range for a batch of 5"),
        ({"partner": at(1, -1, LABELS)}, r"partner\[1\] = -1 is out of range for a batch of 5"),
        ({"mask": LABELS}, "mask must be torch.bool, got torch.int64"),
        ({"lam_x": 0.5}, "lam_x must be a tensor, got float"),
        ({"lam_x": LABELS}, "lam_x must be floating point, got torch.int64"),
        ({"lam_y": torch.rand(3)}, r"lam_y must be a scalar or have shape \[5\], got \[3\]"),
        ({"lam_y": torch.rand(N, requires_grad=True)}, "lam_y must not require grad"),
        ({"strength": -0.5}, r"strength must be in \[0, 1\], got -0.5"),
        ({"balance": 1.5}, r"balance must be in \[0, 1\], got 1.5"),
        ({"balance": float("nan")}, r"balance must be in \[0, 1\], got nan"),
    ],
    "mix_batch": [
        ({"x": torch.randint(9, (N, D))}, "x must be float32, .* got torch.int64"),
        ({"x": torch.tensor(1.0)}, "x must have a batch dimension, got a scalar"),
        ({"x": torch.randn(4, D)}, r"target must have shape \[4\], got \[5\]"),
        ({"target": LABELS.int()}, "target must be torch.int64, got torch.int32"),
        ({"target": at(2, 7, LABELS)}, r"target\[2\] = 7 is out of range for 4 classes"),
        ({"pairs": torch.ones(C, C).bool()}, "pairs must be float32, .* got torch.bool"),
        ({"policy": "skip"}, "pairs must be torch.bool for 'skip', got torch.float32"),
        ({"pairs": torch.zeros(C, 3)}, r"pairs must be square, got shape \[4, 3\]"),
        ({"policy": "best"}, "policy must be one of redraw, skip, soft, got 'best'"),
        ({"index": LABELS.int()}, "index must be torch.int64, got torch.int32"),
        ({"index": LABELS[:4]}, r"target must have shape \[4\], got \[5\]"),
        ({"index": at(3, 5, LABELS)}, r"index\[3\] = 5 is out of range for 5 rows"),
        ({"lam_x": None}, "lam_x and lam_y must both be given, or neither"),
        ({"lam_x": None, "lam_y": None}, r"noise must have shape \[10\], got \[5\]"),
        ({"lam_x": 0.5}, "lam_x must be a tensor, got float"),
        ({"lam_y": torch.rand(3)}, r"lam_y must be a scalar or have shape \[5\], got \[3\]"),
        ({"lam_y": torch.rand(N, requires_grad=True)}, "lam_y must not require grad"),
        ({"noise": torch.rand(N)}, "noise must be torch.float64, got torch.float32"),
        ({"exploration": 1.0}, r"exploration must be in \[0, 1\), got 1.0"),
        ({"strength": -0.5}, r"strength must be in \[0, 1\], got -0.5"),
        ({"balance": 1.5}, r"balance must be in \[0, 1\], got 1.5"),
    ],
    "pair_preferences": [
        ({"scores": torch.randn(C, C, requires_grad=True)}, "scores must not require grad"),
        ({"scores": torch.randn(C, C).half()}, "scores must be float32 or float64, got torch.f"),
        ({"scores": torch.randn(C, 3)}, r"scores must be square, got shape \[4, 3\]"),
        ({"scored": torch.ones(C, C)}, "scored must be torch.bool, got torch.float32"),
        (
            {"scored": torch.ones(C, 3, dtype=torch.bool)},
            r"scored must have shape \[4, 4\], got \[4, 3\]",
        ),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
    ],
}


@pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
@pytest.mark.parametrize(
    ("op", "change", "message"),
    [
        pytest.param(op, change, message, id=f"{op}-{message}")
        for op, cases in CASES.items()
        for change, message in cases
    ],
)
def test_error_names_argument_and_value(module, op, change, message):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=f"{op}: .*{message}") as caught:
        getattr(module, op)(**arguments(op) | change)
    # alone, without what a kernel said of it before
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_an_op_that_does_the_work_of_another_names_itself():
    given = arguments("mix_batch") | {"x": torch.randint(9, (N, D))}
    with pytest.raises((TypeError, RuntimeError), match=r"mix_batch: x must be float32, "):
        torch.ops.gradmix_ext.mix_batch(**given)


@pytest.mark.parametrize("op", CASES)
def test_valid_arguments_pass(op):
    getattr(gx.ops, op)(**arguments(op))


def test_debug_checks_can_be_switched():
    gx.debug_checks(True)
    try:
        with pytest.raises(RuntimeError, match=r"partner\[0\] = 9"):
            gx.ops.masked_mixup(torch.randn(1, 2), torch.tensor([9]), 0.5)
    finally:
        gx.debug_checks(False)


def test_debug_checks_leave_tensors_without_values_alone():
    x, partner = torch.randn(3, 5, 2), torch.arange(5).expand(3, 5)
    gx.debug_checks(True)
    try:
        mixed = torch.func.vmap(lambda x, partner: gx.ops.masked_mixup(x, partner, 0.3))(x, partner)
        torch.testing.assert_close(mixed, x)
        assert gx.ops.masked_mixup(x[0].to("meta"), partner[0].to("meta"), 0.3).shape == (5, 2)
        real = x[0], partner[0]
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(tensor) for tensor in real]
            assert gx.ops.masked_mixup(*fake, 0.3).shape == (5, 2)
    finally:
        gx.debug_checks(False)
