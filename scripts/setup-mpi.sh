#!/usr/bin/env bash
# Brings Open MPI and libclang, for building `distributed` on a machine that lacks them: Debian's packages, unpacked
# under a folder and not installed. Needs apt-get, dpkg and gcc; no root.
#
#   eval "$(scripts/setup-mpi.sh)"        # prints the variables to set; none if both are installed
#
# The folder is ~/.cache/candle-ctc/mpi, or CTC_MPI_PREFIX. Ends with 3 if Debian's packages cannot be reached.
set -euo pipefail
. "$(dirname "$0")/debian.sh"

prefix="${CTC_MPI_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/candle-ctc/mpi}"

has_mpi() { command -v mpicc >/dev/null && command -v mpirun >/dev/null; }
has_libclang() { # where the build script of the crate `mpi` looks for it
    [ -n "${LIBCLANG_PATH:-}" ] || ldconfig -p 2>/dev/null | grep -qE 'libclang(-[0-9.]+)?\.so' ||
        compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null
}
unreachable() { echo "setup-mpi.sh: $*" >&2; exit 3; }

unpack_openmpi() {
    local own
    # These find their files by the folder, so they must all be in it, installed or not.
    own=$(apt-cache depends --recurse --important openmpi-bin | grep -E '^(openmpi-common|lib(openmpi|pmix)[0-9a-z]*)$')
    # shellcheck disable=SC2086  # a list of names
    unpack "$prefix/openmpi" openmpi-bin libopenmpi-dev $own || return
    mkdir -p "$prefix/openmpi/bin"
    ln -s ../usr/bin/opal_wrapper "$prefix/openmpi/bin/mpicc"
    ln -s ../usr/bin/orterun "$prefix/openmpi/bin/mpirun"
    touch "$prefix/openmpi/done"
}
unpack_libclang() {
    local version
    version=$(apt-cache depends libclang-dev | sed -n 's/.*Depends: libclang-\([0-9]*\)-dev/\1/p')
    unpack "$prefix/libclang" "libclang1-$version" || return
    touch "$prefix/libclang/done"
}
bring() { # NAME
    [ -e "$prefix/$1/done" ] && return
    command -v apt-get >/dev/null && command -v dpkg >/dev/null ||
        unreachable "no $1 here, and no apt-get and dpkg to bring Debian's: install $1"
    with_lists "unpack_$1" >&2 || unreachable "Debian's packages cannot be reached"
}

machine=$(gcc -print-multiarch)
libraries=
if ! has_mpi; then
    bring openmpi
    root="$prefix/openmpi"
    libraries="$root/usr/lib/$machine:$root/lib/$machine"
    # Where Open MPI and its library PMIx find their own files. It need not say that its modules for networks that this
    # machine does not have cannot be loaded.
    printf 'export OPAL_PREFIX=%q PMIX_INSTALL_PREFIX=%q PATH=%q:"$PATH"\n' \
        "$root/usr" "$root/usr/lib/$machine/pmix2" "$root/bin"
    printf 'export OMPI_MCA_mca_base_component_show_load_errors=0 PMIX_MCA_pcompress_base_silence_warning=1\n'
fi
if ! has_libclang; then
    bring libclang
    root="$prefix/libclang"
    libraries="${libraries:+$libraries:}$root/usr/lib/$machine"
    # libclang comes without the headers of a compiler: it gets gcc's.
    printf 'export LIBCLANG_PATH=%q BINDGEN_EXTRA_CLANG_ARGS=%q\n' \
        "$root/usr/lib/$machine" "-isystem $(gcc -print-file-name=include)"
fi
[ -z "$libraries" ] ||
    printf 'export LD_LIBRARY_PATH=%q"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n' "$libraries"
