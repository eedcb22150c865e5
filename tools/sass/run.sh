#!/usr/bin/env bash
# Measures the CUDA kernels from their machine code, with no GPU: README.md. Options are those of sass.py.
#
#   tools/sass/run.sh [--check] [--write] [--set-budgets] [--show LOOP]
#
# Needs python3 (3.11 or newer) with venv, and gcc. Brings NVIDIA's compiler as scripts/setup-cuda.sh does, and the
# disassembler beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
eval "$("$here/../../scripts/setup-cuda.sh")"
prefix=$(dirname "$CUDA_HOME")

# There is none for CUDA 13.0 on PyPI; a later one reads what an earlier compiler wrote.
version=13.2.86
nvdisasm="$prefix/nvdisasm-$version/nvidia/cu13/bin/nvdisasm"
if [ ! -x "$nvdisasm" ]; then
    new=$(mktemp -d "$prefix/nvdisasm.XXXXXX")
    "$prefix/venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-deps --target "$new" \
        "nvidia-cuda-nvdisasm==$version" >&2
    [ -x "$new/nvidia/cu13/bin/nvdisasm" ] || { echo "no nvdisasm under $new" >&2; exit 1; }
    rm -rf "$prefix/nvdisasm-$version"
    mv "$new" "$prefix/nvdisasm-$version"
fi
exec python3 "$here/sass.py" --nvcc "$CUDA_HOME/bin/nvcc" --nvdisasm "$nvdisasm" --cache "$prefix/sass" "$@"
