#!/bin/sh
# Fetches the weights of the line reader from the Python package index: get.sh [FOLDER]. Ends with 3 if it cannot be
# reached.
set -eu
folder=${1:-target/read_lines}
mkdir -p "$folder"
wheel=legere-0.11.0-py3-none-any.whl
python3 -m pip download --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps --dest "$folder" \
    legere==0.11.0 || exit 3
echo "4638f46ce677e0d6c1e177b0a2b6d4d75668d8a528e1a76336665feca59bd54e  $folder/$wheel" | sha256sum --check --quiet
python3 - "$folder/$wheel" "$folder/model.pt" <<'END'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, open(sys.argv[2], "wb") as out:
    out.write(wheel.read("legere/data/model.pt"))
END
