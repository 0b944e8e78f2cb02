"""nvcc compiles all CUDA sources; the library links and loads, no GPU needed, and nothing runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulation import CSRC, ROOT, kernel_sources

from gradmix_ext import loader
from gradmix_ext.loader.recipe import DEFAULT_CUDA_ARCHS
from gradmix_ext.loader.toolchain import ToolchainError, find_cxx, find_nvcc

SPILL = re.compile(r"Registers are spilled to local memory in function '(\w+)', (\d+) bytes")
# What float64 costs: calls of division and exponential keep a few registers on the stack.
MOST_SPILLED = {"f64": 32}
FLOAT64_KERNEL = re.compile(r"I(N7gradmix\w*)?d[EL]|_f64_")
# A GPU has no need of them: its gradient is an op of its own.
FOR_THE_CPU = [
    "gradmix_ext::mixup_cross_entropy_with_gradient",
    "gradmix_ext::mixup_cross_entropy_scale",
]
LOAD = """
import json, torch
import gradmix_ext
from gradmix_ext import loader
status = loader.load()
ops = [getattr(torch.ops.gradmix_ext, name).default for name in torch.ops.gradmix_ext]
key = torch._C.DispatchKey.CUDA
print(json.dumps({
    "active": status.active,
    "archs": loader.native().cuda_archs,
    "without": [op.name() for op in ops if not op.has_kernel_for_dispatch_key(key)],
    "initialised": torch.cuda.is_initialized(),
}))
"""


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest):
    """The library with CUDA kernels, compiled once and kept until a source changes."""
    if torch.version.cuda is None:
        pytest.skip(f"PyTorch {torch.__version__} is a build without CUDA")
    try:
        find_nvcc(), find_cxx()
    except ToolchainError as error:
        pytest.skip(str(error))
    cache = Path(request.config.cache.mkdir("cuda_build"))
    cache.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADMIX_EXT_CACHE", str(cache))
        patch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        yield loader.build(cuda=True)


def test_no_kernel_includes_pytorch():
    include = re.compile(r'#include [<"](torch|ATen|c10)/')
    seen, pending = set(), [*kernel_sources()]
    while pending:
        path = pending.pop()
        text = path.read_text()
        assert not include.search(text), path
        found = {CSRC / name for name in re.findall(r'#include "([^"]+)"', text)}
        pending += found - seen
        seen |= found
    assert len(seen) > 5


def test_compiles_without_unexplained_spills(built):
    log = built.log.read_text()
    for kernel in kernel_sources():
        assert kernel.name in log
    for name, spilled in SPILL.findall(log):
        assert FLOAT64_KERNEL.search(name), (name, spilled)
        assert int(spilled) <= MOST_SPILLED["f64"], (name, spilled)


def test_links_and_loads(built):
    environment = {
        **os.environ,
        "GRADMIX_EXT_BACKEND": "cuda",
        "GRADMIX_EXT_CACHE": str(built.library.parents[1]),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("TORCH_CUDA_ARCH_LIST", None)
    done = subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "compiling" not in done.stderr
    facts = json.loads(done.stdout)
    assert facts == {
        "active": "cuda",
        "archs": DEFAULT_CUDA_ARCHS,
        "without": FOR_THE_CPU,
        "initialised": False,
    }


OTHER = """
import importlib.machinery, importlib.util, sys, torch, gradmix_ext
path = sys.argv[1]
loader = importlib.machinery.ExtensionFileLoader("gradmix_ext._C", path)
spec = importlib.util.spec_from_file_location("gradmix_ext._C", path, loader=loader)
loader.exec_module(importlib.util.module_from_spec(spec))
x, partner = torch.randn(4, 3), torch.tensor([3, 2, 1, 0])
out = torch.ops.gradmix_ext.masked_mixup(x, partner, torch.tensor(0.25))
torch.testing.assert_close(out, 0.25 * x + 0.75 * x[partner])
print(torch.__version__)
"""


def test_the_same_file_loads_in_another_pytorch(built):
    python = os.environ.get("GRADMIX_EXT_TEST_OTHER_PYTHON")
    if not python:
        pytest.skip("GRADMIX_EXT_TEST_OTHER_PYTHON names no interpreter with another PyTorch")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADMIX_EXT_BACKEND": "torch"}
    done = subprocess.run(
        [python, "-c", OTHER, str(built.library)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() != torch.__version__
