from __future__ import annotations

import pytest
import torch

from gradmix_ext import loader
from gradmix_ext.cli import main


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    """Threads as before, the default folder below a temporary one, and no terminal."""
    loader.load()  # whose message about compiling is not what is tested here
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def gradmix(capsys):
    """Run a command in this process; gives exit code, stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run
