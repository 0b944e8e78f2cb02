"""The user's folder for compiled libraries and data sets, where no other is named."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/gradmix_ext``, else ``~/.cache/gradmix_ext``.

    Raises:
        RuntimeError: there is no home folder to put it in.
    """
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).absolute() / "gradmix_ext"
    return Path.home() / ".cache" / "gradmix_ext"


def make_private(folder: Path) -> None:
    """Create a folder for this user alone, whatever the umask, unless it is there.

    Raises:
        OSError: it cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
