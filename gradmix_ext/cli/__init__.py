"""The command line: ``gradmix``, and ``python -m gradmix_ext``."""

from __future__ import annotations

from gradmix_ext.cli._main import cli, main

__all__ = ["cli", "main"]
