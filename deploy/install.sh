#!/bin/sh
# Installs edged into a virtual environment of its own. Needs no root; may be run again at any time.
#
#   sudo sh deploy/install.sh --system [--model ID] [--cuda] [--newest] [--wheelhouse DIR]
#   sh deploy/install.sh [--venv DIR] [--serve] [--extras demo,test] [--editable] [--cuda] [--newest] [--wheelhouse DIR]
#
# --serve           for small boxes: without torch and transformers. Serves bundles, which another box has made:
#                   `edged models export` there, `edged models import` here
# --venv DIR        where (default: $EDGED_VENV, else .venv beside this checkout)
# --extras LIST     extras of edged, with commas: extract, http (OpenAI's API), metrics (Prometheus), top, fleet (Redis),
#                   demo, test; --system takes the first four; those installed before stay
# --editable        run from this checkout: for work on edged itself
# --system          into /opt/edged, as a service of the box: deploy/system.sh does the rest, and takes it away again
# --model ID        the service's model: a preset, a hub id, a folder or a GGUF file (default: that of its settings)
# --cuda            torch for an NVIDIA GPU (several GB), not on aarch64; otherwise the CPU build
# --newest          the newest releases that pyproject.toml allows, not those of deploy/constraints.txt
# --wheelhouse DIR  look for wheels there too (pip's own settings, PIP_FIND_LINKS among them, count anyway)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=${EDGED_VENV:-$here/.venv}
extras='' editable='' cuda='' newest='' wheelhouse='' system='' model='' serve=''
torch=2.13.0
cpu_index=https://download.pytorch.org/whl/cpu
on_arm=''
if [ "$(uname -m)" = aarch64 ]; then
    torch=2.9.1 # see pyproject.toml; the package index itself has a build of it for CPUs
    on_arm=yes cpu_index=''
fi

die() {
    echo "install: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --venv | --extras | --wheelhouse | --model)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in
                --venv) venv=$2 ;;
                --extras) extras=$2 ;;
                --wheelhouse) wheelhouse=$2 ;;
                --model) model=$2 ;;
            esac
            shift
            ;;
        --editable) editable=yes ;;
        --system) system=yes venv=/opt/edged extras=${extras:-extract,http,metrics,top} ;;
        --cuda) cuda=yes ;;
        --serve) serve=yes ;;
        --newest) newest=yes ;;
        -h | --help)
            sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$0"
            exit 0
            ;;
        *) die "unknown option $1 (--help lists all)" ;;
    esac
    shift
done

