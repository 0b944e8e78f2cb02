"""P7: what the package costs before it does anything: import, build, loading, and each call."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F

import gradmix_ext as gx
from gradmix_ext.bench import Case, Role, Setting, Target, Timed, Workload
from gradmix_ext.bench.measure import WrongResult
from gradmix_ext.bench.workload import GOAL, plain

# In seconds; ratios to these limits are what the targets are about.
IMPORT, BUILD, LOAD, CALL = 0.05, 30.0, 0.1, 10e-6


def by_clock(code):
    """A call that runs lines of Python in a new process, which prints the seconds they took."""

    def prepare(setting, device):
        script = "import os, time, torch\n" + code + "\nprint(seconds)"

        def call():
            with tempfile.TemporaryDirectory() as empty:
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", "-c", script],
                    capture_output=True, text=True, check=False,
                    env={**os.environ, "EMPTY_FOLDER": empty},
                )  # fmt: skip
            if done.returncode:
                raise WrongResult(f"{setting.name}: {done.stderr[-1000:]}")
            return Timed(float(done.stdout.split()[-1]))

        return call

    return prepare


def goal(seconds):
    """What it may take, as a row to compare with."""
    return Case(GOAL, plain(lambda *inputs: Timed(seconds)), Role.LIMIT, in_process=False)


# With bytecode, as an installed package has it, also where nobody may write it on the way.
IMPORTING = """
import compileall, importlib.util
origin = importlib.util.find_spec("gradmix_ext").origin
compileall.compile_dir(os.path.dirname(origin), quiet=1)
began = time.perf_counter()
import gradmix_ext
seconds = time.perf_counter() - began
assert not torch.cuda.is_initialized(), "importing has initialised CUDA"
assert gradmix_ext.loader.status().library is None, "importing has loaded the library"
"""
IMPORTING_TORCH = """
import subprocess, sys
began = time.perf_counter()
subprocess.run([sys.executable, "-c", "import torch"], check=True)
whole = time.perf_counter() - began
began = time.perf_counter()
subprocess.run([sys.executable, "-c", "pass"], check=True)
seconds = whole - (time.perf_counter() - began)
"""
LOADING = """
import gradmix_ext
began = time.perf_counter()
status = gradmix_ext.loader.load()
seconds = time.perf_counter() - began
assert status.active != "torch", status.reason
assert status.origin != "just built"
"""
BUILDING = """
os.environ["GRADMIX_EXT_CACHE"] = os.environ["EMPTY_FOLDER"] + "/cache"
import gradmix_ext
began = time.perf_counter()
built = gradmix_ext.loader.build(cuda=False)
seconds = time.perf_counter() - began
assert built.origin == "just built", built.origin
"""


def process(name, code, limit, *others, slow=False):
    return Workload(
        "P7", name, (Setting("", quick=not slow),),
        (
            Case("gradmix_ext", by_clock(code), Role.OURS, in_process=False),
            *others,
            goal(limit),
        ),
        targets=(Target(GOAL, 1.0),),
    )  # fmt: skip


# Calls of the ops on next to nothing --------------------------------------------------------------

C, D = 4, 8


def arguments(setting, device):
    h, z = torch.randn(4, D, device=device), torch.randn(4, C, device=device)
    y, y2 = torch.randint(C, (2, 4), device=device)
    lam = torch.rand(4, device=device)
    images = torch.randint(256, (4, 1, 2, 2), dtype=torch.uint8, device=device)
    return h, z, y, y2, lam, images


def each_op(device):
    """A call of each op, and the nearest thing of PyTorch's own, where there is one."""
    direction = torch.randn(C, D, device=device), torch.randn(C, device=device)
    preference = torch.zeros(C, C, device=device)
    allowed = torch.ones(C, C, dtype=torch.bool, device=device)
    known = allowed.clone()
    averages = preference, known, allowed
    mean, std = torch.zeros(1, device=device), torch.ones(1, device=device)
    noise = torch.rand(4, 2, 3, device=device)
    order, drawn = torch.arange(4, device=device), torch.rand(4, dtype=torch.float64, device=device)
    return {
        "masked_mixup": (
            lambda h, z, y, y2, lam, images: gx.ops.masked_mixup(h, order, lam),
            lambda h, z, y, y2, lam, images: torch.lerp(h[order], h, lam[:, None]),
        ),
        "mixup_cross_entropy": (
            lambda h, z, y, y2, lam, images: gx.ops.mixup_cross_entropy(z, y, y2, lam),
            lambda h, z, y, y2, lam, images: F.cross_entropy(z, y),
        ),
        "class_gradients": (
            lambda h, z, y, y2, lam, images: gx.ops.class_gradients(h, z, y),
            None,
        ),
        "class_gram": (lambda h, z, y, y2, lam, images: gx.ops.class_gram(h, z, y), None),
        "pair_scores": (
            lambda h, z, y, y2, lam, images: gx.ops.pair_scores(
                h, z, y, y2, lam, *direction, num_classes=C
            ),
            None,
        ),
        "draw_partners": (
            lambda h, z, y, y2, lam, images: gx.ops.draw_partners(y, allowed, noise=drawn),
            None,
        ),
        "draw_softly": (
            lambda h, z, y, y2, lam, images: gx.ops.draw_softly(y, preference, noise=drawn),
            None,
        ),
        "mix_labels": (
            lambda h, z, y, y2, lam, images: gx.ops.mix_labels(
                y, order, known[0], lam, lam, balance=0.5
            ),
            None,
        ),
        "mix_batch": (
            lambda h, z, y, y2, lam, images: gx.ops.mix_batch(
                h, y, preference, "soft", None, lam, lam, noise=drawn, balance=0.5
            ),
            None,
        ),
        "pair_preferences": (
            lambda h, z, y, y2, lam, images: gx.ops.pair_preferences(preference, known, 4.0),
            None,
        ),
        "sample_scores": (
            lambda h, z, y, y2, lam, images: gx.ops.sample_scores(h, z, y, y2, lam, *direction),
            None,
        ),
        "blend_scores": (
            lambda h, z, y, y2, lam, images: gx.ops.blend_scores(
                *averages, lam, y, y2, momentum=0.9, threshold=0.0
            ),
            None,
        ),
        "observe_scores": (
            lambda h, z, y, y2, lam, images: gx.ops.observe_scores(
                *averages, h, z, y, y2, lam, *direction, momentum=0.9, threshold=0.0
            ),
            None,
        ),
        "linear_scores": (
            lambda h, z, y, y2, lam, images: gx.ops.linear_scores(h, z, y, 2),
            None,
        ),
        "gather_augment_mixup": (
            lambda h, z, y, y2, lam, images: gx.ops.gather_augment_mixup(
                images, order, order, lam, mean=mean, std=std, noise=noise
            ),
            None,
        ),
    }


def of_op(position):
    def prepare(setting, device):
        return each_op(device)[setting["op"]][position]

    return prepare


def call_of(name, has_peer):
    peer = (Case("PyTorch's own", of_op(1)),) if has_peer else ()
    return Workload(
        "P7", "call of", (Setting(f"{name} on 4 samples", {"op": name}, quick=True),),
        (
            Case("gradmix_ext", of_op(0), Role.OURS),
            *peer,
            Case("limit: torch.add", plain(lambda h, *rest: torch.add(h, h)), Role.LIMIT),
            goal(CALL),
        ),
        arguments,
        targets=(Target(GOAL, 1.0),),
    )  # fmt: skip


WORKLOADS = (
    process(
        "import after torch", IMPORTING, IMPORT,
        Case("import torch itself", by_clock(IMPORTING_TORCH), Role.LIMIT, in_process=False),
    ),
    process("load the library from the cache", LOADING, LOAD),
    process("first build, CPU only", BUILDING, BUILD, slow=True),
    *(call_of(name, calls[1]) for name, calls in each_op(torch.device("cpu")).items()),
)  # fmt: skip


def test_first_use(replay):
    replay()
