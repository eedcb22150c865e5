# Sourced by the scripts of this folder: where things are, and the time each step takes.
SOFTGPU=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PREFIX=$(realpath -m "${SOFTGPU_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/candle-ctc/softgpu}")
T0=$(date +%s%N)
now() { local d=$((($(date +%s%N) - T0) / 100000000)); echo "$((d / 10)).$((d % 10)) s"; }
say() { echo "softgpu: $*" >&2; }
die() { say "$*"; exit 1; }
# What setup.sh left, for the scripts. The wrappers in $PREFIX/bin find clang's and rustc's own libraries.
tools() {
  [[ -f $PREFIX/ready ]] || die "run $SOFTGPU/setup.sh first (prefix $PREFIX)"
  . "$PREFIX/ready"  # V: the version of LLVM
  export SOFTGPU_CXX=$PREFIX/bin/clang++ SOFTGPU_LIBDIR=$PREFIX/lib TMPDIR=$PREFIX/tmp PYTHONDONTWRITEBYTECODE=1
  mkdir -p "$TMPDIR"
}
kernelc() { python3 "$SOFTGPU/kernelc.py" "$@"; }

# overlay NAME CRATE: sets OVERLAY to a folder that stands for the crate: links to all its files, and a
# Cargo.lock of its own. Cargo works there, so the crate's folder stays as it is. Folders above the
# crate, up to the repository's root, are there too, for path dependencies.
overlay() {
  local root top rel from to part f
  root=$(cargo locate-project --workspace --message-format plain --manifest-path "$2/Cargo.toml") || die "no crate in $2"
  root=$(dirname "$(realpath "$root")")
  top=$(git -C "$root" rev-parse --show-toplevel 2>/dev/null || echo "$root")
  rel=$(realpath --relative-to "$top" "$root")
  OVERLAY=$PREFIX/overlay/$1-$(cksum <<<"$root" | cut -d' ' -f1)
  from=$top to=$OVERLAY
  for part in . $(tr / ' ' <<<"$rel"); do
    [[ $part == . ]] || { from=$from/$part to=$to/$part; [[ -L $to ]] && rm "$to"; }
    mkdir -p "$to"
    find "$to" -maxdepth 1 -type l -delete
    find "$from" -mindepth 1 -maxdepth 1 ! -name .git ! -name target ! -name Cargo.lock -exec ln -s -t "$to" {} + 2>/dev/null || true
  done
  OVERLAY=$to
  [[ ! -f $root/Cargo.lock ]] || cmp -s "$root/Cargo.lock" "$to/.lock" || { cp "$root/Cargo.lock" "$to/.lock"; cp "$root/Cargo.lock" "$to/Cargo.lock"; }
  OVERLAY=$(realpath -s "$to/$(realpath --relative-to "$root" "$2")")
}

# target NAME: one CARGO_TARGET_DIR for all crates, so that candle is built once; one command at a time.
# Cargo names a crate's files alike whatever overlay it lies in, and would take another overlay's for
# fresh: what belongs to the crate itself is forgotten when the overlay is another than last time.
target() {
  export CARGO_TARGET_DIR=$PREFIX/target-$1
  mkdir -p "$CARGO_TARGET_DIR"
  exec 9> "$CARGO_TARGET_DIR/.softgpu-lock"; flock 9
  if [[ $(cat "$CARGO_TARGET_DIR/.softgpu-overlay" 2>/dev/null) != "$OVERLAY" ]]; then
    local name
    for name in $(cargo metadata --no-deps --format-version 1 --offline | grep -o '"name":"[^"]*","version"' | cut -d'"' -f4); do
      find "$CARGO_TARGET_DIR" -maxdepth 4 -path '*/.fingerprint/*' -name "$name-*" -prune -exec rm -r {} +
    done
    echo "$OVERLAY" > "$CARGO_TARGET_DIR/.softgpu-overlay"
  fi
}
