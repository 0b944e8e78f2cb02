"""Every Python example of README and docs runs as printed; every shell command's flags exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

import gradmix_ext
from gradmix_ext.cli import cli
from gradmix_ext.continual.datasets import registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def plain_loop() -> dict[str, object]:
    """What the first example takes from the reader's own code."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    x, y = torch.randn(60, 8), torch.randint(6, (60,))
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "epochs": 2,
        "x_task": x[y >= 3],
        "y_task": y[y >= 3],
        "x_buffer": x[y < 3],
        "y_buffer": y[y < 3],
        "batches": list(zip(x.split(16), y.split(16), strict=True)),
    }


def theory() -> dict[str, object]:
    """What the page on theory has introduced in its text."""
    g = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    x, y = torch.randn(12, 3, generator=g), torch.arange(12) % 2
    return {
        "gx": gradmix_ext,
        "model": model,
        "x": x - x.mean(0),
        "y": y,
        "theta": torch.randn(3, generator=g),
        "alpha": 1.0,
        "beta": 1.0,
        "g": g,
        "loader": [(x.sigmoid(), y)],
    }


#: What examples take from their surroundings; those of other pages stand on their own.
CONTEXT = {"README.md": plain_loop, "mixup-theory.md": theory}

#: What examples may import although it need not be installed.
OPTIONAL = ("accelerate", "avalanche", "lightning", "timm", "torchvision", "transformers")

EXAMPLES = [
    pytest.param(page, example, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, example in enumerate(blocks("python", page), start=1)
]


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_python_example(page, example, capsys, tmp_path, monkeypatch):
    for module in OPTIONAL:
        if re.search(rf"^(?:import|from) {module}\b", example, flags=re.MULTILINE):
            pytest.importorskip(module, reason="pip install 'gradmix_ext[integrations]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_LOADERS", dict(registry._LOADERS))  # examples may add their own
    exec(compile(example, page.name, "exec"), CONTEXT.get(page.name, dict)())


def test_first_example_trains():
    """The opening example does what it says: the model changes and pairs are scored."""
    names = plain_loop()
    before = names["model"][0].weight.clone()
    exec(blocks("python")[0], names)
    assert not torch.equal(before, names["model"][0].weight)
    assert names["mixer"].scored.any()


COMMANDS = [
    line
    for page in PAGES
    for block in blocks("bash", page)
    for line in block.splitlines()
    if line.startswith("gradmix ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command):
    """Appending --help parses everything before it and runs nothing."""
    words = shlex.split(command, comments=True)[1:]
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0, result.output
    for flag in (word for word in words if word.startswith("--")):
        assert flag in result.output


def test_relative_links_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_reference_has_every_public_module():
    """`gx` itself and each module that it names; a page lists the names in a module's __all__."""
    modules = [gradmix_ext] + [
        getattr(gradmix_ext, name)
        for name in gradmix_ext.__all__
        if isinstance(getattr(gradmix_ext, name), ModuleType)
    ]
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = re.findall(r"^\.\. automodule:: (\S+)$", pages, flags=re.MULTILINE)
    assert {module.__name__ for module in modules} <= set(documented)


def test_reference_has_every_mixer():
    """The page of `gx` lists its names one by one, since `gx.mixers` has them too."""
    page = (ROOT / "docs" / "api" / "mixers.md").read_text()
    listed = re.search(r"automodule:: gradmix_ext\n   :members: (.*)", page)[1].split(", ")
    classes = {name for name in gradmix_ext.__all__ if isinstance(getattr(gradmix_ext, name), type)}
    assert classes == set(listed)
