#!/bin/bash
# setup.sh [PREFIX]: brings what the other scripts need. Debian packages are unpacked under PREFIX, not
# installed. Quick when done already; run it again after an edit of rt/.
# With another PREFIX than the default, set SOFTGPU_PREFIX to it for the other scripts.
set -euo pipefail
export SOFTGPU_PREFIX=${1:-${SOFTGPU_PREFIX:-}}
. "$(dirname "$0")/common.sh"
mkdir -p "$PREFIX"/{debs,root,bin,lib,tmp,cache}
for c in apt-cache dpkg g++ cargo git python3 addr2line; do command -v $c >/dev/null || die "needs $c"; done

# 1. clang; rustc with clippy and the source of its std, all of one version
if [[ ! -f $PREFIX/ready ]]; then
  apt-get update -qq || say "apt-get update failed: trying with the lists that are there"
  first() { apt-cache depends "$1" | sed -n "s/.*Depends: \($2\).*/\1/p" | head -1; }
  STD=$(first libstd-rust-web-dev 'libstd-rust-web-[0-9.]*') LLVM=$(first "$STD" 'libllvm[0-9]*') V=${LLVM#libllvm}
  [[ -n $V ]] || die "no rustc-web in the package lists (Debian 12 with its security updates has it)"
  (cd "$PREFIX/debs" && rm -f ./*.deb && apt-get download -qq rustc-web libstd-rust-web-dev "$STD" rust-web-src rust-web-clippy \
    "$LLVM" libz3-4 "clang-$V" "libclang-cpp$V" "libclang-common-$V-dev" "libclang1-$V")
  for d in "$PREFIX"/debs/*.deb; do dpkg -x "$d" "$PREFIX/root"; rm "$d"; done
  # found by their own libraries only, whatever runs them
  for t in "lib/llvm-$V/bin/clang++" bin/rustc bin/clippy-driver; do
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec %s "$@"\n' \
      "$PREFIX/root/usr/lib/x86_64-linux-gnu" "$PREFIX/root/usr/$t" > "$PREFIX/bin/$(basename $t)"
  done
  chmod +x "$PREFIX"/bin/*
  echo "V=$V" > "$PREFIX/ready"
  say "packages unpacked at $(now)"
fi
tools

# 2. The executor (libsoftgpu.so), and the software Metal around it (libobjc.so). The other two libraries
#    are empty: objc2 asks the linker for them.
if [[ ! -f $PREFIX/lib/done || -n $(find "$SOFTGPU/rt" -newer "$PREFIX/lib/done") ]]; then
  cc() { nice g++ -std=c++17 -O2 -g -fPIC "$@"; }
  cc -c "$SOFTGPU/rt/exec.cpp" -o "$PREFIX/tmp/exec.o" & pid=$!
  cc -c "$SOFTGPU/rt/metal.cpp" -o "$PREFIX/tmp/metal.o"
  wait $pid
  cc -shared "$PREFIX/tmp/exec.o" -o "$PREFIX/lib/libsoftgpu.so" -ldl
  cc -shared "$PREFIX/tmp/exec.o" "$PREFIX/tmp/metal.o" -o "$PREFIX/lib/libobjc.so" -ldl
  for l in gnustep-base dispatch; do g++ -shared -x c++ /dev/null -o "$PREFIX/lib/lib$l.so"; done
  touch "$PREFIX/lib/done"
  say "runtime built at $(now)"
fi
say "ready in $PREFIX: $("$PREFIX/bin/rustc" -V | cut -d' ' -f1,2), clang $V; $(now)"
