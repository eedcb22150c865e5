#!/bin/sh
# Measures everything again and rewrites docs/benchmarks.md, docs/scaling.csv and
# docs/scaling.svg. Wants a machine with nothing else to do.
set -eu
cd "$(dirname "$0")/.."
benches/compare/run.sh --write
cargo bench --bench memory -- --write
cargo bench --bench scaling -- --write
