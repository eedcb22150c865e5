# Sourced by scripts that bring Debian's packages, unpacked in a folder and not installed. For sh as well as bash.

# Unpacks PACKAGES, one argument, with what they need and is not installed, and each OTHER without what it needs.
# FOLDER is made anew.
unpack() { # FOLDER PACKAGES OTHER...
    local folder="$1" packages="$2" needed package
    shift 2
    # shellcheck disable=SC2086  # a list of names
    needed=$(apt-get install --simulate --no-install-recommends $packages | awk '$1 == "Inst" { print $2 }') || return
    rm -rf "$folder"
    mkdir -p "$folder/debs"
    # shellcheck disable=SC2046,SC2086  # lists of names
    (cd "$folder/debs" && apt-get download -qq $(printf '%s\n' $packages $needed "$@" | sort -u)) || return
    for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder" || return; done
    rm -r "$folder/debs"
}

# Runs a command; if it fails, once more with fresh lists of packages.
with_lists() { # COMMAND...
    "$@" || { apt-get update -qq && "$@"; }
}
