#!/bin/sh
# Measures everything again and rewrites docs/benchmarks.md, docs/scaling.csv and
# docs/scaling.svg. Wants a machine with nothing else to do.
set -eu
cd "$(dirname "$0")/.."
benches/compare/run.sh --write
benches/compare/run.sh --heap default --without burn --write
# As in the comparison: without this, candle's own copies of a gradient of 4 MB and more cost page faults.
export MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_MMAP_THRESHOLD_=4294967296
cargo bench --bench memory -- --write
cargo bench --bench scaling -- --write
cargo bench --bench range -- --write
# With PyTorch in turn.
CTC_COMPARE_VENV=${CTC_COMPARE_VENV:-$PWD/benches/compare/.venv}
export CTC_COMPARE_VENV
cargo bench --bench linear -- --write
