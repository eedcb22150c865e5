#!/bin/sh
# Makes the virtual environment of the comparison: PyTorch, JAX and optax from PyPI.
# CTC_COMPARE_VENV names another place for it, or one that is there already.
set -eu
cd "$(dirname "$0")"
venv=${CTC_COMPARE_VENV:-.venv}
test -x "$venv/bin/python" || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --requirement requirements.txt
