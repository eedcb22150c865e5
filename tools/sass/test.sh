#!/usr/bin/env bash
# Tests of this folder's tool, in a second: needs python3 (3.11 or newer) and nothing else.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 -m unittest discover --quiet --top-level-directory . --start-directory tests
