#!/usr/bin/env bash
# Brings a CUDA toolkit for building with the feature `cuda` on a machine that has none: NVIDIA's own
# wheels from PyPI, unpacked under a folder. Needs python3 with venv and gcc; no root, no GPU.
#
#   eval "$(scripts/setup-cuda.sh)"        # prints the variables to set
#   cargo build --features cuda
#
# The folder is ~/.cache/candle-ctc/cuda, or CTC_CUDA_PREFIX. What is built runs on a machine with a
# driver for CUDA 13 and its libraries; here it can be built and type-checked, not run.
set -euo pipefail

prefix="${CTC_CUDA_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/candle-ctc/cuda}"
home="$prefix/toolkit"
version='13.0.*'

if [ ! -e "$prefix/done-2-$version" ]; then
    mkdir -p "$prefix"
    python3 -m venv "$prefix/venv" >&2
    "$prefix/venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-deps \
        "nvidia-cuda-nvcc==$version" "nvidia-cuda-crt==$version" "nvidia-nvvm==$version" \
        "nvidia-cuda-runtime==$version" "nvidia-cuda-cccl==$version" "nvidia-cuda-nvrtc==$version" \
        "nvidia-cublas==$version" nvidia-curand >&2
    found=$(echo "$prefix"/venv/lib/python3*/site-packages/nvidia/cu13)
    [ -x "$found/bin/nvcc" ] || { echo "no nvcc under $found" >&2; exit 1; }
    ln -sfn "$found" "$home"
    ln -sfn lib "$home/lib64"
    # The linker looks for names without a version.
    for library in "$home"/lib/*.so.*; do
        [ -e "${library%%.so.*}.so" ] || ln -s "$(basename "$library")" "${library%%.so.*}.so"
    done
    # The driver's library, for the linker: every function of it says that there is no device.
    mkdir -p "$home/lib/stubs"
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$home/include/cuda.h" "$home/include/cudaTypedefs.h" | sort -u |
        sed 's/.*/int &(void) { return 100; }/' >"$home/lib/stubs/cuda.c"
    gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$home/lib/stubs/libcuda.so.1" "$home/lib/stubs/cuda.c"
    ln -sf libcuda.so.1 "$home/lib/stubs/libcuda.so"
    touch "$prefix/done-2-$version"
fi
libraries="$home/lib"
# Where there is no driver, programs start with the stub and find no device.
ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1' || libraries="$libraries:$home/lib/stubs"
printf 'export CUDA_HOME=%q CUDA_PATH=%q CUDA_ROOT=%q PATH=%q:"$PATH" LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}' \
    "$home" "$home" "$home" "$home/bin" "$libraries"
printf ' LIBRARY_PATH=%q${LIBRARY_PATH:+:$LIBRARY_PATH}\n' "$home/lib/stubs"
# candle asks the GPU which architecture to compile for. Where there is none, it must be told.
command -v nvidia-smi >/dev/null || printf 'export CUDA_COMPUTE_CAP=%q\n' "${CUDA_COMPUTE_CAP:-90}"
