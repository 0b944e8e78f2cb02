"""Packaging: a pure-Python wheel that carries csrc/ and benchmarks/, or a compiled library as well.

`pip install .` compiles nothing: the first op that is called does (gradmix_ext.loader).
`GRADMIX_EXT_BUILD=1 pip install --no-build-isolation .` compiles now, against the PyTorch that is
installed, with CUDA kernels if that has CUDA, which takes nvcc; `GRADMIX_EXT_BUILD=cpp` leaves them
out and `GRADMIX_EXT_BUILD=cuda` insists on them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithSources(build_py):
    """Ship csrc/ and benchmarks/ as gradmix_ext/_csrc and gradmix_ext/_benchmarks.

    An editable install finds both beside the package.
    """

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        # An earlier build in this checkout may have left modules and sources that are gone by now.
        shutil.rmtree(Path(self.build_lib, "gradmix_ext"), ignore_errors=True)
        super().run()
        shipped = {
            "csrc": by_path("recipe").shipped_files(ROOT / "csrc"),
            "benchmarks": [
                path
                for pattern in ("bench_p*.py", "scaling.py")
                for path in sorted((ROOT / "benchmarks").glob(pattern))
            ],
        }
        for folder, sources in shipped.items():
            for source in sources:
                inside = source.relative_to(ROOT / folder)
                target = Path(self.build_lib, "gradmix_ext", f"_{folder}", inside)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


def by_path(name: str) -> ModuleType:
    """Import a module of gradmix_ext.loader without the package, which would import PyTorch."""
    path = ROOT / "gradmix_ext" / "loader" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_gradmix_ext_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def ahead_of_time(kind: str) -> dict[str, Any]:
    """The arguments of setup() that compile the library now."""
    recipe_module, toolchain = by_path("recipe"), by_path("toolchain")
    if kind not in ("1", "cpp", "cuda"):
        raise SystemExit(f"GRADMIX_EXT_BUILD={kind!r} is not one of 1, cpp, cuda")
    try:
        import torch
    except ImportError as error:
        raise SystemExit(
            f"GRADMIX_EXT_BUILD={kind} compiles against the installed PyTorch, and there is none "
            "here: use `pip install --no-build-isolation`"
        ) from error
    try:
        nvcc = None
        if kind == "cuda" or (
            kind == "1" and torch.version.cuda and any((ROOT / "csrc" / "cuda").rglob("*.cu"))
        ):
            nvcc = toolchain.find_nvcc()
            os.environ["CUDA_HOME"] = nvcc.home  # read by torch.utils.cpp_extension
        recipe = recipe_module.make_recipe(ROOT / "csrc", cuda=nvcc is not None)
        os.environ["PATH"] = os.pathsep.join(
            [str(Path(toolchain.find_ninja().path).parent), os.environ.get("PATH", "")]
        )
    except RuntimeError as error:
        raise SystemExit(f"GRADMIX_EXT_BUILD={kind}: {error}") from error
    from torch.utils import cpp_extension

    os.environ.setdefault("MAX_JOBS", str(toolchain.build_jobs(len(recipe.sources), recipe.cuda)))
    torch_lib = str(Path(torch.__file__).parent / "lib")
    extension = Extension(
        "gradmix_ext._C",
        sources=[str(source.relative_to(ROOT)) for source in recipe.sources],
        include_dirs=[
            str(recipe.csrc),
            *recipe_module.pybind11_folder(),
            *cpp_extension.include_paths(),
        ],
        extra_compile_args={"cxx": recipe.cxx_flags(), "nvcc": recipe.nvcc_flags()},
        extra_link_args=recipe.link_flags(torch_lib, nvcc.cudart_folder if nvcc else None),
        language="c++",
    )
    return {"ext_modules": [extension], "command": {"build_ext": cpp_extension.BuildExtension}}


kind = os.environ.get("GRADMIX_EXT_BUILD", "")
build = ahead_of_time(kind) if kind not in ("", "0") else {"command": {}}
setup(
    packages=find_packages(include=["gradmix_ext", "gradmix_ext.*"]),
    include_package_data=False,  # what MANIFEST.in lists is for the sdist
    package_data={
        "gradmix_ext": ["py.typed"],
        "gradmix_ext.page": ["*.css", "*.jinja"],
        "gradmix_ext.report": ["assets/*"],
    },
    ext_modules=build.get("ext_modules", []),
    cmdclass={"build_py": BuildWithSources, **build["command"]},
)
