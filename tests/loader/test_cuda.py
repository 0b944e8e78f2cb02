"""A small CUDA kernel is compiled, linked and loaded; no GPU is needed, and it is never run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from building import SOURCES, finish, needs_compiler, start, write_sources

from gradmix_ext import loader
from gradmix_ext.loader.recipe import read_mark
from gradmix_ext.loader.toolchain import ToolchainError, find_nvcc

CUDA = {
    "cuda/fill.h": """#pragma once
#include <cuda_runtime.h>
cudaError_t launch_fill(float* out, float value, long n, cudaStream_t stream);
""",
    "cuda/fill.cu": """#include "cuda/fill.h"
__global__ void fill(float* out, float value, long n) {
  const long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
  if (i < n) out[i] = value;
}
cudaError_t launch_fill(float* out, float value, long n, cudaStream_t stream) {
  if (n > 0) fill<<<(n + 255) / 256, 256, 0, stream>>>(out, value, n);
  return cudaGetLastError();
}
""",
    "cuda/fill_binding.cpp": """
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include "cuda/fill.h"
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t, void**);
torch::stable::Tensor ones(const torch::stable::Tensor& x) {
  auto out = torch::stable::empty_like(x);
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream != nullptr)
    aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream);
  launch_fill(static_cast<float*>(out.mutable_data_ptr()), 1.0f, x.numel(),
              static_cast<cudaStream_t>(stream));
  return out;
}
STABLE_TORCH_LIBRARY_IMPL(gradmix_tiny, CUDA, m) { m.impl("twice", TORCH_BOX(&ones)); }
""",
}


@pytest.fixture
def cuda_csrc(settings: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    csrc = write_sources(tmp_path / "csrc", {**SOURCES, **CUDA})
    settings.setenv("GRADMIX_EXT_CSRC", str(csrc))
    return csrc


@needs_compiler
def test_cuda_library_compiles_links_and_loads(cuda_csrc: Path) -> None:
    if torch.version.cuda is None:
        pytest.skip(f"PyTorch {torch.__version__} is a build without CUDA")
    try:
        find_nvcc()
    except ToolchainError as error:
        pytest.skip(str(error))
    built = loader.build(cuda=True)  # the compiling process has loaded it
    assert (built.backend, built.origin) == ("cuda", "just built")
    mark = read_mark(built.library)
    assert mark is not None
    assert mark[1]
    _check_dependencies(built.library)
    # `gradmix build --cuda` was asked for, so the library is used even where no GPU is visible.
    out, _ = finish(
        start(
            "from gradmix_ext import loader; active = loader.info()['active']; "
            "print(loader.load().active, active, loader.native().mark)"
        )
    )
    assert out == f"cuda cuda gradmix_ext library: sources={mark[0]} cuda=1"


def _check_dependencies(library: Path) -> None:
    if shutil.which("readelf") is None:
        return
    listing = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in listing.splitlines() if "(NEEDED)" in line]
    assert "libtorch.so" in needed  # leads to the current stream in a CUDA build of PyTorch
    for absent in ("libcudart", "libtorch_cuda", "libc10_cuda", "libtorch_python"):
        assert not [name for name in needed if name.startswith(absent)], needed


def test_cuda_needs_a_cuda_pytorch(cuda_csrc: Path, settings: pytest.MonkeyPatch) -> None:
    settings.setattr(torch.version, "cuda", None)
    with pytest.raises(loader.BackendUnavailable, match="is a build without CUDA"):
        loader.build(cuda=True)


def test_cuda_needs_nvcc(cuda_csrc: Path, settings: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise ToolchainError("no nvcc: nowhere")

    settings.setattr(torch.version, "cuda", "13.0")
    settings.setattr("gradmix_ext.loader.compile.find_nvcc", none)
    with pytest.raises(loader.BackendUnavailable, match=r"no nvcc|no C\+\+ compiler"):
        loader.build(cuda=True)


def test_newer_nvcc_than_pytorch_is_refused(cuda_csrc: Path, settings: pytest.MonkeyPatch) -> None:
    from gradmix_ext.loader.toolchain import Nvcc

    nvcc = Nvcc("/opt/nvcc", "Cuda compilation tools, release 14.1", 14, "/opt", "/opt/lib")
    settings.setattr(torch.version, "cuda", "13.2")
    settings.setattr("gradmix_ext.loader.compile.find_nvcc", lambda: nvcc)
    with pytest.raises(loader.BackendUnavailable, match="is of CUDA 14, newer than PyTorch's"):
        loader.build(cuda=True)
