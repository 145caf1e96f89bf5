#!/bin/sh
# Makes all that a release consists of, and checks it: sdist, wheels, Debian packages, a bill of materials (CycloneDX) of
# each, and SHA256SUMS.
#
#   sh deploy/release.sh [--out DIR] [--twice]
#
# --out DIR   where (default: dist beside this checkout)
# --twice     build all a second time and compare: the same sources give the same bytes
#
# Needs Python 3.11 or newer with venv, dpkg-deb, and the package index. lintian is asked where it is installed.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=$here/dist twice=''
cache=${EDGED_BUILD_CACHE:-$here/.cache/build}
hatchling=1.27.0 twine=7.0.0 contents=0.6.3 auditwheel=6.8.2
packaging=$(sed -n 's/^packaging==//p' "$here/deploy/constraints.txt")

die() {
    echo "release: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --out)
            [ $# -gt 1 ] || die "$1 needs a value"
            out=$2
            shift
            ;;
        --twice) twice=yes ;;
        -h | --help)
            sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$0"
            exit 0
            ;;
        *) die "unknown option $1 (--help lists all)" ;;
    esac
    shift
done

tools=$cache/release-$hatchling-$twine-$contents-$auditwheel
if [ ! -f "$tools/complete" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/python" -m pip install -q --disable-pip-version-check \
        "hatchling==$hatchling" "twine==$twine" "check-wheel-contents==$contents" "auditwheel==$auditwheel" \
        "packaging==$packaging"
    : >"$tools/complete"
fi
# The time of the newest entry of the package's changelog, in all that has a time in it.
SOURCE_DATE_EPOCH=$(date -d "$(sed -n 's/^ -- .*>  //p' "$here/deploy/debian/changelog" | head -n 1)" +%s)
export SOURCE_DATE_EPOCH

build() {
    mkdir -p "$1"
    sh "$here/deploy/build.sh" --out "$1"
    (cd "$here" && "$tools/bin/python" -m hatchling build -t sdist -d "$1")
    "$tools/bin/python" "$here/deploy/sbom.py" "$SOURCE_DATE_EPOCH" "$1"/edged-*.whl
    sh "$here/deploy/build_deb.sh" --out "$1" --wheels "$1"
    (
        cd "$1"
        find . -maxdepth 1 -type f -name 'edged[-_]*' | sed 's|^\./||' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS
    )
}

mkdir -p "$out"
out=$(CDPATH='' cd -- "$out" && pwd)
build "$out"
"$tools/bin/twine" check --strict "$out"/edged-*.whl "$out"/edged-*.tar.gz
# W004: the kernels are loaded by ctypes, so their names need not be those of modules.
"$tools/bin/check-wheel-contents" --ignore W004 "$out"/edged-*.whl
# No abi3audit: the kernels know nothing of Python. auditwheel names the oldest systems that have all they ask for.
for wheel in "$out"/edged-*.whl; do
    "$tools/bin/auditwheel" show "$wheel" | tr '\n' ' ' | grep -q 'following platform tag: *"manylinux' ||
        die "$wheel asks for more than its name says: auditwheel show"
done
if command -v lintian >/dev/null; then
    lintian --fail-on error,warning "$out"/edged_*.deb
fi
if [ -n "$twice" ]; then
    again=$(mktemp -d)
    trap 'rm -rf "$again"' EXIT
    build "$again"
    cmp "$out/SHA256SUMS" "$again/SHA256SUMS" || die "the second build has other bytes: compare $out/SHA256SUMS"
    echo "release: built twice, the same bytes"
fi
echo "release: done, in $out"
