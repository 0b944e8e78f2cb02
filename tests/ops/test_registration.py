"""Registration: opcheck, gradients to second order, and compilation without graph breaks."""

from __future__ import annotations

import pytest
import torch
from samples import Sample, samples
from torch._dynamo.testing import CompileCounter
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.nn import functional

import gradmix_ext as gx

DIFFERENTIABLE = (
    "masked_mixup",
    "mixup_cross_entropy",
    "class_gradients",
    "class_gram",
    "pair_scores",
    "sample_scores",
)
OPS = (
    *DIFFERENTIABLE,
    "linear_scores",
    "draw_partners",
    "draw_softly",
    "mix_labels",
    "mix_batch",
    "pair_preferences",
    "gather_augment_mixup",
)
SMALL = ((1, 1, 1), (5, 4, 3))


def differentiable_inputs(sample: Sample) -> Sample:
    """float64 data that requires grad; λ, noise and labels stay as they are."""
    return sample.map(
        lambda t: t.detach().clone().requires_grad_() if t.dtype == torch.float64 else t
    )


def small(op):
    found = samples(op, torch.float64, SMALL)
    if op == "masked_mixup":  # λ in float64 would count as data
        found = [sample for sample in found if not sample.name.endswith("last")]
    if op == "mixup_cross_entropy":  # finite differences at the masked inf are NaN
        found = [sample.map(lambda t: t.nan_to_num(posinf=1.0)) for sample in found]
    if op in ("pair_scores", "sample_scores"):
        found = [_with_float64_direction(sample) for sample in found]
    return found


def _with_float64_direction(sample: Sample) -> Sample:
    *head, weight, bias = sample.args
    return Sample(sample.op, sample.name, (*head, weight.double(), bias.double()), sample.kwargs)


def call(module, sample: Sample):
    """The op as a function of its differentiable inputs alone."""
    inputs = [t for t in sample.args if isinstance(t, torch.Tensor) and t.requires_grad]

    def function(*values):
        values = iter(values)
        args = [
            next(values) if isinstance(t, torch.Tensor) and t.requires_grad else t
            for t in sample.args
        ]
        result = getattr(module, sample.op)(*args, **sample.kwargs)
        if isinstance(result, tuple):
            return tuple(t for t in result if t.is_floating_point())
        return result

    return function, inputs


@pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_gradients(module, op, backend):
    for sample in map(differentiable_inputs, small(op)):
        function, inputs = call(module, sample)
        gradcheck(function, inputs)
        gradgradcheck(function, inputs, fast_mode=True)  # along random directions


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op, backend):
    overload = getattr(torch.ops.gradmix_ext, op).default
    # one sample of a kind; the values are checked elsewhere
    for sample in samples(op, torch.float32, ((6, 5, 3),)):
        args = tuple(
            t.detach().clone().requires_grad_()
            if op in DIFFERENTIABLE
            and isinstance(t, torch.Tensor)
            and t.dtype == torch.float32
            and t.dim() > 1
            else t
            for t in sample.args
        )
        opcheck(overload, args, sample.kwargs)


def test_opcheck_of_the_helpers(backend):
    ops = torch.ops.gradmix_ext
    x, partner, lam = torch.randn(5, 3), torch.randperm(5), torch.rand(5)
    mask = torch.rand(5) < 0.5
    opcheck(ops.masked_mixup.out, (x, partner, lam, mask), {"out": torch.empty_like(x)})
    opcheck(ops.masked_mixup_backward, (x.requires_grad_(), partner, lam, mask))
    z, y, y2 = torch.randn(5, 4, requires_grad=True), *torch.randint(4, (2, 5))
    opcheck(ops.mixup_cross_entropy_with_gradient, (z.detach(), y, y2, lam))
    opcheck(ops.mixup_cross_entropy_with_gradient, (z.detach(), y, y2, lam), {"sample_weight": lam})
    for reduction, grad in (("mean", torch.randn(())), ("none", torch.randn(5))):
        opcheck(
            ops.mixup_cross_entropy_backward,
            (grad.requires_grad_(), z, y, y2, lam),
            {"reduction": reduction},
        )

    pairs = torch.randn(4, 4), torch.rand(4, 4) < 0.5, torch.rand(4, 4) < 0.5
    opcheck(ops.blend_scores, (*pairs, torch.randn(5), y, y2, 0.9, 0.0))
    direction = torch.randn(4, 3), torch.randn(4)
    mixed = x.detach(), z.detach(), y, y2, lam, *direction
    opcheck(ops.observe_scores, (*pairs, *mixed, 0.9, 0.0))


