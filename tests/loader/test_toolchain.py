"""Finding programs and choosing flags."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from building import fake_compiler, needs_compiler

from gradmix_ext.loader import toolchain
from gradmix_ext.loader.recipe import csrc_folder, gencode_flags, make_recipe, usable_archs
from gradmix_ext.loader.toolchain import (
    ToolchainError,
    build_jobs,
    find_cxx,
    find_ninja,
    find_nvcc,
)


def test_gencode_flags() -> None:
    assert gencode_flags("8.0;9.0+PTX") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert gencode_flags("9.0a 12.0") == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
    ]


@pytest.mark.parametrize("archs", ["Hopper", "9", "native"])
def test_malformed_architectures(archs: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        gencode_flags(archs)


def test_gpus_that_are_too_old_are_left_out(tmp_path: Path, settings: pytest.MonkeyPatch) -> None:
    """As in the list that images with PyTorch set for all that they build."""
    assert usable_archs("5.2 6.0 7.5+PTX 8.0 8.6 9.0a 12.0+PTX") == "8.0;8.6;9.0a;12.0+PTX"
    with pytest.raises(ValueError, match=r"'7.0;7.5' names no GPU .* need compute capability 8.0"):
        usable_archs("7.0;7.5")
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "op.cu").write_text("")
    settings.setenv("TORCH_CUDA_ARCH_LIST", "7.0, 9.0")
    assert make_recipe(tmp_path, cuda=True).cuda_archs == "9.0"


def test_sources_may_not_share_a_name(tmp_path: Path) -> None:
    for name in ("python/module.cpp", "cpu/op.cpp", "cpu/kernels/op.cpp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"share the names \['op.cpp'\]"):
        make_recipe(tmp_path, cuda=False)


def test_every_source_of_the_project_is_compiled() -> None:
    csrc = csrc_folder(Path(toolchain.__file__).parents[1])
    compiled = set(make_recipe(csrc, cuda=False).sources)
    assert compiled == {*csrc.glob("cpu/**/*.cpp"), csrc / "python" / "module.cpp"}


def test_no_pytorch_extension_header_in_the_project() -> None:
    csrc = csrc_folder(Path(toolchain.__file__).parents[1])
    for path in [p for p in csrc.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]:
        text = path.read_text()
        for header in ("torch/extension.h", "torch/all.h", "torch/torch.h", "ATen/"):
            assert f"#include <{header}" not in text, path


@pytest.mark.parametrize(
    ("gib", "cores", "cuda", "files", "expected"),
    [
        (64, 8, False, 20, 8),
        (64, 8, False, 3, 3),
        (4, 8, False, 20, 4),
        (4, 8, True, 20, 1),
        (0.2, 8, False, 20, 1),
        (64, 1, False, 0, 1),
    ],
)
def test_jobs_fit_cores_and_memory(
    settings: pytest.MonkeyPatch, gib: float, cores: int, cuda: bool, files: int, expected: int
) -> None:
    settings.setattr(toolchain, "_free_memory", lambda: gib * 2**30)
    settings.setattr(toolchain.os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert build_jobs(files, cuda) == expected
    settings.setenv("MAX_JOBS", "5")
    assert build_jobs(files, cuda) == 5


def test_free_memory_is_a_positive_number() -> None:
    assert 0 < toolchain._free_memory() < 2**50


def test_ninja_of_an_environment_that_is_not_activated(settings: pytest.MonkeyPatch) -> None:
    expected = find_ninja().version
    settings.setenv("PATH", "/nonexistent")
    assert find_ninja().version == expected


@needs_compiler
@pytest.mark.parametrize("named", ["./fake-c++", "fake-c++"])
def test_programs_are_found_for_another_folder(
    settings: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    """The build runs in a folder of its own."""
    compiler = fake_compiler(tmp_path, 'exec c++ "$@"')
    (tmp_path / "nvcc").symlink_to(compiler)  # whose version is not that of an nvcc
    settings.chdir(tmp_path)
    settings.setenv("PATH", f".:{os.environ['PATH']}")
    settings.setenv("CXX", named)
    settings.delenv("CUDA_HOME", raising=False)
    settings.delenv("CUDA_PATH", raising=False)
    assert find_cxx().path == str(compiler)
    with pytest.raises(ToolchainError, match=f"^{tmp_path}/nvcc --version names no release"):
        find_nvcc()


def test_nvcc_is_found_through_a_wrapper(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = _nvcc_or_skip()
    wrapper = tmp_path / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {real.home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    settings.delenv("CUDA_HOME", raising=False)
    settings.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = find_nvcc()
    assert (found.path, found.home) == (str(wrapper), real.home)
    assert (Path(found.cudart_folder) / "libcudart_static.a").is_file()


def test_no_nvcc(settings: pytest.MonkeyPatch) -> None:
    settings.delenv("CUDA_HOME", raising=False)
    settings.setattr(shutil, "which", lambda *args, **kwargs: None)
    settings.setattr(toolchain.os, "access", lambda *args: False)
    with pytest.raises(ToolchainError, match="no nvcc"):
        find_nvcc()


def _nvcc_or_skip() -> toolchain.Nvcc:
    try:
        return find_nvcc()
    except ToolchainError as error:
        pytest.skip(str(error))
