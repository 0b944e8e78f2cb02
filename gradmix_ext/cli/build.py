"""`gradmix build`: compile the kernels now instead of on first use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from gradmix_ext import loader
from gradmix_ext.cli._errors import InputError, wrong_input

__all__ = ["build_command", "one_line_errors"]

ENVIRONMENT = """\b
Environment variables:
  GRADMIX_EXT_BACKEND   auto (default), cuda, cpp or torch: what runs the ops
  GRADMIX_EXT_CACHE     folder of compiled libraries
                        (default $XDG_CACHE_HOME/gradmix_ext, ~/.cache/gradmix_ext)
  GRADMIX_EXT_DATA      folder of data sets
  GRADMIX_EXT_VERBOSE   1: show the compiler's output
  GRADMIX_EXT_CSRC      folder of C++ sources to compile instead of the package's
  GRADMIX_EXT_BUILD     1, cpp or cuda: compile while installing (pip install)
  GRADMIX_EXT_SIMD      default, avx2 or avx512: the highest instruction set of CPU kernels
  CXX                   C++ compiler (default c++, g++ or clang++ on PATH)
  CUDA_HOME             CUDA toolkit (default: where nvcc is found)
  TORCH_CUDA_ARCH_LIST  GPUs to compile for (default 8.0;9.0+PTX)
  MAX_JOBS              files compiled at once (default by cores and memory)
"""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Report a backend that cannot be had, like wrong input, as one line."""
    with wrong_input():
        try:
            yield
        except loader.BackendUnavailable as error:
            raise InputError(str(error)) from error


@click.command(name="build", epilog=ENVIRONMENT)
@click.option("--cuda", is_flag=True, help="With CUDA kernels (needs nvcc, no GPU).")
@click.option("--cpu", is_flag=True, help="C++ kernels for the CPU only.")
@click.option("--force", is_flag=True, help="Compile again, also what failed before.")
@click.option("--clean", is_flag=True, help="Delete all compiled libraries and stop.")
def build_command(cuda: bool, cpu: bool, force: bool, clean: bool) -> None:
    """Compile the kernels into the cache.

    Without this command the first op that is called does it. By default CUDA kernels are part of
    it where there is a GPU. Prints the path of the library and the seconds it took.
    """
    if clean and (force or cuda or cpu):
        raise click.UsageError("--clean goes with no other option")
    if cuda and cpu:
        raise click.UsageError("give either --cuda or --cpu, not both")
    with one_line_errors():
        if clean:
            folder, removed, busy = loader.clean()
            click.echo(f"removed {removed} builds from {folder}")
            if busy:
                click.echo(f"left {busy} that another process is compiling")
            return
        built = loader.build(cuda=cuda if cuda or cpu else None, force=force)
    click.echo(f"{built.library} ({built.backend}, {built.origin}, {built.seconds:.1f} s)")
