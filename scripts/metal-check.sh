#!/usr/bin/env bash
# All checks on a Mac, on its real GPU: the tests with the feature `metal`, then the benchmark. It needs a
# Rust toolchain and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(uname -s)" = Darwin ] || { echo "this is not a Mac; see tools/softgpu for what can be checked here" >&2; exit 1; }

# With Metal's own validation of what is bound, first on the tests that take every kernel.
filters=$(scripts/modules.sh kernels checks device)
# shellcheck disable=SC2086  # several filters
MTL_DEBUG_LAYER=1 MTL_SHADER_VALIDATION=1 cargo test --locked --features metal --test it -- $filters
cargo test --locked --features metal
cargo clippy --locked --features metal --all-targets -- -D warnings
cargo bench --locked --features metal --bench gpu
