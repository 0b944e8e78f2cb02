"""The file from which an interrupted training goes on as if nothing had happened."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from zipfile import BadZipFile, ZipFile

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from gradmix_ext.continual.files import replaced, write_tensors

__all__ = ["Checkpoint", "CheckpointError", "must_fit"]

Load = TypeVar("Load", bound=Callable[..., None])

_FORMAT = 3
_MARK = "gradmix_ext training checkpoint"


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or belongs to another training."""


class Checkpoint:
    """Where and how often the state of a training is kept.

    The file is replaced as a whole: whenever the process is killed, it holds the state of before or
    that of after. Loading runs no code from it.

    Args:
        path: The file.
        every_seconds: Least time between two saves at ends of epochs; 0 saves every epoch.
    """

    def __init__(self, path: str | Path, every_seconds: float = 30.0) -> None:
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds must be at least 0, got {every_seconds}")
        self.path: Path = Path(path)
        self.every_seconds = every_seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for another save."""
        return time.monotonic() - self._last >= self.every_seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by one with this state: tensors and plain values.

        Raises:
            OSError: the file cannot be written; the one before it is still there.
            TypeError: the state holds something else, likewise.
        """
        with replaced(self.path) as path:
            write_tensors(path, {"mark": _MARK, "format": _FORMAT, "state": state})
            if foreign := get_unsafe_globals_in_checkpoint(path):
                raise TypeError(
                    f"a checkpoint holds tensors and plain values alone, but state"
                    f"{_place_of_foreign(state)} needs {', '.join(foreign)}"
                )
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state, on the CPU; None if there is no file.

        Raises:
            CheckpointError: the file is damaged or something else.
            OSError: it cannot be read.
        """
        if not self.path.is_file():
            return None
        data = self.path.read_bytes()
        try:
            with ZipFile(io.BytesIO(data)) as archive:
                damaged = archive.testzip()  # torch.load looks at no checksum
            if damaged is not None:
                raise BadZipFile(f"wrong checksum of {damaged}")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            mark, version, state = content["mark"], content["format"], content["state"]
        except pickle.UnpicklingError as error:  # whose text advises to let the file run code
            raise CheckpointError(
                f"{self.path} is not a training checkpoint, or is damaged: it holds more than "
                "tensors and plain values"
            ) from error
        except Exception as error:  # a damaged file fails in zipfile, pickle or PyTorch
            reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{self.path} is not a training checkpoint, or is damaged: {reason}"
            ) from error
        if mark != _MARK or version != _FORMAT:
            raise CheckpointError(
                f"{self.path} is a checkpoint of another version (format {version}, this one "
                f"reads {_FORMAT}): start anew, or use the version that wrote it"
            )
        loaded: dict[str, Any] = state
        return loaded


def _place_of_foreign(value: object) -> str:
    """Where in a state the first value is that no checkpoint can hold, such as ``['best'][0]``."""
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, part in parts:
        memory = io.BytesIO()
        torch.save(part, memory)
        memory.seek(0)
        if get_unsafe_globals_in_checkpoint(memory):
            return f"[{key!r}]{_place_of_foreign(part)}"
    return ""


def must_fit(load: Load) -> Load:
    """Decorator: what goes wrong when a state is taken up is a :class:`CheckpointError`."""

    @wraps(load)
    def checked(*args: Any, **options: Any) -> None:
        try:
            load(*args, **options)
        except CheckpointError:
            raise
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(f"the checkpoint does not fit this training: {reason}") from error

    return cast("Load", checked)
