#!/bin/sh
# Makes the folder of the add-on: what the supervisor builds the image from, with edged's sources and the web page.
#
#   sh deploy/homeassistant/make.sh DIR
set -eu

[ $# = 1 ] || { sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$0" >&2; exit 2; }
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$here/../..
mkdir -p "$1/src/deploy" "$1/translations"
cp "$here/config.yaml" "$here/Dockerfile" "$here/run.py" "$here/nginx.conf" "$here/DOCS.md" "$here"/*.png "$1"
cp "$here"/translations/*.yaml "$1/translations"
cp "$root/CHANGELOG.md" "$1"
cp "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$1/src"
cp "$root/deploy/install.sh" "$root/deploy/constraints.txt" "$1/src/deploy"
rm -rf "$1/src/edged" "$1/dashboard"
cp -R "$root/edged" "$1/src"
cp -R "$root/deploy/dashboard" "$1"
find "$1/src/edged" -name __pycache__ -prune -exec rm -rf {} +
echo "$1: copy it to /addons of the box, and reload the add-on store"
