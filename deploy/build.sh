#!/bin/sh
# Makes the wheels of edged for x86-64 and aarch64, with compiled kernels for all sets of CPU instructions in them: a
# box that installs one needs no compiler. glibc 2.17 or newer; no C++ library. The same sources give the same bytes.
#
#   sh deploy/build.sh [--out DIR] [--machine x86_64|aarch64] [--record]
#
# --out DIR         where (default: dist beside this checkout); DIR/SHA256SUMS holds the hashes of wheels and kernels
# --machine NAME    for one machine (default: both)
# --record          write the kernels' hashes to deploy/kernels.sha256: after a change of their sources or of the compiler
#
# It needs Python 3.11 or newer with venv. zig's compiler comes from the package index (100 MB) and is kept in
# .cache/build (EDGED_BUILD_CACHE), with what was compiled.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=$here/dist machines='x86_64 aarch64' record=''
cache=${EDGED_BUILD_CACHE:-$here/.cache/build}
zig=0.17.1
hatchling=1.27.0

die() {
    echo "build: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --out | --machine)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in
                --out) out=$2 ;;
                --machine) machines=$2 ;;
            esac
            shift
            ;;
        --record) record=yes ;;
        -h | --help)
            sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$0"
            exit 0
            ;;
        *) die "unknown option $1 (--help lists all)" ;;
    esac
    shift
done

tools=$cache/tools-$zig-$hatchling
python=$tools/bin/python
if [ ! -f "$tools/complete" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$python" -m pip install -q --disable-pip-version-check "ziglang==$zig" "hatchling==$hatchling"
    : >"$tools/complete"
fi
export ZIG_LOCAL_CACHE_DIR="$cache/zig" ZIG_GLOBAL_CACHE_DIR="$cache/zig"

mkdir -p "$out"
out=$(CDPATH='' cd -- "$out" && pwd)
rm -rf "$out/kernels" "$out/SHA256SUMS"
for machine in $machines; do
    kernels=$out/kernels/$machine
    PYTHONPATH=$here "$python" "$here/deploy/build_kernels.py" "$machine" "$kernels" "$cache/kernels-$zig"
    (
        cd "$here"
        EDGED_WHEEL_MACHINE=$machine EDGED_WHEEL_KERNELS=$kernels "$python" -m hatchling build -t wheel -d "$out"
    )
done
(
    cd "$out"
    find . -name 'edged-*.whl' -o -name 'edged-*.so' | sed 's|^\./||' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS
)
[ -z "$record" ] || sed -n '/\.so$/s|kernels/||p' "$out/SHA256SUMS" >"$here/deploy/kernels.sha256"
echo "build: done, in $out"
