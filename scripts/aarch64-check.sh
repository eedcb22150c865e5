#!/usr/bin/env bash
# The tests on aarch64 in an emulator, so that the code for NEON is executed where no such processor is: builds them with
# std from source and runs them in QEMU. Brings Debian's packages, unpacked and not installed; needs tools/softgpu/setup.sh,
# which has the compiler and the source of its std.
#
#   scripts/aarch64-check.sh [FILTER...]     all tests of the library, `golden_bits`, and in tests/it those that match;
#                                            without a filter the modules accuracy, golden and edges
#
# Ends with 3 if Debian's packages cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/debian.sh
. tools/softgpu/common.sh
tools
if [ $# -eq 0 ]; then
    # Not within `set`, which would hide that it fails.
    filters=$(scripts/modules.sh accuracy golden edges)
    # shellcheck disable=SC2086  # several filters
    set -- $filters
fi

root=$PREFIX/aarch64
if [ ! -e "$root/done" ]; then
    with_lists unpack "$root" "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" >&2 ||
        { say "Debian's packages cannot be reached"; exit 3; }
    touch "$root/done"
fi

# The cross compiler finds its own libraries and headers under `root`, once it is told where that is.
gcc=$root/bin/aarch64-linux-gnu-gcc
mkdir -p "$root/bin"
cat >"$gcc" <<SH
#!/bin/sh
export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu
PATH=$root/usr/bin:\$PATH exec $(compgen -G "$root/usr/bin/aarch64-linux-gnu-gcc-[0-9]*" | head -n 1) --sysroot=$root "\$@"
SH
chmod +x "$gcc"

qemu=$root/bin/qemu
cat >"$qemu" <<SH
#!/bin/sh
LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu \
    exec $root/usr/bin/qemu-aarch64 -U LD_LIBRARY_PATH -L $root/usr/aarch64-linux-gnu "\$@"
SH
chmod +x "$qemu"

# RUSTC_BOOTSTRAP: -Zbuild-std is for nightly compilers.
export RUSTC=$PREFIX/bin/rustc RUSTC_BOOTSTRAP=1 CC_aarch64_unknown_linux_gnu=$gcc AR_aarch64_unknown_linux_gnu=ar
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$qemu
overlay aarch64 .
cd "$OVERLAY"
target aarch64
cargo=$(rustup which cargo 2>/dev/null || command -v cargo)
tests() {
    nice "$cargo" --config "$SOFTGPU/../../.ci/simulated.toml" test --quiet -Zbuild-std --target aarch64-unknown-linux-gnu "$@"
}
tests --lib --test golden_bits
tests --test it -- "$@"
say "the tests passed on aarch64; $(now)"
