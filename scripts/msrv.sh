#!/usr/bin/env bash
# Builds the library and the program `ctc` with the oldest Rust that Cargo.toml promises. rustup brings it.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rustup toolchain list | grep -q "^$version-" || rustup toolchain install "$version" --profile minimal --no-self-update
cargo "+$version" check --locked --features cli
