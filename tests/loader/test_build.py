"""Real builds of a small library: races, crashes, and the ways in which compiling fails."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from building import (
    LOAD,
    ROOT,
    SOURCES,
    fake_compiler,
    finish,
    needs_compiler,
    start,
    write_sources,
)
from torch.utils.cpp_extension import include_paths

from gradmix_ext.loader import BackendUnavailable, build, clean
from gradmix_ext.loader.cache import Cache
from gradmix_ext.loader.choose import choose
from gradmix_ext.loader.recipe import PRECOMPILED_HEADER, make_recipe
from gradmix_ext.loader.toolchain import find_cxx


@needs_compiler
def test_two_processes_build_once(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, 'exec c++ "$@"')
    settings.setenv("CXX", str(compiler))
    (out_1, err_1), (out_2, err_2) = map(finish, [start(), start()])
    assert {out_1.split("|")[1], out_2.split("|")[1]} == {"just built", "cache"}
    assert out_1.split("|")[0] == out_2.split("|")[0] == "cpp"
    assert (err_1 + err_2).count("compiling the C++ kernels") == 1
    # a header, three sources and one link
    assert len((tmp_path / "calls").read_text().split()) == 5


@needs_compiler
def test_header_is_compiled_in_advance(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if "clang" in find_cxx().version:
        pytest.skip("clang does not look for it")
    settings.setenv("CXX", str(fake_compiler(tmp_path, 'exec c++ -H "$@"')))
    log = build(cuda=False).log
    assert log is not None
    # -H marks with "!" what is read precompiled, and with dots what is read as text
    assert [Path(line[2:]).name for line in log.read_text().splitlines() if line[:2] == "! "] == [
        "binding.h.gch"
    ]


@needs_compiler
def test_header_that_does_not_compile_in_advance(
    settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    damaged = 'case "$*" in *c++-header*) for last; do :; done; echo ill >"$last"; exit 1;; esac'
    settings.setenv("CXX", str(fake_compiler(tmp_path, f'{damaged}\nexec c++ "$@"')))
    assert build(cuda=False).origin == "just built"


def test_bindings_begin_with_the_header_that_is_compiled_in_advance() -> None:
    recipe = make_recipe(ROOT / "csrc", cuda=True)
    without = {"simd.cpp"}
    bindings = [
        source
        for source in recipe.sources
        if source.parent.name in ("cpu", "cuda") and source.suffix == ".cpp"
    ]
    assert len(bindings) > 30
    for source in bindings:
        first = re.search(r"^#include (.*)$", source.read_text(), re.MULTILINE)
        assert first is not None
        expected = f'"{PRECOMPILED_HEADER}"'
        assert (first[1] == expected) == (source.name not in without), source


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@needs_compiler
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_ended_builder_leaves_nothing_in_the_way(
    settings: pytest.MonkeyPatch, tmp_path: Path, ctrl_c: None, ended_by: signal.Signals
) -> None:
    settings.setenv("CXX", str(fake_compiler(tmp_path, "exec sleep 600")))
    builder = start()
    calls = tmp_path / "calls"  # of the header, and of a source by ninja
    wait_until(lambda: calls.exists() and len(calls.read_text().split()) == 1)
    os.kill(int(calls.read_text()), signal.SIGTERM)
    wait_until(lambda: len(calls.read_text().split()) > 1)
    builder.send_signal(ended_by)
    builder.communicate()
    compilers = [Path(f"/proc/{pid}/cmdline") for pid in calls.read_text().split()]
    wait_until(lambda: not any(path.is_file() and path.read_bytes() for path in compilers))
    cache = Cache(tmp_path / "cache")
    assert cache.entries() == []
    assert len(list(cache.folder.glob("*.tmp-*"))) == (ended_by == signal.SIGKILL)

    fake_compiler(tmp_path, 'exec c++ "$@"')  # the same compiler, the same key
    built = build(cuda=False)
    assert built.origin == "just built"
    assert list(cache.folder.glob("*.tmp-*")) == []


@needs_compiler
def test_build_closes_what_it_opens(
    settings: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    settings.setenv("CXX", str(fake_compiler(tmp_path, "exit 1")))
    with pytest.raises(BackendUnavailable):
        build(cuda=False)
    gc.collect()
    assert [warning for warning in recwarn if warning.category is ResourceWarning] == []


@needs_compiler
def test_failure_is_remembered_until_forced(
    settings: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings.setenv("CXX", str(fake_compiler(tmp_path, "echo 'x.cpp:1: error: bad day'; exit 1")))
    settings.setenv("MAX_JOBS", "1")
    with pytest.raises(BackendUnavailable, match=r"x\.cpp:1: error: bad day .*whole log") as first:
        build(cuda=False)
    announced = capfd.readouterr().err
    for part in ("3 files", "1 at a time", "about", str(tmp_path / "cache"), "BACKEND=torch"):
        assert part in announced
    assert first.value.log is not None
    assert "fake-c++" in first.value.log.read_text()
    calls = (tmp_path / "calls").read_text()
    with pytest.raises(
        BackendUnavailable, match=r"failed before: x\.cpp:1: error: bad day"
    ) as again:
        build(cuda=False)
    assert again.value.log == first.value.log
    assert "compiling" not in capfd.readouterr().err
    assert (tmp_path / "calls").read_text() == calls

    fake_compiler(tmp_path, 'exec c++ "$@"')
    assert build(cuda=False, force=True).origin == "just built"
    assert build(cuda=False).origin == "cache"
    assert clean() == (tmp_path / "cache", 1, 0)


@needs_compiler
@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("int gone(); int PyInit__C() { return gone(); }\n", "undefined reference to .gone"),
        ('#include "cpu/simd.cpp"\n', "multiple definition of .gradmix::cpu::simd_level"),
    ],
)
def test_failure_to_link_names_the_symbol(
    settings: pytest.MonkeyPatch, tmp_path: Path, module: str, reason: str
) -> None:
    simd = {name: text for name, text in SOURCES.items() if name.startswith("cpu/simd")}
    csrc = write_sources(tmp_path / "csrc", {**simd, "python/module.cpp": module})
    settings.setenv("GRADMIX_EXT_CSRC", str(csrc))
    settings.setenv("CXX", str(fake_compiler(tmp_path, 'exec c++ "$@" -Wl,-z,defs')))
    with pytest.raises(BackendUnavailable, match=rf"the compilation failed: .*{reason}"):
        build(cuda=False)


@needs_compiler
@pytest.mark.parametrize("character", '$:|"')
def test_folder_that_ninja_does_not_take(
    settings: pytest.MonkeyPatch, tmp_path: Path, character: str
) -> None:
    """The failure would hold for the same sources in any other folder."""
    csrc = write_sources(tmp_path / f"a{character}b" / "csrc", SOURCES)
    settings.setenv("GRADMIX_EXT_CSRC", str(csrc))
    with pytest.raises(BackendUnavailable) as refused:
        build(cuda=False)
    assert str(refused.value) == f"ninja cannot build with {csrc}: its name holds {character}"
    assert Cache(tmp_path / "cache").failures() == []


@needs_compiler
def test_folder_with_a_strange_name(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    csrc = write_sources(tmp_path / "my 'é' #1; *" / "csrc", SOURCES)
    settings.setenv("GRADMIX_EXT_CSRC", str(csrc))
    assert build(cuda=False).origin == "just built"


@needs_compiler
def test_passing_trouble_is_shown_but_not_remembered(
    settings: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = "cc1plus: fatal error: x.o: No space left on device"
    settings.setenv("GRADMIX_EXT_VERBOSE", "1")
    settings.setenv("CXX", str(fake_compiler(tmp_path, f"echo '{said}' >&2; exit 1")))
    with pytest.raises(BackendUnavailable, match="the disk is full"):
        build(cuda=False)
    assert Cache(tmp_path / "cache").failures() == []
    assert f"[gradmix_ext] {said}" in capfd.readouterr().err


def test_disk_full_before_the_compiler_runs(settings: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    settings.setattr("gradmix_ext.loader.cache.tempfile.mkdtemp", full)
    settings.setattr("gradmix_ext.loader.compile.find_cxx", _a_tool)
    settings.setattr("gradmix_ext.loader.compile.find_ninja", _a_tool)
    with pytest.raises(BackendUnavailable, match=r"cannot build in .*: the disk is full"):
        build(cuda=False)


def _a_tool() -> object:
    from gradmix_ext.loader.toolchain import Tool

    return Tool("/usr/bin/true", "1.0")


def test_no_compiler_falls_back_with_one_warning(no_compiler: pytest.MonkeyPatch) -> None:
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler.*apt-get install") as caught:
        status, module = choose("auto")
    assert len(caught) == 1
    assert "GRADMIX_EXT_BACKEND=torch silences" in str(caught[0].message)
    assert (status.active, module) == ("torch", None)
    assert "no C++ compiler" in status.reason


def test_no_ninja(no_compiler: pytest.MonkeyPatch) -> None:
    no_compiler.setattr("gradmix_ext.loader.compile.find_cxx", _a_tool)
    no_compiler.setattr("gradmix_ext.loader.toolchain.shutil.which", lambda *a, **k: None)
    with pytest.raises(BackendUnavailable, match="no ninja: pip install ninja"):
        build(cuda=False)


@pytest.mark.parametrize(
    ("body", "reason"),
    [("exit 1", "does not run: exit code 1"), ("echo 'I am ill' >&2; exit 3", "3, I am ill")],
)
def test_compiler_that_does_not_run(
    settings: pytest.MonkeyPatch, tmp_path: Path, body: str, reason: str
) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text(f"#!/bin/sh\n{body}\n")
    broken.chmod(0o755)
    settings.setenv("CXX", str(broken))
    with pytest.raises(BackendUnavailable, match=reason):
        build(cuda=False)


def test_compiler_that_is_not_there(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendUnavailable, match="CXX='no-such-compiler' is not a program"):
        build(cuda=False)


def test_compiler_with_arguments(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("CXX", "ccache g++")
    with pytest.raises(BackendUnavailable, match="must be one program without arguments"):
        build(cuda=False)


@needs_compiler
def test_home_that_cannot_be_written(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"  # a file: no folder can be made below it, even by root
    home.write_text("")
    settings.setenv("TMPDIR", str(tmp_path))
    environment = {"GRADMIX_EXT_CACHE": "", "XDG_CACHE_HOME": "", "HOME": str(home)}
    out, err = finish(start(**environment))
    active, origin, library = out.split("|")
    assert (active, origin) == ("cpp", "just built")
    assert f"cannot create the cache folder {home}/.cache/gradmix_ext" in err
    assert "removed when this process ends" in err
    folder = Path(library).parent.parent
    assert folder.parent == tmp_path
    assert folder.name.startswith("gradmix_ext-")
    assert not folder.exists()


@needs_compiler
def test_library_in_a_cache_that_cannot_be_written_is_used(built: Path) -> None:
    read_only = "from gradmix_ext.loader.cache import Cache; Cache.writable = False"
    out, err = finish(start(read_only + LOAD))
    assert out == f"cpp|cache|{built}"
    assert err == ""


def test_building_ahead_needs_a_cache_that_lasts(
    settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings.setenv("GRADMIX_EXT_CACHE", str(tmp_path / "file" / "cache"))
    settings.setattr("gradmix_ext.loader.compile.find_cxx", _a_tool)
    settings.setattr("gradmix_ext.loader.compile.find_ninja", _a_tool)
    with pytest.raises(BackendUnavailable, match="cannot create the cache folder"):
        build(cuda=False)


@needs_compiler
def test_library_is_used_where_the_compiler_is_gone(
    built: Path, settings: pytest.MonkeyPatch
) -> None:
    settings.setenv("CXX", "no-such-compiler")
    out, _ = finish(start())
    assert out == f"cpp|cache|{built}"


@needs_compiler
def test_damaged_library_is_built_again(built: Path) -> None:
    """Loading one that lost its end, or pages in the middle, would kill the process."""
    os.truncate(built, built.stat().st_size // 2)
    code = "from gradmix_ext import loader; print(loader.info()['backends']['cpp'])"
    assert finish(start(code))[0].startswith("compiled on first use")
    out, _ = finish(start())
    assert out == f"cpp|just built|{built}"


@needs_compiler
def test_library_that_does_not_load_any_more_is_built_again(built: Path) -> None:
    built.write_bytes(b"\x7fELF and then nothing")
    record = {"sha256": hashlib.sha256(built.read_bytes()).hexdigest()}
    (built.parent / "build.json").write_text(json.dumps(record))
    out, _ = finish(start())
    assert out == f"cpp|just built|{built}"


def compiles(source: str, *flags: str) -> None:
    """Check a source of the package; what it includes is looked for in the first folders first."""
    recipe = make_recipe(ROOT / "csrc", cuda=False)
    subprocess.run(
        [
            *(find_cxx().path, *recipe.cxx_flags(), "-fsyntax-only", *flags),
            *(f"-I{recipe.csrc}", f"-I{sysconfig.get_path('include')}"),
            *(f"-I{folder}" for folder in include_paths()),
            str(ROOT / "csrc" / source),
        ],
        check=True,
    )


@needs_compiler
def test_the_module_needs_no_pybind11_of_its_own(tmp_path: Path) -> None:
    """It compiles with the copy in PyTorch 2.12, which refuses to know a target version of it."""
    pybind11 = pytest.importorskip("pybind11")
    guarded = tmp_path / "pybind11" / "pybind11.h"
    guarded.parent.mkdir()
    guarded.write_text(
        "#ifdef TORCH_TARGET_VERSION\n#error\n#endif\n#include_next <pybind11/pybind11.h>\n"
    )
    compiles("python/module.cpp", f"-I{tmp_path}", f"-I{pybind11.get_include()}")


@needs_compiler
def test_the_bindings_do_without_a_macro_that_is_newer_than_their_target(tmp_path: Path) -> None:
    """PyTorch 2.10 to 2.12 lack it."""
    older = tmp_path / "older.h"
    headers = ("library", "ops", "tensor")  # which use it themselves where it is there
    older.write_text(
        "".join(f"#include <torch/csrc/stable/{header}.h>\n" for header in headers)
        + "#undef STABLE_TORCH_ERROR_CODE_CHECK\n"
        "#undef TORCH_ERROR_CODE_CHECK\n"
        "#define TORCH_ERROR_CODE_CHECK(call) (void)(call)\n"
    )
    compiles("cpu/binding.cpp", "-include", str(older))
