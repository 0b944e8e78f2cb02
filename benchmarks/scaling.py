"""Time and memory of each op over N, C and d, and of an epoch over the number of classes.

Up to the head of a ResNet-50 on ImageNet: 1,000 classes, 2,048 features, 50,000 samples. What does
not fit into the memory that is free is left out, with a word.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bench_p1_class_gram as p1
import bench_p2_pair_scores as p2
import bench_p3_masked_mixup as p3
import bench_p4_mixup_cross_entropy as p4
import bench_p5_gather_augment_mixup as p5
import torch
from bench_p6_training import LastEpoch

import gradmix_ext as gx
from gradmix_ext.bench import Case, Role, Setting, Timed, Workload
from gradmix_ext.bench.workload import plain
from gradmix_ext.continual import ArrayDataset, Trainer
from gradmix_ext.continual.models import mlp

SAMPLES, CLASSES, FEATURES = "N samples", "C classes", "d features"
USUAL = {"n": 2000, "c": 100, "d": 512}
HEAD = {
    (SAMPLES, "n"): (500, 2000, 8000, 50_000),
    (CLASSES, "c"): (10, 30, 100, 300, 1000),
    (FEATURES, "d"): (128, 512, 2048),
}
IMAGENET = Setting(
    "50000x1000x2048", {"n": 50_000, "c": 1000, "d": 2048}, axis="ImageNet's head, N samples",
    at=50_000,
)  # fmt: skip
QUICK = (500, 10, 128)


def name_of(values):
    return "x".join(str(values[key]) for key in values)


def over(axes, usual):
    """One setting for each value of each axis, the others as usual."""
    found = []
    for (axis, key), values in axes.items():
        for value in values:
            sizes = {**usual, key: value}
            found.append(
                Setting(
                    f"{axis}: {name_of(sizes)}", sizes, quick=value in QUICK, axis=axis, at=value
                )
            )
    return tuple(found)


def scaled(workload: Workload, settings: tuple[Setting, ...], keep: dict[str, Any]) -> Workload:
    """A workload at these settings, with some of its cases: new bounds of memory by their names."""
    cases = tuple(
        replace(case, memory=keep[case.name] or case.memory, slow=False)
        for case in workload.cases
        if case.name in keep
    )
    return replace(workload, id="scaling", settings=settings, cases=cases, targets=())


# The right result of all classes would be larger, in float64, than anything that is measured here:
# it is compared for the first ones, which their own samples decide.
COMPARED = 8


def of_first_classes(h, z, y):
    own = y < COMPARED
    return h[own].double(), z[own].double(), y[own]


def gram_truth(setting, h, z, y):
    return gx.reference.class_gram(*of_first_classes(h, z, y), num_groups=COMPARED)


def gradients_truth(setting, h, z, y):
    return gx.reference.class_gradients(*of_first_classes(h, z, y), num_groups=COMPARED)[0]


def pairs_of_samples(setting):
    """Three matrices [N, N] at once."""
    return 4 * 3 * setting["n"] ** 2 + 4 * setting["n"] * (setting["c"] + setting["d"])


def class_gradient_bytes(setting):
    return 4 * 2 * setting["c"] ** 2 * setting["d"]


GRAM = replace(
    scaled(
        p1.WORKLOADS[0],
        (*over(HEAD, USUAL), IMAGENET),
        {
            "gradmix_ext": None,
            "factorised formula": pairs_of_samples,
            "one backward per class": class_gradient_bytes,
            "backpack": None,
        },
    ),
    truth=gram_truth,
)
GRAM = replace(
    GRAM, cases=tuple(replace(c, value=lambda r: r[:COMPARED, :COMPARED]) for c in GRAM.cases)
)


def gradients_by_backward(setting, device):
    """One backward pass for each class."""

    def call(h, z, y):
        c, d = setting["c"], setting["d"]
        weight = torch.zeros(c, d, device=h.device, requires_grad=True)
        found = h.new_zeros(c, c, d)
        for k in range(c):
            own = y == k
            if own.any():
                loss = torch.nn.functional.cross_entropy(z[own] + h[own] @ weight.T, y[own])
                found[k] = torch.autograd.grad(loss, weight)[0]
        return found

    return call


GRADIENTS = Workload(
    "scaling", "class_gradients", (*over(HEAD, USUAL), IMAGENET),
    (
        Case(
            "gradmix_ext", plain(lambda h, z, y: gx.ops.class_gradients(h, z, y)), Role.OURS,
            value=lambda r: r[0][:COMPARED], memory=class_gradient_bytes,
        ),
        Case(
            "one backward per class", gradients_by_backward, memory=class_gradient_bytes,
            value=lambda r: r[:COMPARED],
        ),
    ),
    p1.inputs, gradients_truth,
)  # fmt: skip


def score_inputs(setting, device):
    """Labels of random pairs: there may be fewer pairs than samples, or more."""
    n, c, d = setting["n"], setting["c"], setting["d"]
    a, b = torch.randint(c, (2, n), device=device)
    h, z = torch.randn(n, d, device=device), torch.randn(n, c, device=device)
    lam = torch.rand(n, device=device)
    return h, z, a, b, lam, torch.randn(c, d, device=device), torch.randn(c, device=device)


SCORES = replace(
    scaled(
        p2.WORKLOADS[0],
        (*over(HEAD, USUAL), IMAGENET),
        {"gradmix_ext": None, "dense einsum": None, "dense einsum, torch.compile": None},
    ),
    inputs=score_inputs,
)

MIXUP = scaled(
    p3.WORKLOADS[0],
    tuple(
        Setting(
            f"N samples: {n}x3x224x224",
            {"shape": (n, 3, 224, 224), "dtype": torch.float32, "layout": torch.contiguous_format},
            quick=n == 16, axis=SAMPLES, at=n,
        )
        for n in (16, 64, 256, 1024)
    ),
    {
        "gradmix_ext out=": None, "gradmix_ext": None, "torch.compile": None, "torch.lerp": None,
        "eager, two terms": None,
    },
)  # fmt: skip

LOSS = scaled(
    p4.WORKLOADS[0],
    over(
        {(SAMPLES, "n"): (500, 2000, 8000, 50_000), (CLASSES, "c"): (10, 100, 1000, 10_000)},
        {"n": 2000, "c": 1000},
    ),
    {
        "gradmix_ext": None, "soft targets": None, "two hard labels": None,
        "two hard labels, torch.compile": None,
    },
)  # fmt: skip

GATHER = scaled(
    p5.WORKLOADS[0],
    over({(SAMPLES, "n"): (32, 128, 512, 2048)}, {"n": 512}),
    {
        "gradmix_ext": None, "eager, on the device, crop by index": None,
        "eager, crop by index, torch.compile": None,
    },
)  # fmt: skip


def partner_inputs(setting, device):
    n, c = setting["n"], setting["c"]
    allowed = torch.rand(c, c, device=device) < 0.3
    return (
        torch.randint(c, (n,), device=device),
        allowed | allowed.T,
        torch.rand(n, dtype=torch.float64, device=device),
    )


def draw(y, allowed, noise):
    return gx.ops.draw_partners(y, allowed, noise=noise)


PARTNERS = Workload(
    "scaling", "draw_partners",
    over(
        {(SAMPLES, "n"): (500, 2000, 8000, 50_000), (CLASSES, "c"): (10, 30, 100, 300, 1000)},
        {"n": 2000, "c": 100},
    ),
    (
        Case("gradmix_ext", plain(draw), Role.OURS, value=lambda r: r[0]),
        Case(
            "pure PyTorch",
            plain(lambda y, allowed, noise: gx.reference.draw_partners(y, allowed, noise=noise)),
            value=lambda r: r[0],
        ),
    ),
    partner_inputs,
    lambda setting, y, allowed, noise: gx.reference.draw_partners(y, allowed, noise=noise)[0]
    .double(),
    tolerance=lambda setting: 0.0,
)  # fmt: skip


# Epochs -------------------------------------------------------------------------------------------


def vectors(classes, samples=4000, features=512):
    """So many samples in all, whatever the number of classes."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % classes
    x = torch.randn(samples, features, generator=g)
    test_y = torch.arange(classes)
    names = tuple(map(str, range(classes)))
    return ArrayDataset(
        "vectors", x, y, torch.randn(classes, features, generator=g), test_y, names, (features,),
        None,
    )  # fmt: skip


