"""Every op on every backend against float64 brute force."""

from __future__ import annotations

import blending
import brute_force
import pytest
import torch
from samples import DTYPES, large_mixups, samples

import gradmix_ext as gx
from gradmix_ext.ops._library import has_kernel

IN_PLACE = ("blend_scores", "observe_scores")
OPS = tuple(name for name in gx.ops.__all__ if name not in ("debug_checks", *IN_PLACE))


def truth(sample):
    """The brute-force result for the values that the sample's tensors really hold."""

    def numpy(value):
        if not isinstance(value, torch.Tensor):
            return value
        return (value.double() if value.is_floating_point() else value).numpy()

    result = getattr(brute_force, sample.op)(
        *map(numpy, sample.args), **{name: numpy(v) for name, v in sample.kwargs.items()}
    )
    return result if isinstance(result, tuple) else (result,)


def assert_close(sample, outputs, dtype):
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for out, want in zip(outputs, truth(sample), strict=True):
        want = torch.as_tensor(want)
        assert out.shape == want.shape, str(sample)
        if not want.is_floating_point():
            assert torch.equal(out, want), str(sample)
            continue
        # Sums are formed in float32 or wider and rounded once to the result's dtype.
        wide = dtype == torch.float64 == out.dtype
        accumulated = torch.float64 if wide else torch.float32
        tolerance = 64 * torch.finfo(accumulated).eps + torch.finfo(out.dtype).eps
        scale = want.abs().nan_to_num().max().item() if want.numel() else 0.0
        torch.testing.assert_close(
            out.double(), want, rtol=0, atol=tolerance * max(scale, 0.1), equal_nan=True,
            msg=lambda text: f"{sample}: {text}",
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
class TestValues:
    def test_reference(self, op, dtype):
        for sample in samples(op, dtype):
            assert_close(sample, getattr(gx.reference, op)(*sample.args, **sample.kwargs), dtype)

    def test_op(self, op, dtype, backend):
        compiled = has_kernel(getattr(torch.ops.gradmix_ext, op).default, torch.empty(0))
        assert compiled == (backend != "torch")
        for sample in samples(op, dtype):
            assert_close(sample, getattr(gx.ops, op)(*sample.args, **sample.kwargs), dtype)

    def test_op_agrees_with_reference_on_layout(self, op, dtype, backend):
        for sample in samples(op, dtype):
            got = getattr(gx.ops, op)(*sample.args, **sample.kwargs)
            want = getattr(gx.reference, op)(*sample.args, **sample.kwargs)
            got, want = (t if isinstance(t, tuple) else (t,) for t in (got, want))
            for a, b in zip(got, want, strict=True):
                assert a.dtype == b.dtype, str(sample)
                assert a.shape == b.shape, str(sample)
                assert a.stride() == b.stride(), str(sample)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_diverged_prefer_nothing(value, backend):
    scores = torch.randn(3, 3)
    scores[1, 2] = value
    known = torch.ones(3, 3, dtype=torch.bool)
    for module in (gx.ops, gx.reference):
        preference = module.pair_preferences(scores, known, 4.0)
        assert preference.isnan().all()
    partner, mask = gx.ops.draw_softly(torch.arange(3), preference)
    assert not mask.any()
    assert torch.equal(partner, torch.arange(3))


def test_a_score_that_diverged_says_nothing_of_pairs_without_one(backend):
    scores = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    known = torch.tensor([[True, True], [True, False]])
    for module in (gx.ops, gx.reference):
        preference = module.pair_preferences(scores, known, 4.0)
        assert torch.equal(preference.isnan(), known)
        assert preference[1, 1] == 0


def check_large_mixups(dtype):
    for sample in large_mixups(dtype):
        x, partner, lam, *mask = sample.args
        memory = torch.empty(x.numel() + 1, dtype=dtype)
        for memory_of_result in (memory[1:], memory[:-1]):  # on no boundary, and on one
            out = memory_of_result.view(x.shape)
            assert_close(sample, gx.ops.masked_mixup(*sample.args, out=out), dtype)
        grad = torch.ops.gradmix_ext.masked_mixup_backward(x, partner, lam, *mask)
        want = gx.reference.masked_mixup_backward(x.double(), partner, lam, *mask)
        tolerance = 2 * torch.finfo(dtype).eps * want.abs().max().item()
        torch.testing.assert_close(grad.double(), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batches_beyond_the_caches(dtype):
    check_large_mixups(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
def test_unmixed_samples_are_copied_bit_for_bit(module, dtype):
    x = torch.randn(9, 31).to(dtype)
    x[3] = float("nan")
    x[4] = float("inf")
    mask = torch.zeros(9, dtype=torch.bool)
    out = module.masked_mixup(x, torch.arange(9).flip(0), 0.3, mask)
    assert torch.equal(out.view(torch.uint8), x.view(torch.uint8))


@pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
class TestOut:
    def test_reuses_memory(self, module):
        x, partner, lam = torch.randn(6, 3, 4, 5), torch.randperm(6), torch.rand(6)
        for layout in (torch.contiguous_format, torch.channels_last):
            x = x.contiguous(memory_format=layout)
            out = torch.empty_like(x)
            result = module.masked_mixup(x, partner, lam, out=out)
            assert result is out
            assert torch.equal(out, module.masked_mixup(x, partner, lam))

    @pytest.mark.parametrize(
        ("make_out", "message"),
        [
            (lambda x: torch.empty(5, 4), r"out must have shape \[6, 4\], got \[5, 4\]"),
            (lambda x: torch.empty(6, 4).double(), "out must be torch.float32 as x"),
            (lambda x: torch.empty(4, 6).T, r"out must have strides \[4, 1\]"),
            (lambda x: x, "out must not overlap x"),
            (lambda x: torch.empty(6, 4, requires_grad=True), "out must not require grad"),
            (lambda x: torch.empty(6, 4, device="meta"), "out must be on cpu, got meta"),
        ],
    )
    def test_refuses(self, module, make_out, message):
        x = torch.randn(6, 4)
        with pytest.raises((TypeError, ValueError), match=message):
            module.masked_mixup(x, torch.arange(6), 0.5, out=make_out(x))

    @pytest.mark.parametrize("name", ["partner", "mask", "lam"])
    def test_refuses_overlap_with_what_is_still_read(self, module, name):
        out = torch.zeros(6, 4, dtype=torch.float64)
        shared = {
            "partner": out.view(torch.int64).flatten()[:6],
            "mask": out.view(torch.bool).flatten()[:6],
            "lam": out.flatten()[:6],
        }
        arguments = {"partner": torch.arange(6), "lam": torch.rand(6), name: shared[name]}
        with pytest.raises(ValueError, match=f"out must not overlap {name}"):
            module.masked_mixup(torch.randn(6, 4).double(), out=out, **arguments)

    def test_the_op_itself_refuses_overlap(self, module, backend):
        """Also where the Python layer is passed by: indices that change while read are unsafe."""
        memory = torch.zeros(4096 * 64, dtype=torch.float64)
        partner = memory.view(torch.int64)[:4096]
        partner.copy_(torch.arange(4096))
        with pytest.raises((ValueError, RuntimeError), match="out must not overlap partner"):
            torch.ops.gradmix_ext.masked_mixup.out(
                torch.rand(4096, 64).double(), partner, torch.tensor(0.5), out=memory.view(4096, 64)
            )

    def test_refuses_overlap_with_another_view(self, module):
        memory = torch.randn(7 * 4)
        with pytest.raises(ValueError, match="overlap"):
            module.masked_mixup(
                memory[:24].view(6, 4), torch.arange(6), 0.5, out=memory[4:].view(6, 4)
            )

    def test_refuses_where_x_requires_grad(self, module):
        x = torch.randn(6, 4, requires_grad=True)
        with pytest.raises(ValueError, match="x requires grad"):
            module.masked_mixup(x, torch.arange(6), 0.5, out=torch.empty(6, 4))


def test_gram_equals_products_of_the_gradients(backend):
    h, z, y = torch.randn(50, 8), torch.randn(50, 6), torch.randint(6, (50,))
    weight, bias, _ = gx.ops.class_gradients(h, z, y)
    flat = torch.cat([weight.flatten(1), bias], dim=1)
    for algorithm in ("pairwise", "classwise"):
        gram = gx.ops.class_gram(h, z, y, algorithm=algorithm)
        torch.testing.assert_close(gram, flat @ flat.T)
        assert torch.equal(gram, gram.T)


def test_class_gradients_equal_autograd_through_the_head(backend):
    head = torch.nn.Linear(8, 6).double()
    h, y = torch.randn(40, 8).double(), torch.randint(6, (40,))
    weight, bias, count = gx.ops.class_gradients(h, head(h), y)
    for k in range(6):
        loss = torch.nn.functional.cross_entropy(head(h[y == k]), y[y == k])
        want = torch.autograd.grad(loss, (head.weight, head.bias))
        torch.testing.assert_close((weight[k], bias[k]), want)
        assert count[k] == (y == k).sum()


def test_cross_entropy_equals_soft_targets(backend):
    z, y, y2, lam = torch.randn(30, 7), *torch.randint(7, (2, 30)), torch.rand(30)
    soft = lam[:, None] * torch.eye(7)[y] + (1 - lam[:, None]) * torch.eye(7)[y2]
    for options in ({}, {"label_smoothing": 0.2}, {"reduction": "none"}, {"reduction": "sum"}):
        torch.testing.assert_close(
            gx.ops.mixup_cross_entropy(z, y, y2, lam, **options),
            torch.nn.functional.cross_entropy(z, soft, **options),
        )


@pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
def test_minus_infinity_without_weight_is_harmless(module):
    """Logits masked by hand give the loss of the classes that are left, as with class_mask."""
    z, mask = torch.randn(4, 5), torch.tensor([True, True, False, True, False])
    y, y2, lam = torch.tensor([0, 1, 3, 3]), torch.tensor([1, 1, 0, 2]), torch.rand(4)
    lam[3] = 1.0  # the partner's class is masked, and has no weight
    want = module.mixup_cross_entropy(z, y, torch.tensor([1, 1, 0, 3]), lam, class_mask=mask)
    by_hand = z.masked_fill(~mask, float("-inf")).requires_grad_()
    loss = module.mixup_cross_entropy(by_hand, y, y2, lam)
    torch.testing.assert_close(loss.detach(), want)
    assert torch.autograd.grad(loss, by_hand)[0].isfinite().all()


@pytest.mark.parametrize("call", [gx.ops.masked_mixup, torch.ops.gradmix_ext.masked_mixup])
def test_sparse_tensors_are_an_error(call):
    with pytest.raises(TypeError, match=r"x must be a dense tensor, got layout torch\.sparse_coo"):
        call(torch.randn(4, 3).to_sparse(), torch.arange(4), torch.tensor(0.5))


def test_lam_as_a_number_keeps_float64(backend):
    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    assert gx.ops.masked_mixup(x, torch.tensor([1, 0]), 0.1)[0, 0].item() == 0.1


@pytest.mark.parametrize("policy", ["redraw", "skip"])
def test_partners_are_uniform(policy, backend):
    """χ² of the partners of one sample over many draws against the uniform distribution."""
    y = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    allowed = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    draws = 4000
    seen = torch.zeros(7)
    for _ in range(draws):
        partner, mask = gx.ops.draw_partners(y, allowed, policy=policy, generator=generator)
        seen[partner[0]] += 1
        assert bool(mask[0]) == bool(allowed[y[0], y[partner[0]]])
    candidates = allowed[0][y] if policy == "redraw" else torch.ones(7, dtype=torch.bool)
    assert seen[~candidates].sum() == 0
    expected = draws / int(candidates.sum())
    chi2 = ((seen[candidates] - expected) ** 2 / expected).sum().item()
    assert chi2 < 25  # p < 0.001 at 6 degrees of freedom is 22.5


def test_partners_follow_the_generator(backend):
    y, allowed = torch.randint(4, (64,)), torch.ones(4, 4, dtype=torch.bool)

    def draw(seed):
        return gx.ops.draw_partners(y, allowed, generator=torch.Generator().manual_seed(seed))[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
def test_scores_enter_their_moving_averages(module, backend):
    blending.check(
        lambda *args: module.blend_scores(*args[:-2], momentum=args[-2], threshold=args[-1])
    )
    blending.check_observing(module.observe_scores)


@pytest.mark.parametrize("module", [gx.ops, gx.reference], ids=["op", "reference"])
def test_moving_averages_have_no_history(module, backend):
    """Values come from a model in training; averages that kept its graph would keep every step."""
    scores, (known, allowed) = torch.zeros(3, 3), torch.zeros(2, 3, 3, dtype=torch.bool)
    labels = torch.tensor([0, 1]), torch.tensor([1, 2])
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    module.blend_scores(scores, known, allowed, value, *labels, momentum=0.9, threshold=0.0)
    assert not scores.requires_grad
    assert scores[0, 1] == 1
    assert scores[2, 1] == 2
