#!/usr/bin/env bash
# Plants faults in the kernels, one at a time, and sees that tests/kernels.rs notices each. No GPU needed;
# tools/softgpu/setup.sh must have run.
set -euo pipefail
cd "$(dirname "$0")/.."
prefix="${SOFTGPU_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/candle-ctc/softgpu}"
export CTC_SOFTGPU_LIB="$prefix/lib"
CTC_KERNEL_TESTS=$(cargo test --locked --no-run --test kernels --message-format=json |
    sed -n 's/.*"name":"kernels".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
export CTC_KERNEL_TESTS
[ -x "$CTC_KERNEL_TESTS" ] || { echo "the test program was not built" >&2; exit 1; }
# The two sides at once: most of the time is spent compiling kernels.
MUTATE_AS=cuda FAULTS_OF=cuda tools/softgpu/mutate.sh tests/faults/kernels.sh . >"$prefix/tmp/faults-cuda.log" 2>&1 &
cuda=$!
status=0
MUTATE_AS=metal FAULTS_OF=metal tools/softgpu/mutate.sh tests/faults/kernels.sh . || status=1
wait $cuda || status=1
cat "$prefix/tmp/faults-cuda.log"
exit $status
