#!/usr/bin/env bash
# check.sh [PROGRAM]: two and three processes must give the loss curve of one to 1e-4, and a run must end when one of
# its processes does. Builds the program unless it is given.
#
#   eval "$(scripts/setup-mpi.sh)" && distributed/check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:-}
if [ -z "$program" ]; then
    cargo build --locked --release -p candle-ctc-distributed --features mpi
    program=${CARGO_TARGET_DIR:-target}/release/candle-ctc-distributed
fi
work=$(mktemp -d)
job=
trap '[ -z "$job" ] || kill "$job" 2>/dev/null || true; rm -rf "$work"' EXIT
fail() { echo "check.sh: $*" >&2; exit 1; }

# One thread for each process: the model is small. Open MPI starts more processes than there are cores, and runs as
# root, only when told so, and copies between processes with a call that containers may forbid. Other MPIs do not read
# these variables.
export RAYON_NUM_THREADS=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# Two processes have 4 utterances each of a batch of 8, and three have 3, 3 and 2. The last batch of an epoch is a
# single utterance: all processes but one have none.
timeout 120 mpirun -n 1 "$program" --losses "$work/one.txt"
for count in 2 3; do
    timeout 120 mpirun -n $count "$program" --check "$work/one.txt" | tail -n 1
done

# The background job must end with an error within 20 s from now, and say why.
ends() { # WORDS LOG
    local code=0 start=$SECONDS
    wait $job || code=$?
    job=
    [ $((SECONDS - start)) -le 20 ] || fail "the run went on for $((SECONDS - start)) s"
    [ $code != 0 ] || fail "a run that was not finished ended with 0"
    grep -m 1 "$1" "$2" || { cat "$2" >&2; fail "no \`$1\` among the messages above"; }
    echo "ended with $code after $((SECONDS - start)) s"
}

# One of two processes is killed in the middle.
timeout 120 mpirun -n 2 "$program" --steps 1000000 >"$work/steps.log" 2>"$work/killed.log" &
job=$!
until grep -qs '^step  20' "$work/steps.log"; do
    kill -0 $job 2>/dev/null || { cat "$work/killed.log" >&2; fail "the run did not come to step 20"; }
    sleep 0.1
done
pid_of() { sed -n "s/^process $1 of 2: PID \([0-9]*\).*/\1/p" "$work/steps.log"; }
kill -KILL "$(pid_of 1)"
ends 'process rank 1 .* exited on signal 9' "$work/killed.log"
alive() { grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"; }
for _ in $(seq 50); do alive "$(pid_of 0)" || break; sleep 0.1; done
! alive "$(pid_of 0)" || fail "process 0 goes on"

# One has an error while the other waits for it.
timeout 120 mpirun -n 2 "$program" --check "$work/missing.txt" >/dev/null 2>"$work/error.log" &
job=$!
ends 'process 0 of 2: cannot read .*missing.txt' "$work/error.log"
