#!/bin/bash
# build-cu.sh FILE.cu LIB.so [-D NAME=VALUE | -I DIR | --math safe|fma|fast]...: a kernel library for softgpu_open.
set -euo pipefail
. "$(dirname "$0")/common.sh"; tools
[[ $# -ge 2 ]] || die "usage: build-cu.sh FILE.cu LIB.so [options]"
kernelc "$1" -o "$2" "${@:3}"
say "$2: $(now)"
