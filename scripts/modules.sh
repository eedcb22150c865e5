#!/usr/bin/env bash
# Prints the filters that choose modules of the test program `it`. A name that is no module is an error, since a filter
# that matches nothing would pass.
#
#   filters=$(scripts/modules.sh kernels golden) && cargo test --test it -- $filters
set -euo pipefail
tests="$(dirname "$0")/../tests/it"
for module; do
    [ -f "$tests/$module.rs" ] || { echo "tests/it has no module $module" >&2; exit 1; }
    echo "$module::"
done
