"""`gradmix info`: what runs here, and what to install for something faster."""

from __future__ import annotations

import json
from typing import Any

import click

from gradmix_ext import loader
from gradmix_ext.cli.build import one_line_errors

__all__ = ["info_command"]


@click.command(name="info")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(as_json: bool) -> None:
    """Show versions, the backend that runs, why another is missing, and the cache.

    Compiles nothing.
    """
    with one_line_errors():
        found = loader.info()
    click.echo(json.dumps(found, indent=2) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    lines = [f"{name:<14} {found[name]}" for name in ("gradmix_ext", "python", "torch")]
    lines.append(f"{'torch CUDA':<14} {found['torch_cuda']}, {found['gpus']} GPU(s) visible")
    lines += [f"{name:<14} {found[name]}" for name in ("cxx", "ninja", "nvcc")]
    library = f" ({found['origin']}: {found['library']})" if found["library"] else ""
    lines.append(f"{'backend':<14} {found['active']}{library}; requested: {found['requested']}")
    lines += [f"  {name:<12} {state}" for name, state in found["backends"].items()]
    lines.append(f"{'ahead of time':<14} {found['ahead_of_time']}")
    lines.append(f"{'SIMD level':<14} {found['simd_level']}")
    cache = found["cache"]
    lines.append(f"{'cache':<14} {cache.get('folder') or cache['problem']}")
    for entry in cache["entries"]:
        lines.append(
            f"  {entry['name']}: {entry['bytes'] / 1e6:.1f} MB, torch {entry.get('torch')}, "
            f"{entry.get('cxx')}, compiled in {entry.get('seconds')} s"
        )
    lines += [f"  {e['name']}: {e.get('failed')}, log {e['log']}" for e in cache["failures"]]
    return "\n".join(lines)