def test_expanded_gradient_reaches_the_kernels(backend):
    """``sum().backward()`` hands over a gradient of stride 0."""
    x = torch.randn(4, 3, 5, requires_grad=True)
    partner, lam = torch.tensor([1, 1, 0, 2]), torch.tensor([0.2, 0.5, 0.7, 1.0])
    gx.ops.masked_mixup(x, partner, lam).sum().backward()
    want = lam.clone().index_add(0, partner, 1 - lam)
    torch.testing.assert_close(x.grad, want[:, None, None].expand_as(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_the_loss_can_be_asked_for_again(weighted, reduction, dtype, backend):
    """It is formed with the loss; what a caller does to it must not reach the next one."""
    z = torch.randn(7, 5, dtype=torch.float64).to(dtype).requires_grad_()
    y, y2 = torch.randint(5, (2, 7))
    options = {"reduction": reduction, "sample_weight": torch.rand(7) if weighted else None}
    loss = gx.ops.mixup_cross_entropy(z, y, y2, 0.3, **options)
    upstream = 64 * torch.rand_like(loss)  # as a loss scale
    wide = z.detach().double().requires_grad_()
    reference = gx.reference.mixup_cross_entropy(wide, y, y2, 0.3, **options)
    (want,) = torch.autograd.grad(reference, wide, upstream.double())
    for _ in range(3):
        (got,) = torch.autograd.grad(loss, z, upstream, retain_graph=True)
        torch.testing.assert_close(got, want.to(dtype))
        got.zero_()
    torch.autograd.grad(loss, z, upstream)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, z, upstream)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_many_gradients_of_the_loss_at_once(dtype, backend):
    z, (y, y2) = torch.randn(7, 5).to(dtype), torch.randint(5, (2, 7))

    def loss(z):
        return gx.ops.mixup_cross_entropy(z, y, y2, 0.3, reduction="none")

    at_once, in_turn = (
        torch.autograd.functional.jacobian(loss, z, vectorize=vectorize)
        for vectorize in (True, False)
    )
    assert torch.equal(at_once, in_turn)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic, backend):
    """The whole mixing step in one graph equals the same step run eagerly."""
    allowed = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)

    def step(x, weight, y, noise, lam):
        partner, mask = gx.ops.draw_partners(y, allowed, noise=noise)
        other, _ = gx.ops.draw_softly(y, allowed.float(), noise=noise)
        partner = torch.where(mask, partner, other)
        mixed = gx.ops.masked_mixup(x, partner, lam, mask)
        mixed = gx.ops.mix_batch(mixed, y, allowed, "skip", None, lam, lam, noise=noise)[0]
        logits = mixed @ weight
        label, _, own, weight = gx.ops.mix_labels(y, partner, mask, lam, lam, balance=0.5)
        loss = gx.ops.mixup_cross_entropy(logits, y, label, own, sample_weight=weight)
        gram = gx.ops.class_gram(mixed, logits, y)
        direction, bias, _ = gx.ops.class_gradients(mixed, logits, y, groups=y * 0, num_groups=1)
        pair = mixed, logits, y, y[partner], lam, direction[0], bias[0]
        score, _ = gx.ops.pair_scores(*pair, num_classes=3)
        value = gx.ops.sample_scores(*pair)
        blended = torch.zeros(3, 3), torch.zeros_like(allowed), allowed.clone()
        gx.ops.blend_scores(*blended, value.detach(), y, y[partner], momentum=0.9, threshold=0.0)
        seen = [t.detach() for t in pair]
        gx.ops.observe_scores(*blended, *seen, momentum=0.9, threshold=0.0)
        preference = gx.ops.pair_preferences(blended[0].detach(), blended[1], 4.0)
        linear, _ = gx.ops.linear_scores(*seen[:3], 2)
        scores = score + blended[0] + preference + linear
        return loss + gram.sum() + scores.sum() + value.sum()

    # Inductor generates C++ for the CPU, which needs the compiler that this backend lacks.
    code_generator = "aot_eager" if backend == "torch" else "inductor"
    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend=code_generator)
    for n in (8, 11):
        x, weight = torch.randn(n, 6, requires_grad=True), torch.randn(6, 3, requires_grad=True)
        y = torch.randint(3, (n,))
        noise, lam = torch.rand(n, dtype=torch.float64), torch.rand(n)
        got, want = (function(x, weight, y, noise, lam) for function in (compiled, step))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(
            torch.autograd.grad(got, (x, weight)), torch.autograd.grad(want, (x, weight))
        )


