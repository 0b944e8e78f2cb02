"""The ops on a real GPU: values, gradients, streams, graphs, determinism, sizes beyond 32 bits."""

from __future__ import annotations

import os

import blending
import precision
import pytest
import special_cases
import torch
from checks import assert_close, relative_error
from samples import DTYPES, Sample, samples
from special_cases import OPS

import gradmix_ext as gx
from gradmix_ext.mixers import MIXERS, by_name
from gradmix_ext.ops._library import has_kernel

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: PyTorch sees no CUDA device"
)
BACKWARD = {
    "masked_mixup_backward": special_cases.adjoint,
    "mixup_cross_entropy_backward": special_cases.loss_gradient,
}


def moved(t):
    """The tensor on the GPU with its strides, its gaps and its place in memory."""
    memory = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())
    return memory.cuda().as_strided(t.shape, t.stride(), t.storage_offset())


def on_gpu(sample):
    """The call with its tensors on the GPU, in the same layout."""
    return sample.map(moved)


def call(sample):
    return getattr(gx.ops, sample.op)(*sample.args, **sample.kwargs)


def tuple_of(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.fixture(autouse=True)
def exact_products():
    """No TF32, and cuBLAS deterministic, whatever the machine's defaults are."""
    assert not torch.backends.cuda.matmul.allow_tf32
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def device_goes_on(request):
    """A kernel that goes wrong takes the device from its process: the other tests need another."""
    yield
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        pytest.exit(f"after {request.node.nodeid}: {error}")


@pytest.mark.parametrize("op", OPS)
def test_the_kernels_run(op):
    gx.loader.load()
    assert gx.loader.status().active == "cuda", gx.loader.status().reason
    packet = getattr(torch.ops.gradmix_ext, op)
    assert has_kernel(packet.default, torch.empty(0, device="cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_values(op, dtype):
    every = samples(op, dtype) + special_cases.wide_samples(op, dtype)
    if op == "masked_mixup":
        every += special_cases.long_samples(dtype)
    for sample in every:
        assert_close(sample, call(on_gpu(sample)), dtype, terms=256)


@pytest.mark.parametrize("features", precision.FEATURES)
@pytest.mark.parametrize("dtype", [t for t in DTYPES if t != torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(64, 16, 16), (300, 10, 513), (500, 7, 4096), (2000, 100, 512)])
def test_tensor_cores_are_as_exact_as_float32(shape, dtype, features):
    given = precision.last_layer(*shape, dtype, features)
    precision.assert_as_exact_as_float32(gx.ops, {name: t.cuda() for name, t in given.items()})


@pytest.mark.parametrize("op", ["class_gram", "pair_scores"])
def test_tf32_changes_nothing(op):
    function, args, kwargs = typical(op)
    want = tuple_of(function(*args, **kwargs))
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        got = tuple_of(function(*args, **kwargs))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", ["masked_mixup", "mixup_cross_entropy"])
def test_gradients(op, dtype):
    every = samples(op, dtype) + special_cases.wide_samples(op, dtype)
    if op == "masked_mixup":
        every += special_cases.long_samples(dtype)
    for sample in every:
        name, args, kwargs = special_cases.backward_samples(sample, dtype)
        there = on_gpu(Sample(op, str(sample), args, kwargs))
        got = getattr(torch.ops.gradmix_ext, name)(*there.args, **there.kwargs).cpu()
        accumulated = torch.float64 if dtype == torch.float64 else torch.float32
        tolerance = 256 * torch.finfo(accumulated).eps + torch.finfo(dtype).eps
        assert relative_error(got, BACKWARD[name](*args, **kwargs)) <= tolerance, str(sample)


def test_scores_enter_their_moving_averages():
    blending.check(torch.ops.gradmix_ext.blend_scores, "cuda")
    blending.check_observing(torch.ops.gradmix_ext.observe_scores, "cuda")


def typical(op: str):
    """One call of a size at which many blocks run."""
    make = torch.Generator().manual_seed(3)
    n, c, d = 1000, 40, 129
    h, z = torch.randn(n, d, generator=make), torch.randn(n, c, generator=make)
    y, y2 = torch.randint(c, (2, n), generator=make)
    lam, partner = torch.rand(n, generator=make), torch.randint(n, (n,), generator=make)
    direction = torch.randn(c, d, generator=make), torch.randn(c, generator=make)
    allowed = torch.rand(c, c, generator=make) < 0.3
    noise = torch.rand(n, generator=make, dtype=torch.float64)
    images = torch.randint(256, (c, 3, 32, 32), generator=make, dtype=torch.uint8)
    augmentation = {
        "mean": torch.rand(3, generator=make), "std": torch.rand(3, generator=make) + 0.1,
        "padding": 4, "hflip": True, "noise": torch.rand(n, 2, 3, generator=make),
    }  # fmt: skip
    args, kwargs = {
        "masked_mixup": ((h, partner, lam), {}),
        "mixup_cross_entropy": ((z, y, y2, lam), {}),
        "class_gradients": ((h, z, y), {}),
        "class_gram": ((h, z, y), {"algorithm": "pairwise"}),
        "pair_scores": ((h, z, y, y2, lam, *direction), {"num_classes": c}),
        "sample_scores": ((h, z, y, y2, lam, *direction), {}),
        "linear_scores": ((h, z, y, 200), {}),
        "draw_partners": ((y, allowed), {"noise": noise}),
        "draw_softly": ((y, torch.randn(c, c, generator=make)), {"noise": noise}),
        "mix_labels": ((y, partner, lam > 0.3, lam, lam), {"balance": 0.5}),
        "mix_batch": (
            (h, y, torch.randn(c, c, generator=make), "soft", partner),
            {"noise": noise.repeat(2)},
        ),
        "pair_preferences": ((torch.randn(c, c, generator=make), allowed, 4.0), {}),
        "gather_augment_mixup": ((images, y, y2, lam), augmentation),
    }[op]
    there = Sample(op, "typical", args, kwargs).map(lambda t: t.cuda())
    return getattr(gx.ops, op), there.args, there.kwargs


@pytest.mark.parametrize("op", OPS)
def test_nothing_waits_for_the_device(op):
    function, args, kwargs = typical(op)
    function(*args, **kwargs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(*args, **kwargs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("op", OPS)
def test_cuda_graph(op):
    function, args, kwargs = typical(op)
    want = tuple_of(function(*args, **kwargs))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*args, **kwargs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = tuple_of(function(*args, **kwargs))
    for t in got:
        t.zero_()
    graph.replay()
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("op", OPS)
def test_two_streams(op):
    """Two streams at once, each waiting on its own input, do not see each other."""
    function, args, kwargs = typical(op)
    want = tuple_of(function(*args, **kwargs))
    streams = [torch.cuda.Stream() for _ in range(2)]
    results = [[], []]
    for _ in range(20):
        for stream, got in zip(streams, results, strict=True):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(10_000)
                got.append(tuple_of(function(*args, **kwargs)))
    torch.cuda.synchronize()
    for outputs in (*results[0], *results[1]):
        for a, b in zip(outputs, want, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("op", OPS)
def test_deterministic(op):
    function, args, kwargs = typical(op)
    torch.use_deterministic_algorithms(True)
    try:
        want = tuple_of(function(*args, **kwargs))
        for _ in range(10):
            for a, b in zip(tuple_of(function(*args, **kwargs)), want, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.use_deterministic_algorithms(False)


def test_gradients_reach_the_network():
    """Through autograd, mixing and loss together, against the reference in float64."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 20, device="cuda"), torch.randint(7, (64,), device="cuda")
    head = torch.nn.Linear(20, 7).cuda()
    partner, lam = torch.randperm(64, device="cuda"), torch.rand(64, device="cuda")
    x.requires_grad_()
    loss = gx.ops.mixup_cross_entropy(
        head(gx.ops.masked_mixup(x, partner, lam)), y, y[partner], lam
    )
    got = torch.autograd.grad(loss, (x, head.weight))
    double, wide = head.double(), x.detach().double().requires_grad_()
    loss = gx.reference.mixup_cross_entropy(
        double(gx.reference.masked_mixup(wide, partner, lam)), y, y[partner], lam
    )
    for a, b in zip(got, torch.autograd.grad(loss, (wide, double.weight)), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)


MIXER_OPTIONS = [(name, {}) for name in MIXERS] + [
    ("gradmix", {"preset": "paper"}),
    ("gradmix", {"criterion": "gram", "policy": "skip"}),
    ("gradmix", {"update": "online"}),
    ("shuffled-scores", {"preset": "paper"}),
]


@pytest.mark.parametrize(("name", "options"), MIXER_OPTIONS, ids=str)
def test_mixers_follow_the_samples(name, options):
    """A mixer is made before it sees a tensor, so what it remembers starts on the CPU."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.ReLU(), torch.nn.Linear(16, 7)
    ).cuda()
    y = torch.arange(42, device="cuda") % 7
    x = torch.randn(42, 3, 4, 4, device="cuda")
    held = y < 3
    mixer = by_name(name, 7, **options)
    for _ in range(3):
        mixer.update(model, (x[~held], y[~held]), (x[held], y[held]))
        batch = mixer.mix(x, y)
        loss = batch.loss(batch.forward(model))
        loss.backward()
        assert loss.is_cuda
        assert loss.isfinite()
    mixer.load_state_dict(mixer.state_dict())
    assert mixer.mix(x, y).x.device == x.device


@pytest.mark.parametrize("arm", ["er+gradmix", "icarl+gradmix[preset=paper]", "random-mask"])
def test_runs_of_experiments(arm):
    """As the command does them: with a log, class-pair maps and weights for its files."""
    experiments = pytest.importorskip("gradmix_ext.experiments.experiment")
    arms = [experiments.Arm.parse(arm)]
    config = experiments.ExperimentConfig(tasks=3, epochs=2, hidden=(16,), device="cuda")
    run = experiments.Experiment(config, arms).run(arms[0], seed=0)
    assert run.result.accuracy_matrix[0, 0] > 0.35
    assert not any(weight.is_cuda for weight in run.weights.values())
    assert len(run.pair_maps.task) == 3 * 2


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("update", ["epoch", "online"])
def test_training(amp, update):
    """Everything at once: images, buffer and scores on the device from the first batch on."""
    # which needs packages that the ops do without
    continual = pytest.importorskip("gradmix_ext.continual")
    from tiny_images import tiny_images

    trained = []

    def network(scenario):
        trained.append(torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 4)
        ))  # fmt: skip
        return trained[-1]

    mixer = by_name("gradmix", 4, update=update)
    options = {"buffer": 16, "epochs": 3, "batch_size": 16, "device": "cuda", "amp": amp}
    continual.Trainer(network, mixer, **options).fit(
        continual.class_incremental(tiny_images(), tasks=2)
    )
    for weight in trained[-1].parameters():
        assert weight.is_cuda
        assert weight.isfinite().all()
    assert mixer.scored.is_cuda
    assert mixer.scored.any()


@pytest.mark.parametrize("bad", [-1, 10**12, 5])
def test_out_of_range_partners_stay_unmixed(bad):
    x, lam = torch.randn(5, 7, device="cuda"), torch.rand(5, device="cuda")
    partner = torch.tensor([1, bad, 0, 4, 3], device="cuda")
    out = gx.ops.masked_mixup(x, partner, lam)
    assert torch.equal(out[1], x[1])
    torch.cuda.synchronize()


@pytest.mark.parametrize("bad", [-1, 10**12, 5])
def test_images_out_of_range_are_black_and_no_partners(bad):
    images = torch.randint(256, (5, 3, 8, 8), device="cuda", dtype=torch.uint8)
    index, partner = torch.tensor([[1, bad, 0], [2, 3, bad]], device="cuda")
    options = {"mean": torch.rand(3).cuda(), "std": torch.rand(3).cuda() + 0.1}
    got = gx.ops.gather_augment_mixup(images, index, partner, 0.25, **options)
    black = torch.cat([images, torch.zeros_like(images[:1])])
    index, partner = (torch.where(t == bad, 5, t) for t in (index, partner))
    mask = torch.tensor([True, True, False], device="cuda")
    want = gx.reference.gather_augment_mixup(black, index, partner, 0.25, mask, **options)
    torch.testing.assert_close(got, want)


def free_bytes() -> int:
    return torch.cuda.mem_get_info()[0]


def test_more_than_2_31_elements_of_a_batch():
    count, size = 3, (1 << 30) + 8
    if free_bytes() < 3 * count * size * 2:
        pytest.skip(f"needs {3 * count * size * 2 / 2**30:.0f} GiB of GPU memory")
    x = torch.randn(count, size, device="cuda", dtype=torch.float16)
    partner, lam = torch.tensor([2, 0, 1], device="cuda"), torch.tensor([0.25, 0.5, 0.75]).cuda()
    out = gx.ops.masked_mixup(x, partner, lam)
    for i in range(count):
        for at in (0, 1 << 29, size - 5):
            a, b = x[i, at : at + 5].float(), x[partner[i], at : at + 5].float()
            want = lam[i] * a + (1 - lam[i]) * b
            torch.testing.assert_close(out[i, at : at + 5].float(), want, rtol=1e-3, atol=1e-3)


def test_a_data_set_of_more_than_2_31_bytes():
    count, size = (1 << 22) + 5, 3 * 16 * 16
    if free_bytes() < 2 * count * size:
        pytest.skip(f"needs {2 * count * size / 2**30:.0f} GiB of GPU memory")
    images = torch.randint(256, (count, 3, 16, 16), device="cuda", dtype=torch.uint8)
    index = torch.tensor([0, 1 << 21, count - 1], device="cuda")
    options = {"mean": torch.zeros(3).cuda(), "std": torch.ones(3).cuda()}
    out = gx.ops.gather_augment_mixup(images, index, index.flip(0), 0.5, **options)
    want = (images[index].double() + images[index.flip(0)].double()) / 510
    torch.testing.assert_close(out.double(), want)


def test_more_than_2_31_logits():
    n, c = (1 << 21) + 3, 1024
    if free_bytes() < 3 * n * c * 2:
        pytest.skip(f"needs {3 * n * c * 2 / 2**30:.0f} GiB of GPU memory")
    z = torch.randn(n, c, device="cuda", dtype=torch.bfloat16)
    y, lam = torch.randint(c, (n,), device="cuda"), torch.rand(n, device="cuda")
    loss = gx.ops.mixup_cross_entropy(z, y, y.flip(0), lam, reduction="none")
    grad = torch.ops.gradmix_ext.mixup_cross_entropy_backward(
        torch.ones(n, device="cuda", dtype=z.dtype), z, y, y.flip(0), lam, reduction="none"
    )
    last = slice(n - 4, n)
    options = {"reduction": "none"}
    rows = z[last], y[last], y.flip(0)[last], lam[last]
    want = gx.reference.mixup_cross_entropy(*(t.double() if t.is_floating_point() else t
                                              for t in rows), **options)  # fmt: skip
    torch.testing.assert_close(loss[last].double(), want, rtol=2e-2, atol=1e-2)
    assert grad[last].isfinite().all()
    assert grad[last].float().sum(1).abs().max() < 0.05
