#!/bin/bash
# check-msl.sh FILES...: strict check of Metal code, as one string joined from FILES in order; or of the
# one concat!(include_str!(..), ..) in a .rs file, which is then the string that the crate compiles.
set -euo pipefail
. "$(dirname "$0")/common.sh"; tools
[[ $# -gt 0 ]] || die "usage: check-msl.sh FILES..."
kernelc --check "$@"
say "MSL check passed: $*; $(now)"
