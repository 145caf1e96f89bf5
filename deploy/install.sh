#!/bin/sh
# Installs edged into a virtual environment of its own. Needs no root; may be run again at any time.
#
#   sh deploy/install.sh [--venv DIR] [--extras demo,test] [--editable] [--cuda] [--wheelhouse DIR]
#
# --venv DIR        where (default: $EDGED_VENV, else .venv beside this checkout)
# --extras LIST     extras of edged, with commas
# --editable        run from this checkout: for work on edged itself
# --cuda            torch for an NVIDIA GPU (several GB); otherwise the CPU build
# --wheelhouse DIR  look for torch there first (pip's own PIP_FIND_LINKS counts too)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=${EDGED_VENV:-$here/.venv}
extras= editable= cuda= wheelhouse=
torch=2.13.0
cpu_index=https://download.pytorch.org/whl/cpu

die() { echo "install: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --venv) [ $# -gt 1 ] || die "--venv needs a folder"; venv=$2; shift ;;
        --extras) [ $# -gt 1 ] || die "--extras needs a list"; extras=$2; shift ;;
        --wheelhouse) [ $# -gt 1 ] || die "--wheelhouse needs a folder"; wheelhouse=$2; shift ;;
        --editable) editable=-e ;;
        --cuda) cuda=yes ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '/^set/d'; exit 0 ;;
        *) die "unknown option $1 (--help lists all)" ;;
    esac
    shift
done

find_python() {
    for each in python3 python3.13 python3.12 python3.11; do
        if "$each" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$each"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 found; on Debian or Ubuntu: apt install python3 python3-venv"
}

# Nothing is done twice: the stamp holds all that decides what is installed.
python=$(find_python)
version=$("$python" -c 'import sys; print(sys.version)')
stamp=$(printf '%s\n' "$version" "$torch" "$extras" "$editable" "$cuda" "$here" | cat - "$here/pyproject.toml" | cksum)
if [ -z "$editable" ]; then # an installed copy is as new as its sources
    stamp="$stamp $(find "$here/edged" -name '*.py' -exec cksum {} + | sort | cksum)"
fi
if [ -x "$venv/bin/edged" ] && [ "$(cat "$venv/.edged-stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

echo "install: $venv ($("$python" --version))"
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || die "no virtual environment can be made; on Debian or Ubuntu: apt install python3-venv"
fi
rm -f "$venv/.edged-stamp"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
links=
[ -z "$wheelhouse" ] || links="--find-links=$wheelhouse"

has_torch() {
    "$venv/bin/python" - "$torch" "$cuda" <<'PY' 2>/dev/null
import sys
from importlib.metadata import distribution, version

has_cuda = any("nvidia" in each or "cuda" in each for each in distribution("torch").requires or [] if "extra ==" not in each)
sys.exit(version("torch").split("+")[0] != sys.argv[1] or (bool(sys.argv[2]) != has_cuda))
PY
}

if ! has_torch; then
    echo "install: torch $torch (${cuda:+CUDA}${cuda:-CPU} build)" | sed 's/CUDAyes/CUDA/'
    if [ -n "$cuda" ]; then
        pip install -q "torch==$torch"
    # --no-deps: whatever build is found, it must not bring CUDA packages along.
    elif ! pip install -q --no-index $links --no-deps "torch==$torch" 2>/dev/null; then
        pip install -q --no-deps --index-url "$cpu_index" "torch==$torch" ||
            die "torch $torch (CPU) is neither in a wheelhouse nor at $cpu_index; download its wheel elsewhere and give --wheelhouse DIR"
    fi
    has_torch || die "the torch that pip found is not the ${cuda:+CUDA}${cuda:-CPU} build that was asked for"
fi

echo "install: edged${extras:+[$extras]}"
constraint=$venv/.edged-constraint
"$venv/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$constraint"
pip install -q -c "$constraint" $editable "$here${extras:+[$extras]}"
printf '%s' "$stamp" >"$venv/.edged-stamp"
echo "install: done; $venv/bin/edged --help"
