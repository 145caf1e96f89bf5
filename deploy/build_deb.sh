#!/bin/sh
# Makes edged_VERSION_ARCH.deb for amd64 and arm64, on any box that has dpkg-deb: nothing of the other machine is run. The
# package brings its Python packages and compiled kernels along and downloads nothing when it is installed; torch is not
# in it (deploy/debian/README.Debian).
#
#   sh deploy/build_deb.sh [--out DIR] [--arch amd64|arm64] [--wheels DIR] [--version VERSION]
#
# --out DIR         where (default: dist beside this checkout)
# --arch NAME       for one machine (default: both)
# --wheels DIR      the wheels of deploy/build.sh (default: made now, in --out)
# --version V       instead of that of deploy/debian/changelog
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=$here/dist architectures='amd64 arm64' wheels='' version=''
cache=${EDGED_BUILD_CACHE:-$here/.cache/build}
packaging=$(sed -n 's/^packaging==//p' "$here/deploy/constraints.txt")

die() {
    echo "build_deb: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --out | --arch | --wheels | --version)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in
                --out) out=$2 ;;
                --arch) architectures=$2 ;;
                --wheels) wheels=$2 ;;
                --version) version=$2 ;;
            esac
            shift
            ;;
        -h | --help)
            sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$0"
            exit 0
            ;;
        *) die "unknown option $1 (--help lists all)" ;;
    esac
    shift
done
command -v dpkg-deb >/dev/null || die "dpkg-deb is not there: build on Debian or Ubuntu"

tools=$cache/deb-tools-$packaging
if [ ! -f "$tools/complete" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/python" -m pip install -q --disable-pip-version-check "packaging==$packaging"
    : >"$tools/complete"
fi
mkdir -p "$out"
out=$(CDPATH='' cd -- "$out" && pwd)
if [ -z "$wheels" ]; then
    sh "$here/deploy/build.sh" --out "$out"
    wheels=$out
fi

for architecture in $architectures; do
    case $architecture in
        amd64) machine=x86_64 ;;
        arm64) machine=aarch64 ;;
        *) die "no package for $architecture: amd64 or arm64" ;;
    esac
    found=$(find "$wheels" -maxdepth 1 -name "edged-*_$machine.whl" | sort | tail -n 1)
    [ -n "$found" ] || die "no wheel for $machine in $wheels: sh deploy/build.sh --machine $machine"
    # shellcheck disable=SC2086 # no version: no argument
    "$tools/bin/python" "$here/deploy/build_deb.py" "$architecture" "$found" "$out" "$cache/deb-$architecture" $version
done
