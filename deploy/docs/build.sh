#!/bin/sh
# Builds the site of the documentation into deploy/docs/site: a folder of static pages that fetch nothing from elsewhere.
#
#   sh deploy/docs/build.sh [--out DIR]
#
# --out DIR   where (default: deploy/docs/site)
#
# mkdocs comes from the package index into .cache/build (EDGED_BUILD_CACHE). The pages of settings and topics are made
# from the code, by the environment of deploy/install.sh (EDGED_VENV, default .venv).
set -eu

docs=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
here=$(dirname "$(dirname "$docs")")
out=$docs/site
cache=${EDGED_BUILD_CACHE:-$here/.cache/build}
edged=${EDGED_VENV:-$here/.venv}/bin/python
material=9.8.2 mkdocs=1.6.1

die() {
    echo "docs: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --out)
            [ $# -gt 1 ] || die "$1 needs a value"
            out=$2
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

[ -x "$edged" ] || die "there is no edged in $edged: sh deploy/install.sh"
PYTHONPATH=$here "$edged" "$docs/made_pages.py" "$docs/pages"

tools=$cache/docs-$mkdocs-$material
if [ ! -f "$tools/complete" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/python" -m pip install -q --disable-pip-version-check "mkdocs==$mkdocs" "mkdocs-material==$material"
    : >"$tools/complete"
fi
mkdir -p "$out"
out=$(CDPATH='' cd -- "$out" && pwd)
NO_MKDOCS_2_WARNING=1 "$tools/bin/mkdocs" build --quiet --strict --clean --config-file "$docs/mkdocs.yml" --site-dir "$out"
echo "docs: done, open $out/index.html"
