#!/bin/sh
# The comparison, in one command: makes the environment if it is not there, then compare.py.
# Arguments go to compare.py; --help lists them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${CTC_COMPARE_VENV:-$here/.venv}
test -x "$venv/bin/python" || "$here/setup.sh"
exec "$venv/bin/python" "$here/compare.py" "$@"