def test_one_graph_serves_batches_of_all_sizes(backend):
    def criterion(h, z, y, held):
        scores, scored = gx.ops.linear_scores(h, z, y, held)
        allowed = scored.clone()
        direction = torch.ones(4, 5), torch.ones(4)
        gx.ops.observe_scores(
            scores, scored, allowed, h, z, y, y, 0.5, *direction, momentum=0.5, threshold=0.0
        )
        return scores

    counter = CompileCounter()
    compiled = torch.compile(criterion, fullgraph=True, dynamic=True, backend=counter)
    for n in (8, 11, 20):
        h, z, y = torch.randn(n, 5), torch.randn(n, 4), torch.randint(4, (n,))
        torch.testing.assert_close(compiled(h, z, y, n // 2), criterion(h, z, y, n // 2))
    assert counter.frame_count == 1


def test_gradients_through_vmap(backend):
    """Tensors inside of a transform do not tell that what they wrap requires a gradient."""
    x = torch.randn(3, 4, 5, requires_grad=True)
    partner, lam = torch.tensor([1, 2, 0, 3]), torch.rand(4)
    mixed = torch.func.vmap(lambda one: gx.ops.masked_mixup(one, partner, lam))(x)
    (grad,) = torch.autograd.grad(mixed.square().sum(), x)
    each = torch.stack([gx.ops.masked_mixup(one, partner, lam) for one in x])
    torch.testing.assert_close(grad, torch.autograd.grad(each.square().sum(), x)[0])


@pytest.mark.parametrize("stored", [False, True])
def test_a_gradient_goes_through_mix_batch(stored, backend):
    x, y = torch.randn(6, 3, dtype=torch.float64, requires_grad=True), torch.arange(6) % 3
    index = torch.tensor([5, 0, 0, 3, 1, 2]) if stored else None
    noise = torch.rand(12, dtype=torch.float64)

    def mixed(x):
        return gx.ops.mix_batch(x, y, torch.zeros(3, 3), "soft", index, noise=noise)[0]

    gradcheck(mixed, (x,))
    gradgradcheck(mixed, (x,), fast_mode=True)
    assert torch.equal(mixed(x), mixed(x.detach()))
    several = torch.stack([x, 2 * x])
    assert torch.equal(torch.func.vmap(mixed)(several), torch.stack([mixed(x), mixed(2 * x)]))


def test_no_gradient_where_none_is_asked_for(backend):
    x = torch.randn(4, 3)
    assert not gx.ops.masked_mixup(x, torch.arange(4), 0.5).requires_grad
    with torch.no_grad():
        assert not gx.ops.masked_mixup(x.requires_grad_(), torch.arange(4), 0.5).requires_grad


def test_the_loss_is_in_full_precision_under_autocast(backend):
    g = torch.Generator().manual_seed(0)
    z, weight = torch.randn(8, 5, generator=g), torch.randn(5, 5, generator=g).requires_grad_()
    y, partner = torch.randint(5, (8,), generator=g), torch.randint(5, (8,), generator=g)
    with torch.autocast("cpu", torch.bfloat16):
        logits = z @ weight
        loss = gx.ops.mixup_cross_entropy(logits, y, partner, 0.25)
        own, other = functional.cross_entropy(logits, y), functional.cross_entropy(logits, partner)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, 0.25 * own + 0.75 * other)
    loss.backward()
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("op", ["class_gradients", "class_gram", "pair_scores", "linear_scores"])
def test_autocast_does_not_reach_into_an_op(op, backend):
    registered = getattr(torch.ops.gradmix_ext, op).default
    for sample in samples(op, torch.float32, SMALL):
        # what the op does, and what it would do without a kernel
        for function in getattr(gx.ops, op), gx.ops._library._in_pytorch[registered]:
            expected = function(*sample.args, **sample.kwargs)
            with torch.autocast("cpu", torch.bfloat16):
                found = function(*sample.args, **sample.kwargs)
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
