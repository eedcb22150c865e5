#!/usr/bin/env bash
# All checks on a machine with an NVIDIA GPU. It needs the driver, CUDA 13's libraries, and programs that were
# built before, here or elsewhere; Rust is not needed.
#
#   scripts/gpu-check.sh build [DIR]     builds, strips and packs the programs into DIR (default: gpu-programs)
#   scripts/gpu-check.sh run [DIR]       the tests, compute-sanitizer on part of them, then the benchmark
#
# CARGO_CONFIG is a file of settings for cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
action="${1:-}" programs="${2:-gpu-programs}"

# executable NAME CARGO-ARGUMENTS...: builds, and copies the program NAME to $programs.
executable() {
    local path
    path=$(cargo ${CARGO_CONFIG:+--config "$CARGO_CONFIG"} "${@:2}" --locked --features cuda --message-format=json |
        sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -1)
    [ -x "$path" ] || { echo "$1 was not built" >&2; exit 1; }
    strip -o "$programs/$1" "$path"
    local bytes
    bytes=$(stat -c %s "$programs/$1")
    # Most of it is candle's own kernels, which pack well.
    gzip --force "$programs/$1"
    printf '%s: %s MB, %s MB packed\n' "$1" $((bytes / 1000000)) $(($(stat -c %s "$programs/$1.gz") / 1000000))
}

case "$action" in
build)
    command -v nvcc >/dev/null || [ -n "${CUDA_HOME:-}" ] || eval "$(scripts/setup-cuda.sh)"
    mkdir -p "$programs"
    executable it test --no-run --test it
    # In the profile of the tests, which is optimised too: candle and its kernels are then compiled once.
    executable gpu bench --profile dev --no-run --bench gpu
    ;;
run)
    export CTC_EXPECT_GPU=1 CTC_TEST_ROOT="$PWD"
    unpacked=$(mktemp -d)
    trap 'rm -rf "$unpacked"' EXIT
    for program in it gpu; do
        gzip -dc "$programs/$program.gz" >"$unpacked/$program"
        chmod +x "$unpacked/$program"
    done
    # Those that take a device.
    filters=$(scripts/modules.sh accuracy autograd checks determinism edges emissions errors forms golden gradient hostile \
        inference kernels lengths likelihoods linear long_targets properties star views device)
    echo "== the tests, on the CPU and the GPU"
    # shellcheck disable=SC2086  # several filters
    "$unpacked/it" $filters
    # Each launch is checked: a small part of the tests takes every kernel.
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    if [ -x "$sanitizer" ]; then
        for tool in memcheck synccheck initcheck; do
            echo "== compute-sanitizer $tool"
            "$sanitizer" --tool "$tool" --error-exitcode 1 "$unpacked/it" --test-threads 4 kernels:: checks::
        done
        # This one takes minutes for the others.
        echo "== compute-sanitizer racecheck"
        "$sanitizer" --tool racecheck --error-exitcode 1 "$unpacked/it" --test-threads 1 \
            kernels::one_pair kernels::two_pairs kernels::frames_that
    else
        echo "== compute-sanitizer is not here: not run"
    fi
    echo "== the benchmark"
    python3 benches/gpu/compare.py "$unpacked/gpu"
    ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 1
    ;;
esac
