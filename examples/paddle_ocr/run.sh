#!/bin/sh
# Reads a line with PP-OCRv4's recogniser (6625 classes) and has the program `ctc` decode, score and align it:
# run.sh [FOLDER] [CTC]. CTC is the program, by default that of the path. Ends with 3 if the Python package index
# cannot be reached, and with 1 if `ctc` does not read what the package's own decoder reads.
set -eu
folder=${1:-target/paddle_ocr}
ctc=${2:-ctc}
here=$(cd "$(dirname "$0")" && pwd)
wheel=rapidocr_onnxruntime-1.4.4-py3-none-any.whl
text="The quick brown fox, 1984!"
mkdir -p "$folder"
python3 -m pip download --quiet --disable-pip-version-check --retries 1 --timeout 20 --no-deps --dest "$folder" \
    rapidocr-onnxruntime==1.4.4 || exit 3
echo "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf  $folder/$wheel" | sha256sum --check --quiet
if [ ! -d "$folder/venv" ]; then
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
        onnxruntime==1.32.0 numpy==2.4.6 pillow==13.0.0 || { rm -rf "$folder/venv"; exit 3; }
fi
expected=$("$folder/venv/bin/python" "$here/emissions.py" "$folder/$wheel" "$text" "$folder")
echo "the package's decoder: $expected"
emissions="$folder/emissions.npy --vocab $folder/vocab.txt"
# shellcheck disable=SC2086  # several arguments
{
    read=$("$ctc" decode $emissions --greedy | cut -f 2)
    echo "ctc decode --greedy:   $read"
    "$ctc" decode $emissions --n-best 3
    "$ctc" score $emissions "$text" "The quick brown fox, 1964!" "The quick brown box, 1984!"
    "$ctc" align $emissions "$text" --hop 1 --svg "$folder/lattice.svg" --json "$folder/alignment.json"
}
# The decoder keeps a space at either end.
[ "$(echo $read)" = "$(echo $expected)" ] || { echo "the two differ" >&2; exit 1; }
