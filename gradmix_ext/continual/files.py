"""Files and folders for results."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.serialization import config

__all__ = [
    "LockedFolder",
    "arrays_in",
    "default_folder",
    "occupied",
    "remove_parts",
    "replaced",
    "require_free",
    "write_tensors",
]

_LOCK = ".lock"
_PART = ".part"


def default_folder(kind: str) -> Path:
    """A folder name under runs/ that is not taken: time, then what was done."""
    stem = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}"
    folder, tries = stem, 1
    while folder.exists():
        tries += 1
        folder = stem.with_name(f"{stem.name}-{tries}")
    return folder


def occupied(folder: Path) -> bool:
    """Whether a folder is there and holds anything but hidden files."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def require_free(
    folder: Path,
    overwrite: bool,
    is_earlier: Callable[[Path], bool] = lambda folder: True,
    what: str = "run",
) -> None:
    """Refuse to write results over something else.

    Args:
        folder: Where the results shall be; need not exist.
        overwrite: Whether the results of an earlier run may be replaced.
        is_earlier: Whether a folder with content is that of an earlier run; the default takes any
            for one, for results that replace no files but their own.
        what: What `is_earlier` looks for, for the message.

    Raises:
        FileExistsError: the folder has content, and `overwrite` is not given or the content is
            something else; or there is a file of that name.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is not a folder")
    if not occupied(folder):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} is not empty: choose another, or --overwrite")
    if not is_earlier(folder):
        raise FileExistsError(f"{folder} holds no earlier {what}: choose another")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write (of the same suffix) that takes the place of `path` once it is complete.

    Whenever the process is killed, `path` is as it was before or as it is after.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{_PART}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_tensors(path: Path, content: Any) -> None:
    """What ``torch.save`` writes, with an OSError where the disk is full.

    Its own error is a RuntimeError then; and given a path, it makes that a part of the content.

    Raises:
        OSError: the file cannot be written.
    """
    memory = io.BytesIO()
    with cast("Any", config).patch("save.compute_crc32", True):  # by which damage is found
        torch.save(content, memory)
    path.write_bytes(memory.getbuffer())


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left half-written in a folder and below it."""
    for path in folder.rglob(f".*{_PART}*"):
        path.unlink(missing_ok=True)


@contextmanager
def arrays_in(path: Path, refusal: str) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The arrays of an .npz file, for a block that makes something of them.

    Args:
        path: The file.
        refusal: What is said of a file with which that fails, as in "is not a saved result".

    Raises:
        ValueError: the file is damaged, or the block has failed.
        OSError: it cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as archive:
            yield archive
    except Exception as error:  # a damaged archive fails in zipfile, zlib or NumPy's own parser
        raise ValueError(f"{path} {refusal}: {error!r}") from error


Folder = TypeVar("Folder", bound="LockedFolder")


class LockedFolder:
    """A folder to which no other process may write until this is closed, or this process ends.

    Args:
        folder: It has to be there.

    Raises:
        BlockingIOError: another process has it.
    """

    def __init__(self, folder: Path) -> None:
        lock = (folder / _LOCK).open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise BlockingIOError(f"{folder} is in use by process {holder}") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def __enter__(self: Folder) -> Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write there."""
        self._lock.close()
