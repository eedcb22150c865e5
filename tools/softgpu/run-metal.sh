#!/bin/bash
# run-metal.sh [--dir CRATE] [--order N]... [--check PREFIX] -- CARGO-ARGUMENTS
# Runs `cargo CARGO-ARGUMENTS` (say `test --features metal`) on Linux with candle's Metal backend over the
# software Metal, once for each scheduling order (default 0, 1 and 2). --check: only libraries that hold a
# kernel whose name starts so are checked for races, bounds and strict MSL (default: all are checked, but
# not for strict MSL: candle's own would fail). The crate's folder is left as it is.
set -euo pipefail
. "$(dirname "$0")/common.sh"; tools
dir=. orders=() check=
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --dir) dir=$2;; --order) orders+=("$2");; --check) check=$2;;
    *) die "run-metal.sh [--dir CRATE] [--order N]... [--check PREFIX] -- CARGO-ARGUMENTS";;
  esac
  shift 2
done
[[ $# -gt 1 ]] || die "no cargo arguments after --"
shift; [[ ${#orders[@]} -gt 0 ]] || orders=(0 1 2)
overlay metal "$dir"; cd "$OVERLAY"

# The crate's own versions of two bindings, made fit for Linux: no framework to link, and the GNUstep
# features of objc2. Cargo's [patch] on the command line puts them in place of the released ones.
root=$(dirname "$(cargo locate-project --workspace --message-format plain)") args=()
[[ -f $root/Cargo.lock ]] || cargo generate-lockfile -q
for c in objc2-metal objc2-foundation; do
  v=$(sed -n "/^name = \"$c\"/{n;s/.*\"\(.*\)\"/\1/p}" "$root/Cargo.lock")
  [[ -n $v ]] || die "$c is not in Cargo.lock: does the crate have a metal feature?"
  to=$PREFIX/patched/$c-$v
  if [[ ! -d $to ]]; then
    find_crate() { find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -type d -name "$c-$v" | head -1; }
    from=$(find_crate); [[ -n $from ]] || { cargo fetch -q; from=$(find_crate); }
    mkdir -p "$PREFIX/patched"; rm -rf "$to.new"; cp -r "$from" "$to.new"; chmod -R u+w "$to.new"
    case $c in
      objc2-metal) sed -i '/#\[link(name = "Metal", kind = "framework")\]/d' "$to.new/src/generated/mod.rs";;
      objc2-foundation)
        sed -i '/#!\[cfg(not(feature = "gnustep-1-7"))\]/d' "$to.new/src/url.rs"
        sed -i 's|^alloc = \[|&"gnustep-2-1", "objc2/disable-encoding-assertions", "block2/gnustep-2-1", |' "$to.new/Cargo.toml"
        grep -q '^alloc = \["gnustep' "$to.new/Cargo.toml" || die "$c $v: its alloc feature is not as expected";;
    esac
    mv "$to.new" "$to"
  fi
  args+=(--config "patch.crates-io.$c.path='$to'")
done

# Names of a library for the tests to be found by: the toolchain's own libraries stay out of the way.
export LD_LIBRARY_PATH=$PREFIX/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} RUSTFLAGS="${RUSTFLAGS:-} -L native=$PREFIX/lib"
export SOFTGPU_KERNELC="python3 $SOFTGPU/kernelc.py" SOFTGPU_CACHE=$PREFIX/cache/$(cat "$SOFTGPU/kernelc.py" "$SOFTGPU"/shim/*/* "$SOFTGPU/rt/glue.h" | cksum | cut -d' ' -f1)
target metal
[[ -z $check ]] || export SOFTGPU_CHECK=$check
mkdir -p "$SOFTGPU_CACHE"
for order in "${orders[@]}"; do
  say "order $order: cargo $*"
  SOFTGPU_ORDER=$order nice cargo "${args[@]}" "$@" || { say "failed in order $order; $(now)"; exit 1; }
done
say "passed in orders ${orders[*]}; $(now)"
