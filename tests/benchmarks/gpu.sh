#!/usr/bin/env bash
# Everything that wants a GPU, in one call of at most ten minutes:
#   tests/benchmarks/gpu.sh pack         here: wheels of what the GPU's machine lacks, into .whl/ (carry it)
#   tests/benchmarks/gpu.sh run [DIR]    there: the tests, then the benchmark; logs into DIR (by default $OUT, or .)
# The machine brings torch and Triton of its own; nothing is downloaded there.
set -uo pipefail
cd "$(dirname "$0")/../.."
WHEELS=.whl
PACKAGES=(lightning pytorch-lightning lightning-utilities torchmetrics tensorboard tensorboard-data-server bitsandbytes
  pytorch-optimizer pytest iniconfig pluggy absl-py grpcio markdown werkzeug protobuf rich markdown-it-py mdurl pygments
  hypothesis sortedcontainers)

pack() {
  mkdir -p "$WHEELS"
  .venv/bin/python -m pip download --quiet --no-deps --only-binary=:all: --dest "$WHEELS" --constraint constraints.txt \
    --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
    --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any \
    "${PACKAGES[@]}" && du -sh "$WHEELS"
}

run() {
  local logs="${1:-${OUT:-.}}"
  python3 -m pip install --quiet --no-deps --no-index --find-links "$WHEELS" "${PACKAGES[@]}" 2>&1 | grep -v WARNING
  export PYTHONPATH="$PWD"
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  timeout 270 python3 -m pytest -q tests/test_gpu.py tests/test_triton_kernel.py 2>&1 | tee "$logs/gpu_tests.log"
  timeout 240 python3 -m tests.benchmarks.monitor_overhead --markdown 2>&1 | tee "$logs/gpu_benchmark.md"
}

"${1:?pack or run}" "${@:2}"
