"""A small library to build in a second, programs that load it, and a compiler that misbehaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradmix_ext.loader.toolchain import ToolchainError, find_cxx

ROOT = Path(__file__).parents[2]

SOURCES = {
    "cpu/simd.h": "#pragma once\nnamespace gradmix::cpu { const char* simd_level(); }\n",
    "cpu/simd.cpp": (
        '#include "cpu/simd.h"\n'
        'namespace gradmix::cpu { const char* simd_level() { return "tiny"; } }\n'
    ),
    "common/binding.h": """
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
""",
    "cpu/twice.cpp": """
#include "common/binding.h"
torch::stable::Tensor twice(const torch::stable::Tensor& x) {
  auto out = torch::stable::empty_like(x);
  auto* from = static_cast<const float*>(x.const_data_ptr());
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < x.numel(); ++i) to[i] = 2 * from[i];
  return out;
}
STABLE_TORCH_LIBRARY_IMPL(gradmix_tiny, CPU, m) { m.impl("twice", TORCH_BOX(&twice)); }
""",
    # Python's C API instead of pybind11, which alone would compile for five seconds.
    "python/module.cpp": """
#include <Python.h>
#include "cpu/simd.h"
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
const char mark[] = "gradmix_ext library: sources=" GRADMIX_EXT_SOURCES_HASH
                    " cuda=" TEXT(GRADMIX_EXT_HAS_CUDA);
static PyObject* simd_level(PyObject*, PyObject*) {
  return PyUnicode_FromString(gradmix::cpu::simd_level());
}
static PyMethodDef methods[] = {{"simd_level", simd_level, METH_NOARGS, ""}, {}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", "", -1, methods};
PyMODINIT_FUNC PyInit__C() {
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr) PyModule_AddStringConstant(module, "mark", mark);
  return module;
}
""",
}


def has_compiler() -> bool:
    try:
        find_cxx()
    except ToolchainError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


def write_sources(folder: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


LOAD = """
import torch
from gradmix_ext import loader
status = loader.load()
library = torch.library.Library("gradmix_tiny", "DEF")
library.define("twice(Tensor x) -> Tensor")
if loader.native() is not None:
    assert torch.ops.gradmix_tiny.twice(torch.ones(3)).tolist() == [2, 2, 2]
    assert loader.native().simd_level() == "tiny"
print(status.active, status.origin, status.library, sep="|")
"""


def start(code: str = LOAD, **environment: str) -> subprocess.Popen[str]:
    """Start a Python program with the present environment."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",  # not where the package lies: PYTHONPATH decides which one is imported
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for a program that has to succeed; what it printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip(), err


def fake_compiler(folder: Path, body: str) -> Path:
    """A C++ compiler that answers --version, notes each other call, and then does `body`."""
    script = folder / "fake-c++"
    script.write_text(
        "#!/bin/sh\n"
        'case "$1" in --version|-v|-dumpfullversion) exec c++ "$@";; esac\n'
        f'echo "$$" >> {folder}/calls\n'
        f"{body}\n"
    )
    script.chmod(0o755)
    return script
