"""The folder of compiled libraries: who may use it, what it keeps apart, what it removes."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from gradmix_ext.loader import compile as compile_module
from gradmix_ext.loader.cache import (
    Cache,
    CacheError,
    Entry,
    UnsafeCacheError,
    cache_folder,
    open_cache,
)
from gradmix_ext.loader.compile import make_plan
from gradmix_ext.loader.recipe import make_recipe
from gradmix_ext.loader.toolchain import Tool

KEY = "cpu-0123456789abcdef-01234567"


def fill(cache: Cache, key: str) -> Entry:
    folder = cache.new_folder(key)
    (folder / "_C.so").write_bytes(b"library")
    return cache.publish(folder, key, {})


def test_folder_follows_the_environment(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    settings.delenv("GRADMIX_EXT_CACHE")
    settings.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gradmix_ext"
    settings.delenv("XDG_CACHE_HOME")
    settings.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "gradmix_ext"


def test_created_for_this_user_alone(settings: pytest.MonkeyPatch) -> None:
    umask = os.umask(0)
    try:
        folder = open_cache().folder
    finally:
        os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_refused_when_others_may_write(
    settings: pytest.MonkeyPatch, tmp_path: Path, mode: int
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(UnsafeCacheError, match=r"others may write .*GRADMIX_EXT_CACHE"):
        open_cache()


@pytest.mark.parametrize("holds_a_build", [False, True])
def test_default_folder_with_data_sets_is_closed_to_others(
    settings: pytest.MonkeyPatch, tmp_path: Path, holds_a_build: bool
) -> None:
    settings.setenv("GRADMIX_EXT_CACHE", "")
    settings.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "gradmix_ext"
    (folder / "data").mkdir(parents=True)
    if holds_a_build:
        (folder / KEY).mkdir()
    folder.chmod(0o775)
    if holds_a_build:  # which somebody else may have put there
        with pytest.raises(UnsafeCacheError, match="others may write"):
            open_cache()
    else:
        open_cache()
    assert stat.S_IMODE(folder.stat().st_mode) == (0o775 if holds_a_build else 0o755)


def test_refused_when_somebody_elses(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    me = os.geteuid()
    settings.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(UnsafeCacheError, match=f"belongs to user {me} instead of {me + 1}"):
        open_cache()


def test_a_file_is_no_folder(settings: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(CacheError, match="is not a folder"):
        open_cache()


def test_entry_appears_only_when_published(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    folder = cache.new_folder(KEY)
    (folder / "_C.so").write_bytes(b"half a lib")
    assert cache.find(KEY) is None
    assert cache.entries() == []
    entry = cache.publish(folder, KEY, {"torch": "2.10"})
    assert cache.find(KEY) == entry
    assert entry.record["torch"] == "2.10"
    assert not folder.exists()


def test_new_build_replaces_the_old_one(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    fill(cache, KEY)
    folder = cache.new_folder(KEY)
    (folder / "_C.so").write_bytes(b"newer")
    assert cache.publish(folder, KEY, {}).library.read_bytes() == b"newer"
    assert [path.name for path in cache.folder.iterdir()] == [KEY]


def test_damaged_entry_counts_as_absent(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    entry = fill(cache, KEY)
    assert entry.library.read_bytes() == b"library"
    for damaged in (b"lib", b"li\0\0ary", None):
        entry.library.unlink() if damaged is None else entry.library.write_bytes(damaged)
        assert cache.find(KEY) is None
        assert cache.find_any_toolchain(KEY) is None
    entry.library.write_bytes(b"library")
    assert cache.find(KEY) == entry
    (entry.folder / "build.json").write_text("{}")
    assert cache.find(KEY) is None


def test_left_overs_of_dead_builders_are_removed(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    stale = cache.new_folder(KEY)
    other = cache.new_folder(KEY.replace("cpu", "cuda"))
    cache.new_folder(KEY)
    assert not stale.exists()
    assert other.exists()


def test_library_of_another_compiler_is_found(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    entry = fill(cache, KEY)
    assert cache.find_any_toolchain("cpu-0123456789abcdef-ffffffff") == entry
    assert cache.find_any_toolchain("cpu-1123456789abcdef-01234567") is None
    assert cache.find("cpu-0123456789abcdef-ffffffff") is None


def test_clean_removes_only_builds(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    fill(cache, KEY)
    cache.publish_failure(cache.new_folder(f"{KEY[:-1]}8"), f"{KEY[:-1]}8", {})
    cache.new_folder(f"{KEY[:-1]}9")
    precious = cache.folder / "thesis.tex"
    precious.write_text("")
    assert cache.clean() == (2, 0)
    assert list(cache.folder.iterdir()) == [precious]


def test_clean_leaves_what_is_being_built(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    with cache.lock(KEY, on_wait=lambda holder: None):
        folder = cache.new_folder(KEY)
        assert cache.clean() == (0, 1)
        assert folder.exists()


def test_clean_works_on_a_full_disk(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    fill(cache, KEY)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    settings.setattr(os, "write", full)
    assert cache.clean() == (1, 0)


def test_clean_goes_on_after_what_it_cannot_remove(settings: pytest.MonkeyPatch) -> None:
    cache = open_cache()
    first, second = fill(cache, KEY), fill(cache, f"{KEY[:-1]}8")
    (cache.folder / f"{KEY}.lock").mkdir()
    with pytest.raises(CacheError, match=r"removed 1 builds, but 1 cannot be: .*Is a directory"):
        cache.clean()
    assert first.folder.exists()
    assert not second.folder.exists()


def test_key_changes_with_all_that_decides_the_result(
    settings: pytest.MonkeyPatch, tiny_csrc: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(tiny_csrc, cuda=False)
    keys = {make_plan(recipe).key}
    assert make_plan(make_recipe(tiny_csrc, cuda=False)).key in keys

    def expect_another(**changes: object) -> None:
        key = make_plan(dataclasses.replace(recipe, **changes)).key  # type: ignore[arg-type]
        assert key not in keys
        keys.add(key)

    expect_another(sources_hash="0" * 64)
    expect_another(cuda=True, cuda_archs="8.0")
    expect_another(cuda=True, cuda_archs="9.0")
    for module, name, value in [
        (compile_module, "__version__", "9.9"),
        (compile_module, "find_cxx", lambda: Tool("/usr/bin/c++", "another compiler 1.0")),
    ]:
        with settings.context() as patch:
            patch.setattr(module, name, value)
            expect_another()
    with settings.context() as patch:
        patch.setattr("torch.__version__", "2.99.0")
        expect_another()
    with settings.context() as patch:
        patch.setattr("sysconfig.get_config_var", lambda name: "cpython-399")
        expect_another()
    with settings.context() as patch:
        patch.setattr("gradmix_ext.loader.recipe._CXX_FLAGS", ("-O2",))
        expect_another()


@pytest.mark.parametrize("change", ["source", "header", "new file", "renamed"])
def test_hash_sees_sources_and_headers(tmp_path: Path, change: str) -> None:
    for name in ("python/module.cpp", "cpu/op.cpp", "common/params.h"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = make_recipe(tmp_path, cuda=False).sources_hash
    (tmp_path / "cpu" / "notes.txt").write_text("not a source")
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "op.cu").write_text("of the other variant")
    assert make_recipe(tmp_path, cuda=False).sources_hash == before
    if change == "source":
        (tmp_path / "cpu/op.cpp").write_text("other")
    elif change == "header":
        (tmp_path / "common/params.h").write_text("other")
    elif change == "new file":
        (tmp_path / "common/more.h").write_text("")
    else:
        (tmp_path / "cpu/op.cpp").rename(tmp_path / "cpu/po.cpp")
    assert make_recipe(tmp_path, cuda=False).sources_hash != before
