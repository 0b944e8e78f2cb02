#!/usr/bin/env bash
# Everything that only a GPU can show, in under 8 minutes and without a network: builds the CUDA kernels, runs the ops on them
# (values, gradients, graphs, streams, determinism, training, sizes beyond 2^31), the benchmarks, and compute-sanitizer over a short
# subset (memcheck, racecheck, synccheck, initcheck).
#
#   benchmarks/gpu_check.sh [--out FOLDER] [--skip STEP,...]     steps: tests, benchmarks, sanitizer
#
# Each step has a time limit, and one that fails stops no other. Leaves one JSON and one Markdown table in FOLDER (default
# benchmarks/results), written after every step, and the logs of the programs. PYTHON names the interpreter (default python3); it
# needs PyTorch with CUDA, NumPy, ninja and pytest. Exit status: 0 all passed, 1 something failed, 2 it cannot run here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
if ! command -v "$python" >/dev/null; then
  echo "gpu_check: $python is not installed; name an interpreter: PYTHON=... $0" >&2
  exit 2
fi
exec "$python" benchmarks/gpu_check.py "$@"