[ -z "$cuda" ] || [ -z "$on_arm" ] || die "--cuda: on aarch64 edged computes on the CPU"
[ -z "$serve" ] || [ -z "$cuda" ] || die "--serve installs no torch, so it has no use for --cuda"
[ -z "$system" ] || [ "$(id -u)" = 0 ] || die "--system changes the whole box: run it as root, with sudo"
become_service() { [ -z "$system" ] || sh "$here/deploy/system.sh" install ${model:+--model "$model"}; }

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
is_made() { "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null; }

# An environment keeps the Python that it was made with.
python=''
if suits "$venv/bin/python" && is_made; then
    python=$venv/bin/python
else
    for each in python3 python3.13 python3.12 python3.11; do
        if suits "$each"; then
            python=$(command -v "$each")
            break
        fi
    done
fi
[ -n "$python" ] || die "no Python 3.11, 3.12 or 3.13 found; on Debian or Ubuntu: apt install python3 python3-venv"

# The stamp holds everything that determines what is installed, so that no step is repeated without need.
stamp=$(
    "$python" -c 'import sys; print(sys.version)'
    echo "$torch,$extras,$editable,$cuda,$newest,$serve,$here"
    cksum <"$here/pyproject.toml"
    cksum <"$here/deploy/constraints.txt"
    # An installed copy must be renewed when its sources change; an editable one uses the sources directly.
    [ -n "$editable" ] || find "$here/edged" -name '*.py' -exec cksum {} + | sort
    find "$here/edged/engine/decoders/native" -type f -exec cksum {} + | sort
    command -v g++ c++ clang++ || true
    for folder in "$here/dist" ${wheelhouse:+"$wheelhouse"}; do
        ls -l "$folder"/edged-*.whl 2>/dev/null || true
    done
)
if [ -x "$venv/bin/edged" ] && [ "$(cat "$venv/.edged-stamp" 2>/dev/null)" = "$stamp" ]; then
    become_service
    exit 0
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

echo "install: $venv ($("$python" --version))"
if [ "$python" != "$venv/bin/python" ]; then
    if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
        die "$venv has other things in it; name a folder that is empty or not there with --venv"
    fi
    # --clear: removes the rest of an interrupted attempt, or of a Python that was removed.
    made=$("$python" -m venv --clear "$venv" 2>&1) ||
        die "no virtual environment can be made; on Debian or Ubuntu: apt install python3-venv. Python says:
$made"
fi
rm -f "$venv/.edged-stamp"

# Succeeds if the torch that was asked for is there. The build for GPUs is known by the CUDA packages that it wants.
has_torch() {
    "$venv/bin/python" - "$torch" "$cuda" 2>/dev/null <<'PY'
import sys
from importlib.metadata import requires, version

from pip._vendor.packaging.requirements import Requirement

wanted = map(Requirement, requires("torch") or [])
here = [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
has_cuda = any("nvidia" in each or "cuda" in each for each in here)
sys.exit(version("torch").split("+")[0] != sys.argv[1] or has_cuda != bool(sys.argv[2]))
PY
}

if [ -z "$serve" ] && ! has_torch; then
    build=${cuda:+CUDA}
    echo "install: torch $torch, ${build:=CPU} build"
    if [ -n "$cuda" ]; then
        pip install -q ${wheelhouse:+"--find-links=$wheelhouse"} "torch==$torch"
    # --no-deps: whichever build a wheelhouse has, it must not bring CUDA packages along.
    elif ! pip install -q --no-index ${wheelhouse:+"--find-links=$wheelhouse"} --no-deps "torch==$torch" 2>/dev/null; then
        pip install -q --no-deps ${cpu_index:+--index-url "$cpu_index"} "torch==$torch" ||
            die "torch $torch (CPU) is in no wheelhouse and not at ${cpu_index:-the package index};" \
                "download its wheel elsewhere and give --wheelhouse DIR"
    fi
    has_torch || die "pip found another torch $torch than the $build build; remove $venv and give --wheelhouse DIR"
fi

# What serving needs: the requirements of pyproject.toml and of the extras, without those that only make models. They
# cannot be a choice of pyproject.toml itself: an extra adds requirements and takes none away.
needed_for_serving() {
    "$venv/bin/python" - "$here/pyproject.toml" "$extras" <<'PY'
import re, sys, tomllib

said = tomllib.load(open(sys.argv[1], "rb"))
project, left_out = said["project"], set(said["tool"]["edged"]["not-for-serving"])
extras = [project["optional-dependencies"][each] for each in sys.argv[2].split(",") if each]
for each in [*project["dependencies"], *(line for lines in extras for line in lines)]:
    if re.match(r"[\w-]+", each)[0] not in {*left_out, project["name"]}:
        print(each)
PY
}

echo "install: edged${extras:+[$extras]}${serve:+, without torch and transformers}"
: >"$venv/.edged-constraints"
# The other packages must not replace torch.
[ -n "$serve" ] || "$venv/bin/python" -c \
    'from importlib.metadata import version; print("torch==" + version("torch"))' >"$venv/.edged-constraints"
[ -n "$newest" ] || cat "$here/deploy/constraints.txt" >>"$venv/.edged-constraints"
if [ -n "$serve" ]; then
    needed_for_serving >"$venv/.edged-requirements" || die "no extra of that name (--help lists all)"
    pip install -q -c "$venv/.edged-constraints" ${newest:+--upgrade} ${wheelhouse:+"--find-links=$wheelhouse"} \
        -r "$venv/.edged-requirements"
    pip install -q --no-deps ${wheelhouse:+"--find-links=$wheelhouse"} ${editable:+-e} "$here"
else
    pip install -q -c "$venv/.edged-constraints" ${newest:+--upgrade} ${wheelhouse:+"--find-links=$wheelhouse"} \
        ${editable:+-e} "$here${extras:+[$extras]}"
fi
# The kernels for this CPU: from a wheel of deploy/build.sh, else compiled; without a compiler torch's are used.
# -I: the installed edged, not one that lies in the current folder.
kernels="import pathlib, sys; from edged.engine.decoders import native_library
print(native_library.install(*map(pathlib.Path, sys.argv[1:])))"
echo "install: kernels $("$venv/bin/python" -I -c "$kernels" "$here/dist" ${wheelhouse:+"$wheelhouse"} | tail -n 1)"
printf '%s\n' "$stamp" >"$venv/.edged-stamp"
echo "install: done, $(du -sm "$venv" | cut -f 1) MB on disk; try $venv/bin/edged --help"
become_service
