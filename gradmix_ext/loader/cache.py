"""The folder of compiled libraries: where it is, whether it can be trusted, who may build.

Loading a library runs code, so the folder has to belong to this user alone. Entries are named by
their content and appear by an atomic rename, hence whoever finds one may load it without a lock;
only building takes the lock. A library that was damaged later would kill the process that loads it,
so each entry records the digest of its library and counts only while it fits.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradmix_ext._folder import default_folder, make_private

__all__ = ["Cache", "CacheError", "Entry", "UnsafeCacheError", "cache_folder", "open_cache"]

LIBRARY = "_C.so"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_NAMES = re.compile(r"(cpu|cuda)-[0-9a-f]{16}-[0-9a-f]{8}(\.lock|\.failed|\.tmp-.*)?")


class CacheError(RuntimeError):
    """The cache folder cannot be used."""


class UnsafeCacheError(CacheError):
    """Others than this user could put a library into the cache folder."""


@dataclass(frozen=True)
class Entry:
    """One finished build, or one that failed: a folder with the record and the compiler's log."""

    folder: Path

    @property
    def library(self) -> Path:
        """The compiled library (absent from a failed build)."""
        return self.folder / LIBRARY

    @property
    def log(self) -> Path:
        """What the compiler said."""
        return self.folder / "build.log"

    @property
    def record(self) -> dict[str, Any]:
        """What was built, from what and with what; for a failed build also why it failed."""
        try:
            content = json.loads((self.folder / "build.json").read_text())
        except (OSError, ValueError):  # information only: an unreadable record is an empty one
            return {}
        return content if isinstance(content, dict) else {}

    @property
    def intact(self) -> bool:
        """Whether the library is there and as it was when it was published."""
        try:
            return self.record.get("sha256") == _digest(self.library)
        except OSError:
            return False


def cache_folder() -> Path:
    """Say where compiled libraries are kept.

    `GRADMIX_EXT_CACHE`, else ``$XDG_CACHE_HOME/gradmix_ext``, else ``~/.cache/gradmix_ext``.

    Raises:
        CacheError: there is no home folder to put it in.
    """
    if named := os.environ.get("GRADMIX_EXT_CACHE"):
        return Path(named).expanduser().absolute()
    try:
        return default_folder()
    except RuntimeError as error:
        raise CacheError(f"no cache folder: {error}; set GRADMIX_EXT_CACHE") from error


def open_cache() -> Cache:
    """Open the cache folder, creating it for this user alone.

    Raises:
        UnsafeCacheError: others could change what is in it.
        CacheError: it cannot be created.
    """
    folder = cache_folder()
    try:
        make_private(folder)
        if not os.environ.get("GRADMIX_EXT_CACHE"):
            _close_to_others(folder)
        _check_owned(folder)
    except OSError as error:
        raise CacheError(f"cannot create the cache folder {folder}: {error.strerror}") from error
    return Cache(folder)


def _close_to_others(folder: Path) -> None:
    """Take from others the right to write to the default folder, if it holds no build yet.

    Whoever put data sets there by hand made it with the rights that the umask gives.
    """
    info = folder.stat()
    if info.st_uid != os.geteuid() or not info.st_mode & _OTHERS_WRITE or Cache(folder).keys():
        return
    folder.chmod(stat.S_IMODE(info.st_mode) & ~_OTHERS_WRITE)
    if Cache(folder).keys():  # somebody put one there in between
        folder.chmod(stat.S_IMODE(info.st_mode))


def _check_owned(folder: Path) -> None:
    info = folder.stat()
    cure = "fix its owner and mode or name another folder in GRADMIX_EXT_CACHE"
    if not stat.S_ISDIR(info.st_mode):
        raise CacheError(f"the cache folder {folder} is not a folder; {cure}")
    if info.st_uid != os.geteuid():
        raise UnsafeCacheError(
            f"the cache folder {folder} belongs to user {info.st_uid} instead of "
            f"{os.geteuid()}: a library in it cannot be trusted; {cure}"
        )
    if info.st_mode & _OTHERS_WRITE:
        raise UnsafeCacheError(
            f"others may write to the cache folder {folder} (mode {info.st_mode & 0o777:04o}): a "
            f"library in it cannot be trusted; {cure}"
        )


@functools.lru_cache(maxsize=1)
def _private_folder(owner: int) -> Path:
    """A folder under an unpredictable name that lives as long as process `owner`."""
    folder = Path(tempfile.mkdtemp(prefix="gradmix_ext-"))

    def remove() -> None:
        if os.getpid() == owner:  # a forked child must not remove its parent's folder
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def private_cache() -> Cache:
    """Open a cache for the life of this process, for when the real one cannot be written.

    Raises:
        CacheError: there is no temporary folder either.
    """
    try:
        return Cache(_private_folder(os.getpid()))
    except OSError as error:
        raise CacheError(f"cannot create a temporary folder: {error.strerror}") from error


