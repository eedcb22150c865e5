#!/usr/bin/env bash
# Plants faults in the kernels, one at a time, and sees that tests/it/kernels.rs notices each. No GPU needed;
# tools/softgpu/setup.sh must have run. FAULTS_OF=cuda or FAULTS_OF=metal does one side; with neither, both.
# SAMPLE=K/N does every Nth fault from number K on. CARGO_CONFIG is a file of settings for cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix="${SOFTGPU_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/candle-ctc/softgpu}"
export CTC_SOFTGPU_LIB="$prefix/lib"
built=$(cargo ${CARGO_CONFIG:+--config "$CARGO_CONFIG"} test --locked --no-run --test it --message-format=json |
    sed -n 's/.*"name":"it".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
[ -x "$built" ] || { echo "the test program was not built" >&2; exit 1; }
# A copy: another build may put its own in that place.
export CTC_KERNEL_TESTS="$prefix/tmp/tests-$$"
cp "$built" "$CTC_KERNEL_TESTS"
trap 'rm -f "$CTC_KERNEL_TESTS"' EXIT
tools/softgpu/mutate.sh tests/faults/kernels.sh .