def epoch(**options):
    def prepare(setting, device):
        classes = setting["c"]
        scenario = gx.continual.class_incremental(vectors(classes), tasks=2, class_order_seed=None)

        def call():
            clock = LastEpoch(device)
            mixer = (
                gx.GradMix(classes, generator=torch.Generator(device).manual_seed(0), **options)
                if options
                else "none"
            )
            Trainer(
                lambda s: mlp(s.input_shape, s.num_classes), mixer, "er", 1000,
                epochs=1, batch_size=128, device=device, callbacks=[clock],
            ).fit(scenario)  # fmt: skip
            return Timed(clock.seconds)

        return call

    return prepare


EPOCH = Workload(
    "scaling", "epoch of 2,000 samples",
    over({(CLASSES, "c"): (10, 30, 100, 300, 1000)}, {"c": 100}),
    (
        Case("gradmix_ext GradMix, criterion linear", epoch(criterion="linear"), Role.OURS),
        Case("gradmix_ext GradMix, criterion gram", epoch(criterion="gram"), Role.OURS),
        Case(
            "gradmix_ext GradMix, update online",
            epoch(update="online", policy="redraw"), Role.OURS,
        ),
        Case(
            "gradmix_ext GradMix, criterion mixed, 1 sample a pair",
            epoch(criterion="mixed", samples_per_pair=1), Role.OURS,
        ),
        Case("ER, without a criterion", epoch(), Role.LIMIT),
    ),
)  # fmt: skip

WORKLOADS = (GRAM, GRADIENTS, SCORES, MIXUP, LOSS, GATHER, PARTNERS, EPOCH)
