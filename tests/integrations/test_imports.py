"""Importing the package imports no framework; a framework that is missing is named."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FRAMEWORKS = ("accelerate", "avalanche", "lightning", "timm", "torchvision", "transformers")


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_importing_the_package_imports_no_framework():
    names = ", ".join(f"{name!r}" for name in FRAMEWORKS)
    result = run(
        "import sys, gradmix_ext, gradmix_ext.integrations, gradmix_ext.integrations.timm\n"
        "import gradmix_ext.integrations.accelerate, gradmix_ext.integrations.mammoth\n"
        f"print([name for name in ({names}) if name in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("avalanche", "pip install avalanche-lib"),
        ("lightning", "pip install lightning"),
        ("torchvision", "pip install torchvision"),
        ("transformers", "pip install transformers accelerate"),
    ],
)
def test_a_missing_framework_is_named(name, install):
    result = run(
        f"import sys; sys.modules[{name!r}] = None\nimport gradmix_ext.integrations.{name}"
    )
    assert f"gradmix_ext.integrations.{name} needs" in result.stderr
    assert install in result.stderr


def test_the_file_for_mammoth_is_found_without_importing_it():
    spec = importlib.util.find_spec("gradmix_ext.integrations._mammoth_model")
    assert "class GradMix(MixedReplay, ContinualModel)" in Path(spec.origin).read_text()
