#!/bin/sh
# Puts Node-RED into DIR, by npm. Each package is held to the hash in tests/assets/node-red-lock.json.gz; none of them may
# run a program of its own during the installation.
#
#   sh tests/fetch_node_red.sh DIR
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
dir=$(CDPATH='' cd -- "$1" && pwd)

[ -e "$dir/done" ] && cmp -s "$here/assets/node-red-lock.json.gz" "$dir/done" && exit 0
rm -rf "$dir"
mkdir -p "$dir"
echo "tests: fetching Node-RED into $dir" >&2
gunzip -c "$here/assets/node-red-lock.json.gz" >"$dir/package-lock.json"
cat >"$dir/package.json" <<'JSON'
{ "name": "node-red-for-tests", "private": true, "dependencies": { "node-red": "4.1.15" } }
JSON
(cd "$dir" && npm ci --loglevel error --fetch-retries 5 --no-audit --no-fund --ignore-scripts)
node "$dir/node_modules/node-red/red.js" --help >/dev/null
cp "$here/assets/node-red-lock.json.gz" "$dir/done"
