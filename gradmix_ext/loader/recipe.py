"""What is compiled and how: sources, flags and architectures.

The one place that both builds read: the on-the-fly build (`gradmix_ext.loader`) and the
ahead-of-time build (`setup.py`, which loads this file by its path). Hence only the standard
library and no relative import here.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DEFAULT_CUDA_ARCHS",
    "OLDEST_GPU",
    "PRECOMPILED_HEADER",
    "NoCudaSourcesError",
    "Recipe",
    "csrc_folder",
    "gencode_flags",
    "hash_sources",
    "make_recipe",
    "pybind11_folder",
    "read_mark",
    "shipped_files",
    "usable_archs",
]

# The stable ABI of PyTorch 2.10: a library built for it loads on every later version.
TORCH_TARGET_VERSION = "0x020a000000000000"
# The kernels multiply bfloat16 on tensor cores, which compute capability 8 brought.
OLDEST_GPU = 8
# Every GPU since then: newer ones compile the PTX when the library is loaded.
DEFAULT_CUDA_ARCHS = "8.0;9.0+PTX"

# In the folder of the sources: what takes most of the time that a binding takes to compile.
PRECOMPILED_HEADER = "common/binding.h"
_SOURCE_SUFFIXES = frozenset({".cpp", ".cu", ".h", ".hpp", ".cuh"})
# Kernels choose their instruction set by function attributes, so no -march: one set of flags.
_CXX_FLAGS = (
    "-O3",
    "-g0",
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
)
_NVCC_FLAGS = (
    "-O3",
    "-std=c++20",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden",
    "-Xptxas=-warn-spills",
)
_ARCH = re.compile(r"(\d+)\.(\d+)([af]?)(\+PTX)?")
# Compiled into the library by csrc/python/module.cpp, read back without loading the library.
_MARK = re.compile(rb"gradmix_ext library: sources=([0-9a-f]+) cuda=([01])")


class NoCudaSourcesError(RuntimeError):
    """A CUDA library was asked for, and csrc holds no CUDA source."""


@dataclass(frozen=True)
class Recipe:
    """One variant of the library, ready to be handed to a build system.

    Attributes:
        csrc: folder of the C++ and CUDA sources.
        cuda: whether the CUDA sources are part of it.
        sources: files to compile.
        cuda_archs: list of compute capabilities such as ``"8.0;9.0+PTX"``, empty without CUDA.
        sources_hash: SHA-256 over the names and contents of its sources and headers.
    """

    csrc: Path
    cuda: bool
    sources: tuple[Path, ...]
    cuda_archs: str
    sources_hash: str

    @property
    def variant(self) -> str:
        """``"cuda"`` or ``"cpu"``."""
        return "cuda" if self.cuda else "cpu"

    @property
    def flags(self) -> tuple[str, ...]:
        """All the flags that decide what comes out, as they enter the cache key."""
        return (*_CXX_FLAGS, *self.nvcc_flags())

    def cxx_flags(self) -> list[str]:
        """Flags of the C++ compiler, unquoted."""
        return [
            *_CXX_FLAGS,
            f'-DGRADMIX_EXT_SOURCES_HASH="{self.sources_hash}"',
            f"-DGRADMIX_EXT_HAS_CUDA={int(self.cuda)}",
            f'-DGRADMIX_EXT_CUDA_ARCHS="{self.cuda_archs}"',
        ]

    def nvcc_flags(self) -> list[str]:
        """Flags of nvcc, unquoted; empty without CUDA."""
        return [*_NVCC_FLAGS, *gencode_flags(self.cuda_archs)] if self.cuda else []

    def link_flags(self, torch_lib: str, cudart_folder: str | None = None) -> list[str]:
        """Flags of the linker, unquoted.

        Whatever a build system adds behind them is dropped from the result unless a symbol of it
        is needed (`--as-needed`), so that the library does not depend on libtorch_python, nor on
        the CUDA parts of PyTorch that a CPU-only PyTorch lacks.

        Args:
            torch_lib: the folder of PyTorch's shared libraries.
            cudart_folder: the folder of libcudart_static.a, needed with CUDA.
        """
        flags = [f"-L{torch_lib}"]
        if self.cuda:
            # libtorch holds no code but leads the dynamic linker to libtorch_cuda, where the weak
            # symbol aoti_torch_get_current_cuda_stream lives: it has to be named although no
            # (strong) symbol of it is used.
            flags += ["-Wl,--no-as-needed", "-ltorch"]
        flags += ["-Wl,--as-needed", "-ltorch_cpu", "-lc10"]
        if self.cuda:
            if cudart_folder is None:
                raise ValueError("cudart_folder is needed to link a library with CUDA kernels")
            # A static CUDA runtime: no libcudart.so.N has to be found when the library is loaded.
            flags += [
                f"-L{cudart_folder}",
                "-lcudart_static",
                "-Wl,--exclude-libs,libcudart_static.a",
                "-ldl",
                "-lrt",
                "-lpthread",
            ]
        return flags


def csrc_folder(package: Path) -> Path:
    """Find the C++ sources of the package in folder `package`.

    An installed package holds them in ``_csrc``; a checkout (also when installed in editable
    mode) has ``csrc`` beside the package. `GRADMIX_EXT_CSRC` overrides both.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    override = os.environ.get("GRADMIX_EXT_CSRC")
    places = [Path(override)] if override else [package / "_csrc", package.parent / "csrc"]
    for place in places:
        if place.is_dir():
            return place.resolve()
    raise FileNotFoundError(f"no C++ sources: none of {[str(p) for p in places]} is a folder")


