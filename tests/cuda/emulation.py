"""Build csrc/cuda for the CPU: the same kernels and bindings against the emulator of CUDA."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from gradmix_ext.loader.recipe import TORCH_TARGET_VERSION
from gradmix_ext.loader.toolchain import build_jobs, find_cxx

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
EMULATOR = Path(__file__).parent / "emulator"
NAMESPACE = "gradmix_emulated"
SANITISE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
_TORCH = Path(torch.__file__).parent
_FLAGS = (
    "-std=c++20",
    "-O1",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unknown-pragmas",
)


def kernel_sources() -> list[Path]:
    """The CUDA sources."""
    return sorted((CSRC / "cuda").rglob("*.cu"))


def op_sources() -> list[Path]:
    """Kernels, bindings, and in place of PyTorch's CUDA the emulated device."""
    bindings = sorted((CSRC / "cuda").rglob("*.cpp"))
    replaced = [path for path in bindings if path.name != "runtime.cpp"]
    return [*replaced, *kernel_sources(), EMULATOR / "runtime.cpp"]


def build(sources: list[Path], folder: Path, *more_flags: str) -> Path:
    """Compile and link against the emulator, unless ``folder`` holds the result already."""
    cxx = find_cxx()
    flags = [
        *_FLAGS, *more_flags,
        f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
        f"-DGRADMIX_CUDA_NAMESPACE={NAMESPACE}", "-DGRADMIX_CUDA_KEY=CPU",
        '-DGRADMIX_EXT_CUDA_ARCHS="emulated"',
        f"-I{EMULATOR}", f"-I{CSRC}", "-isystem", str(_TORCH / "include"),
    ]  # fmt: skip
    sources = [*sources, EMULATOR / "emulator.cpp"]
    library = folder / f"{_digest(sources, [*flags, cxx.version])}.so"
    if library.exists():
        return library
    objects = folder / library.stem
    objects.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> str:
        target = objects / f"{source.name}.o"
        _run([cxx.path, *flags, "-x", "c++", "-c", str(source), "-o", str(target)])
        return str(target)

    with ThreadPoolExecutor(build_jobs(len(sources), False)) as pool:
        compiled = list(pool.map(compile_one, sources))
    torch_lib = str(_TORCH / "lib")
    link = [f"-L{torch_lib}", f"-Wl,-rpath,{torch_lib}", "-Wl,--as-needed", "-ltorch_cpu", "-lc10"]
    partial = library.with_suffix(".partial")
    _run([cxx.path, "-shared", *more_flags, *compiled, *link, "-o", str(partial)])
    partial.rename(library)
    shutil.rmtree(objects)
    return library


def _digest(sources: list[Path], words: list[str]) -> str:
    headers = [
        *(CSRC / "cuda").rglob("*.h"),
        *(CSRC / "common").rglob("*.h"),
        *EMULATOR.rglob("*.h"),
    ]
    content = hashlib.sha256(" ".join([*words, torch.__version__]).encode())
    for path in [*sources, *sorted(headers)]:
        content.update(path.read_bytes())
    return content.hexdigest()[:16]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


class Emulator:
    """The controls of a library that was built against the emulator."""

    def __init__(self, library: Path) -> None:
        self.native = ctypes.CDLL(str(library))
        self.native.emulator_report.restype = ctypes.c_char_p
        self.native.emulator_barriers.restype = ctypes.c_char_p

    def schedule(self, kind: str, seed: int = 0) -> None:
        """Choose who runs first between two barriers: forward, reverse or random."""
        self.native.emulator_schedule(kind.encode(), ctypes.c_uint64(seed))

    def skip_barrier(self, file: str = "", line: int = 0) -> None:
        """Leave out the barrier at a line, or none."""
        self.native.emulator_skip_barrier(file.encode(), line)

    def report(self) -> str:
        """What the last launch that failed has to say."""
        return self.native.emulator_report().decode()

    def barriers(self) -> set[str]:
        """The barriers reached so far, each as ``file:line``."""
        return set(self.native.emulator_barriers().decode().split())


class EmulatedOps(Emulator):
    """The ops, run by the CUDA sources on the CPU."""

    def __init__(self, library: Path) -> None:
        self.registered = torch.library.Library(NAMESPACE, "DEF")
        for name in torch.ops.gradmix_ext:
            packet = getattr(torch.ops.gradmix_ext, name)
            for overload in packet.overloads():
                schema = str(getattr(packet, overload)._schema)
                self.registered.define(schema.removeprefix("gradmix_ext::"))
        torch.ops.load_library(str(library))
        super().__init__(library)

    def __getattr__(self, name: str):
        return getattr(torch.ops.gradmix_emulated, name)


def sanitised_environment() -> dict[str, str]:
    """The environment in which Python can load a library built with ``SANITISE``."""
    runtimes = []
    for name in ("libasan.so", "libubsan.so"):
        found = subprocess.run(
            [find_cxx().path, f"-print-file-name={name}"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        runtimes.append(str(Path(found).resolve()))
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        # Python keeps memory for good, and that is no leak of these sources.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Python's own allocator would hide the bounds of small objects.
        "PYTHONMALLOC": "malloc",
    }
