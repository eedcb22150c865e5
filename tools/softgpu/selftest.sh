#!/bin/bash
# selftest.sh [--quick]: does softgpu find what it should? Prints a line for each test and planted fault,
# then `N passed, M failed`; exits 1 if M is not 0. --quick: kernels only, no cargo.
set -uo pipefail
cd "$(dirname "$0")"
./setup.sh || exit 1
. ./common.sh; tools
out=$(mktemp)
step() { # NAME COMMAND...
  local log from; from=$(date +%s); log=$("${@:2}" 2>&1) && echo "ok   $1 ($(($(date +%s) - from)) s)" || { echo "FAIL $1"; tail -20 <<<"$log" | sed 's/^/     /'; }
}
shim() { ./build-cu.sh tests/shim.cu "$TMPDIR/shim.so" && python3 tests/shim.py "$TMPDIR/shim.so"; }
c_abi() { g++ -std=c++17 -Irt tests/abi.cpp -L"$PREFIX/lib" -lsoftgpu -Wl,-rpath,"$PREFIX/lib" -o "$TMPDIR/abi" && "$TMPDIR/abi" "$TMPDIR/shim.so"; }
{
  step "CUDA vocabulary: values, and faults of use" shim
  step "the C interface" c_abi
  step "strict MSL check: joined files" ./check-msl.sh tests/sample/kernels/{prelude_metal.h,dp_math.h,logscan.metal}
  step "strict MSL check: MSL that is right" ./check-msl.sh tests/right.metal
  ./mutate.sh tests/kernel-faults.sh tests/sample
  if [[ ${1:-} != --quick ]]; then
    step "the sample's tests and 21 of candle's own kernels, on the software Metal, 3 orders" ./run-metal.sh --dir tests/sample --check logscan -- test -q --features metal
    ./mutate.sh tests/host-faults.sh tests/sample
    ./mutate.sh tests/apple-faults.sh tests/sample
  fi
  [[ -z $(git status --porcelain --ignored . 2>/dev/null | grep '^!!\|^??') ]] && echo "ok   the checkout is clean" || echo "FAIL the checkout is clean"
} | grep -v ' failed$' | tee "$out"
pass=$(grep -c '^ok ' "$out") fail=$(grep -c '^FAIL ' "$out"); rm "$out"
say "selftest: $(now)"
echo "$pass passed, $fail failed"
[[ $fail -eq 0 ]]
