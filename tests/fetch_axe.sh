#!/bin/sh
# Puts axe-core, which checks web pages for accessibility, into DIR/axe.min.js: out of its npm package, held to a hash.
#
#   sh tests/fetch_axe.sh DIR
set -eu
version=4.14.1
sha256=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c
mkdir -p "$1"
dir=$(CDPATH='' cd -- "$1" && pwd)

is_intact() { echo "$sha256  $dir/axe.min.js" | sha256sum --check --status 2>/dev/null; }

is_intact && exit 0
rm -rf "$dir"
mkdir -p "$dir"
echo "tests: fetching axe-core into $dir" >&2
(cd "$dir" && npm pack --silent --fetch-retries 5 "axe-core@$version" >/dev/null)
tar -xzf "$dir/axe-core-$version.tgz" -C "$dir" --strip-components 1 package/axe.min.js
rm "$dir/axe-core-$version.tgz"
is_intact || {
    rm -f "$dir/axe.min.js"
    echo "tests: axe-core $version does not have the checksum that it should" >&2
    exit 1
}