@dataclass(frozen=True)
class Cache:
    """The entries in one cache folder. A key is ``<variant>-<content>-<toolchain>``."""

    folder: Path

    def find(self, key: str) -> Entry | None:
        """The finished build of `key`, if there is one and it is not damaged."""
        entry = Entry(self.folder / key)
        return entry if entry.intact else None

    def find_any_toolchain(self, key: str) -> Entry | None:
        """A finished build of the same content as `key` by whatever compiler."""
        same = f"{key.rpartition('-')[0]}-"
        found = (e for e in self.entries() if e.folder.name.startswith(same) and e.intact)
        return next(found, None)

    def find_failure(self, key: str) -> Entry | None:
        """The failed build of `key`, if it was tried before."""
        entry = Entry(self.folder / f"{key}.failed")
        return entry if entry.folder.is_dir() else None

    def entries(self) -> list[Entry]:
        """All finished builds, damaged ones too, newest first."""
        found = [Entry(path) for path in self._ours() if "." not in path.name]
        found = [entry for entry in found if entry.library.is_file()]
        return sorted(found, key=lambda entry: entry.library.stat().st_mtime, reverse=True)

    def failures(self) -> list[Entry]:
        """All failed builds that are remembered."""
        return [Entry(path) for path in self._ours() if path.suffix == ".failed"]

    @property
    def writable(self) -> bool:
        """Whether a build can be put here (false on a read-only file system)."""
        return os.access(self.folder, os.W_OK | os.X_OK)

    def keys(self) -> list[str]:
        """The keys of all that is here: finished, failed, being built or left over."""
        return sorted({path.name.split(".")[0] for path in self._ours()})

    def _ours(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAMES.fullmatch(path.name))

    @contextlib.contextmanager
    def lock(self, key: str, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Hold the right to build `key`; the kernel releases it when the holder dies.

        Args:
            key: the entry to build.
            on_wait: called with the holder's process id before waiting for it.
        """
        path = self.folder / f"{key}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _take(descriptor, on_wait)
                if _is_file(descriptor, path):  # else `clean` removed it while we waited
                    with contextlib.suppress(OSError):  # a full disk: who waits is told no number
                        os.ftruncate(descriptor, 0)
                        os.write(descriptor, str(os.getpid()).encode())
                    yield
                    return
            finally:
                os.close(descriptor)

    def new_folder(self, key: str) -> Path:
        """Create a folder to build `key` in; left-overs of builders that died are removed.

        Only for the holder of the lock: nobody else builds this key, so the rest is left over.
        """
        for stale in self.folder.glob(f"{key}.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"{key}.tmp-", dir=self.folder))

    def publish(self, built: Path, key: str, record: dict[str, Any]) -> Entry:
        """Make the folder `built` the entry of `key`, in one step for all who look."""
        record = {**record, "sha256": _digest(built / LIBRARY)}
        return self._replace(built, self.folder / key, record)

    def publish_failure(self, built: Path, key: str, record: dict[str, Any]) -> Entry:
        """Remember that `key` does not build, with the log in the folder `built`."""
        return self._replace(built, self.folder / f"{key}.failed", record)

    def _replace(self, built: Path, target: Path, record: dict[str, Any]) -> Entry:
        (built / "build.json").write_text(json.dumps(record, indent=1) + "\n")
        for path in [*built.iterdir(), built]:  # a crash could keep the name and lose the content
            _to_disk(path)
        if target.exists():  # a folder cannot be renamed onto one that is not empty
            os.rename(target, f"{built}.old")
        os.rename(built, target)
        shutil.rmtree(f"{built}.old", ignore_errors=True)
        return Entry(target)

    def forget(self, key: str) -> None:
        """Remove the entry and the failure of `key`."""
        for path in (self.folder / key, self.folder / f"{key}.failed"):
            shutil.rmtree(path, ignore_errors=True)

    def clean(self) -> tuple[int, int]:
        """Remove all builds that no other process is busy with.

        Only what this class names is touched, whatever else the folder holds.

        Returns:
            How many builds (finished and failed) were removed, and how many are being built.

        Raises:
            CacheError: some could not be removed; the others are.
        """
        removed = busy = 0
        failures = []
        for key in self.keys():
            try:
                with self.lock(key, on_wait=_refuse_to_wait):
                    removed += (self.folder / key).exists()
                    removed += (self.folder / f"{key}.failed").exists()
                    self.forget(key)
                    for path in self.folder.glob(f"{key}.tmp-*"):
                        shutil.rmtree(path, ignore_errors=True)
                    (self.folder / f"{key}.lock").unlink()
            except _BusyError:  # noqa: PERF203 - a handful of builds
                busy += 1
            except OSError as error:
                failures.append(str(error))
        if failures:
            raise CacheError(
                f"removed {removed} builds, but {len(failures)} cannot be: {failures[0]}"
            )
        return removed, busy


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _BusyError(Exception):
    pass


def _refuse_to_wait(holder: str) -> None:
    raise _BusyError(holder)


def _take(descriptor: int, on_wait: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait(os.pread(descriptor, 32, 0).decode(errors="replace"))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Some network file systems know no locks. Building twice is safe there, since an entry
        # appears by a rename, and better than not building at all.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
            raise


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
