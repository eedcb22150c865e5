#!/bin/bash
# check-apple.sh [--dir CRATE] [CARGO-ARGUMENTS]: clippy with -Dwarnings, which includes cargo check, for a
# real Apple target, std built from source. Default arguments: --all-targets --features metal. The crate's
# folder is left as it is.
set -euo pipefail
. "$(dirname "$0")/common.sh"; tools
dir=.; [[ ${1:-} != --dir ]] || { dir=$2; shift 2; }
[[ $# -gt 0 ]] || set -- --all-targets --features metal
overlay apple "$dir"; cd "$OVERLAY"
# RUSTC_BOOTSTRAP: -Zbuild-std is for nightly compilers. clippy-driver is what `cargo clippy` runs.
export RUSTC=$PREFIX/bin/rustc RUSTC_BOOTSTRAP=1 RUSTC_WORKSPACE_WRAPPER=$PREFIX/bin/clippy-driver CLIPPY_ARGS="-Dwarnings"
# Nothing is linked, so C code of dependencies (criterion's `alloca`) needs no compiler: empty objects do.
cat > "$PREFIX/tmp/no-cc" <<'SH'
#!/bin/sh
case $1 in -E) echo clang; exit;; "-?") exit 1;; esac
before=
for word; do [ "$before" != -o ] || : > "$word"; before=$word; done
SH
chmod +x "$PREFIX/tmp/no-cc"
export CC_aarch64_apple_darwin=$PREFIX/tmp/no-cc AR_aarch64_apple_darwin=ar SDKROOT=/
target apple
cargo=$(rustup which cargo 2>/dev/null || command -v cargo)
nice "$cargo" check -Zbuild-std=std,panic_abort,test --target aarch64-apple-darwin "$@"
say "clippy and check for aarch64-apple-darwin passed; $(now)"
