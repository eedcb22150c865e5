#!/bin/sh
# Cargo's RUSTC_WRAPPER: the crate and the targets report to libFuzzer what they execute; dependencies, the truth that
# results are compared with and build scripts do not.
case " $* " in
    *" --crate-name candle_ctc "* | *" targets/"*)
        for arg in level=4 inline-8bit-counters pc-table trace-compares; do
            set -- "$@" "-Cllvm-args=-sanitizer-coverage-$arg"
        done
        exec "$@" -Cpasses=sancov-module -Ccodegen-units=1
        ;;
esac
exec "$@"
