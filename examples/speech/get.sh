#!/bin/sh
# Fetches the speech synthesiser espeak-ng from Debian and has it speak a corpus:
# get.sh [FOLDER [TRAINING_SENTENCES]]. The packages are unpacked in the folder, not installed.
# Ends with 3 if Debian's packages cannot be reached.
set -eu
folder=${1:-target/speech}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/debian.sh"
if ! [ -f "$folder/espeak/ready" ]; then
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || {
        echo "get.sh: no apt-get and dpkg here; espeak-ng comes from Debian" >&2
        exit 3
    }
    with_lists unpack "$folder/espeak" "" libespeak-ng1 espeak-ng-data libsonic0 || exit 3
    # The synthesiser is linked with a library that plays sound, and that one with a sound server. Nothing is played
    # here, so these functions take its place.
    for name in create_audio_device_object audio_object_open audio_object_close audio_object_destroy \
        audio_object_drain audio_object_flush audio_object_strerror audio_object_write; do
        echo "void *$name(void) { return 0; }"
    done | cc -shared -fPIC -Wl,-soname,libpcaudio.so.0 -x c - -o "$folder/espeak/libpcaudio.so.0"
    touch "$folder/espeak/ready"
fi
python3 "$here/speak.py" --espeak "$folder/espeak" --out "$folder/corpus" --training "${2:-1600}"
