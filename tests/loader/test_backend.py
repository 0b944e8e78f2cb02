"""What GRADMIX_EXT_BACKEND means, and what importing the package does not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from building import finish, needs_compiler, start

from gradmix_ext import loader
from gradmix_ext.loader.choose import choose
from gradmix_ext.loader.library import plan_library


def test_bad_name_is_an_error_that_lists_the_good_ones(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("GRADMIX_EXT_BACKEND", "opencl")
    with pytest.raises(ValueError, match="'opencl' is not one of auto, cuda, cpp, torch"):
        loader.requested()


def test_torch_looks_for_nothing(no_compiler: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, module = choose("torch")
    assert (status.active, status.library, module) == ("torch", None, None)
    assert not (tmp_path / "cache").exists()


def test_cuda_without_cuda_sources_says_so(settings: pytest.MonkeyPatch) -> None:
    with pytest.raises(loader.BackendUnavailable, match=r"BACKEND=cuda: this version has no CUDA"):
        choose("cuda")


def test_unsafe_cache_is_not_used(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(loader.BackendUnavailable, match="others may write to the cache folder"):
        choose("cpp")
    with pytest.warns(RuntimeWarning, match="others may write to the cache folder"):
        status, _ = choose("auto")
    assert status.active == "torch"


def test_no_sources(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings.setenv("GRADMIX_EXT_CSRC", str(tmp_path / "nowhere"))
    with pytest.raises(loader.BackendUnavailable, match="no C\\+\\+ sources"):
        choose("cpp")


@needs_compiler
@pytest.mark.parametrize(
    ("capability", "started"), [((7, 5), True), ((8, 6), True), ((7, 5), False)]
)
def test_old_gpus_run_pure_pytorch(
    settings: pytest.MonkeyPatch, built: Path, capability: tuple[int, int], started: bool
) -> None:
    """Where CUDA kernels would not run they are not built either; it is said why."""
    asked = []

    def plan(cuda: bool) -> object:
        asked.append(cuda)
        return plan_library(cuda)

    settings.setattr("gradmix_ext.loader.choose.plan_library", plan)
    settings.setattr("gradmix_ext.loader.choose.gpu_visible", lambda: True)
    settings.setattr(torch.cuda, "device_count", lambda: 1)
    settings.setattr(torch.cuda, "is_initialized", lambda: started)
    settings.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    settings.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    status, _ = choose("auto")
    assert (status.active, status.library) == ("cpp", built)
    if started and capability < (8, 0):
        assert status.reason == (
            "Tesla T4 has compute capability 7.5, and the CUDA kernels need 8.0"
        )
        assert asked == [False]
    else:
        assert "no CUDA" in status.reason  # the small sources have none
        assert asked[0] is True


def test_explicit_backend_fails_every_time_and_auto_warns_once(
    no_compiler: pytest.MonkeyPatch,
) -> None:
    explicit = start(
        """
from gradmix_ext import loader
for _ in range(2):
    try:
        loader.load()
    except loader.BackendUnavailable as error:
        print(error)
print(loader.status().active, loader.status().reason)
""",
        GRADMIX_EXT_BACKEND="cpp",
    )
    auto = start(
        """
import threading, warnings
from gradmix_ext import loader
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    threads = [threading.Thread(target=loader.load) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
assert len(caught) == 1, [str(w.message) for w in caught]
assert loader.load() is loader.load() is loader.status()
print(loader.status().active)
"""
    )
    first, second, status = finish(explicit)[0].splitlines()
    assert first == second
    assert first.startswith("GRADMIX_EXT_BACKEND=cpp: no C++ compiler")
    assert status.startswith("torch GRADMIX_EXT_BACKEND=cpp: no C++ compiler")
    assert finish(auto)[0] == "torch"


@needs_compiler
def test_other_processes_are_told_what_to_load(
    settings: pytest.MonkeyPatch, built: Path, no_compiler: pytest.MonkeyPatch
) -> None:
    code = """
import json, warnings
warnings.simplefilter("ignore")
from gradmix_ext.loader.backend import handed_down, load
assert handed_down() == {}
load()
print(json.dumps(handed_down()))
"""
    processes = [start(code), start(code, GRADMIX_EXT_CACHE="/dev/null/cache")]
    with_library, without = (json.loads(finish(process)[0]) for process in processes)
    assert with_library == {"GRADMIX_EXT_CACHE": str(built.parents[1])}
    assert without == {"GRADMIX_EXT_BACKEND": "torch"}


def test_import_is_cheap_and_touches_nothing(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Processes of their own, the first one also compiling the package to bytecode. The least of the
    # times is what it costs; processor time, because other programs on this machine should not
    # decide about a test.
    program = """
import os, sys, time, torch
sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["BYTECODE"]
before = set(sys.modules)
start = time.process_time()
import gradmix_ext
seconds = time.process_time() - start
assert not torch.cuda.is_initialized()
assert gradmix_ext.loader.native() is None
heavy = {"torch.utils.cpp_extension", "matplotlib", "sklearn", "rich", "click", "subprocess"}
print(seconds, *sorted(heavy & (set(sys.modules) - before)))
"""
    lines = [
        finish(start(program, BYTECODE=str(tmp_path / "bytecode")))[0].split() for _ in range(4)
    ]
    assert [extra for _, *extra in lines] == [[]] * 4
    assert min(float(line[0]) for line in lines) < 0.05
    assert not (tmp_path / "cache").exists()
