#!/usr/bin/env bash
# Fuzzes a target with libFuzzer, AddressSanitizer, debug assertions and overflow checks; the stable toolchain will do.
#
#   fuzz/run.sh TARGET SECONDS [options of libFuzzer]   from the kept corpus; stops with 77 at the first failure
#   fuzz/run.sh TARGET FILE                              runs one input again
#   fuzz/run.sh TARGET keep                              makes the fewest inputs of the same coverage the kept corpus
#
# The kept corpus is corpus/TARGET.tar.gz. What is found new stays beside the build, as do inputs that fail. Exits with
# 3 where the toolchain cannot do it.
set -euo pipefail
target=$1 how=$2
shift 2
input=$how
[ ! -f "$how" ] || input=$(realpath "$how")
cd "$(dirname "$0")"
triple=x86_64-unknown-linux-gnu
export CARGO_INCREMENTAL=0
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/candle-ctc/target}/fuzz"
# Unstable options of a stable compiler.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address"
work=$CARGO_TARGET_DIR/$target
mkdir -p "$work/corpus" "$work/failed"

check=$work/check
if ! command -v c++ >/dev/null; then
    echo "fuzz: no C++ compiler, which libFuzzer needs: not run here"
    exit 3
elif ! echo 'fn main() {}' | rustc $RUSTFLAGS --target $triple -o "$check" - 2>"$check.log" || ! "$check"; then
    echo "fuzz: the toolchain cannot build for $triple with AddressSanitizer: not run here"
    tail -n 3 "$check.log"
    exit 3
fi

RUSTC_WRAPPER="$PWD/rustc.sh" cargo build --release --locked --quiet --target $triple --bin "$target"
binary=$CARGO_TARGET_DIR/$triple/release/$target
# Memory that is refused is an error of the crate, which the tests of that expect.
export ASAN_OPTIONS="allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
# Errors are many and need none; a panic has one anyhow.
export RUST_BACKTRACE=1 RUST_LIB_BACKTRACE=0
options=(-artifact_prefix="$work/failed/" -rss_limit_mb=4096 -timeout=300 -print_final_stats=1 -len_control=0)
case $target in
    text) options+=(-dict=text.dict -max_len=4096) ;;
    # Small files, whatever they claim.
    program) options+=(-max_len=600 -malloc_limit_mb=128) ;;
    *) options+=(-max_len=300) ;;
esac

if [ -f "$input" ]; then
    exec "$binary" "${options[@]}" "$@" "$input"
fi
rm -rf "$work/kept" "$work/merged"
mkdir "$work/kept" "$work/merged"
tar -xzf "corpus/$target.tar.gz" -C "$work/kept"
if [ "$how" = keep ]; then
    # Without counts of executions, which would keep many more.
    "$binary" "${options[@]}" "$@" -use_counters=0 -merge=1 "$work/merged" "$work/kept" "$work/corpus"
    tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$work/merged" -czf "corpus/$target.tar.gz" .
else
    exec "$binary" "${options[@]}" -max_total_time="$how" "$@" "$work/corpus" "$work/kept"
fi