def gencode_flags(archs: str) -> list[str]:
    """Translate a list of compute capabilities, ``"8.0;9.0+PTX"``, into flags of nvcc.

    Raises:
        ValueError: an item is not of the form ``X.Y`` or ``X.Y+PTX``.
    """
    flags = []
    for item in re.split(r"[;, ]+", archs.strip()):
        match = _ARCH.fullmatch(item)
        if match is None:
            raise ValueError(
                f"{item!r} in the list of CUDA architectures {archs!r} is not of the form "
                "'9.0' or '9.0+PTX'"
            )
        number = f"{match[1]}{match[2]}{match[3]}"
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def usable_archs(archs: str) -> str:
    """Leave out of a list of compute capabilities those that the kernels cannot be compiled for.

    Images with PyTorch in them set `TORCH_CUDA_ARCH_LIST` to all that PyTorch itself supports.

    Raises:
        ValueError: an item is malformed, or none is left.
    """
    gencode_flags(archs)
    items = re.split(r"[;, ]+", archs.strip())
    usable = [item for item in items if int(item.partition(".")[0]) >= OLDEST_GPU]
    if not usable:
        raise ValueError(
            f"the list of CUDA architectures {archs!r} names no GPU that the CUDA kernels run on, "
            f"which need compute capability {OLDEST_GPU}.0"
        )
    return ";".join(usable)


def pybind11_folder() -> list[str]:
    """Where pybind11's headers are: in its package, else nowhere (PyTorch ships a copy)."""
    try:
        import pybind11
    except ImportError:
        return []
    return [str(pybind11.get_include())]


def make_recipe(csrc: Path, cuda: bool) -> Recipe:
    """List the sources in `csrc` and fix the flags of one variant.

    The architectures come from `TORCH_CUDA_ARCH_LIST` when it is set, without GPUs that are too
    old.

    Raises:
        NoCudaSourcesError: `cuda` is asked for and there is no ``.cu`` file in ``csrc/cuda``.
        ValueError: two sources share a name, or the list of architectures is malformed or holds
            none that is young enough.
    """
    cuda_sources = sorted((csrc / "cuda").rglob("*.cu"))
    if cuda and not cuda_sources:
        raise NoCudaSourcesError(
            f"this version has no CUDA kernels (no .cu file in {csrc / 'cuda'}); CUDA tensors use "
            "the pure-PyTorch implementation"
        )
    # The slowest file first, so that it does not end up alone on the last core.
    sources = [csrc / "python" / "module.cpp", *sorted((csrc / "cpu").rglob("*.cpp"))]
    if cuda:
        sources += sorted((csrc / "cuda").rglob("*.cpp")) + cuda_sources
    names = [source.name for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:  # object files are named after their source, without its folder
        raise ValueError(f"sources in {csrc} share the names {repeated}; each needs its own")
    archs = ""
    if cuda:
        archs = usable_archs(os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHS)
    return Recipe(csrc, cuda, tuple(sources), archs, hash_sources(csrc, cuda))


def shipped_files(csrc: Path) -> list[Path]:
    """All sources and headers in `csrc`, in a fixed order: what the package ships and hashes."""
    return sorted(p for p in csrc.rglob("*") if p.suffix in _SOURCE_SUFFIXES and p.is_file())


def hash_sources(csrc: Path, cuda: bool) -> str:
    """SHA-256 over the names and contents of all sources and headers of one variant."""
    digest = hashlib.sha256()
    for path in shipped_files(csrc):
        name = path.relative_to(csrc)
        if cuda or name.parts[0] != "cuda":
            content = path.read_bytes()
            digest.update(f"{name.as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def read_mark(library: Path) -> tuple[str, bool] | None:
    """Read from a compiled library what it was made of, without loading it.

    Returns:
        ``(sources_hash, has_cuda)``, or None when the file is not a library of this project.
    """
    match = _MARK.search(library.read_bytes())
    return (match[1].decode(), match[2] == b"1") if match else None
