#!/bin/sh
# Makes an arm64 userland for the emulator: DIR/root has Debian's Python, DIR/site the packages that serving a bundle
# needs. Installs nothing on this machine, starts nothing, needs no root.
#
#   sh tests/fetch_arm64.sh PYTHON DIR      PYTHON: of an environment with pip
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=$1
mkdir -p "$2"
dir=$(CDPATH='' cd -- "$2" && pwd)
stamp=$(cat "$here/fetch_arm64.sh" "$here/support/bundle_packages.txt" "$here/../deploy/constraints.txt" | cksum)
[ "$(cat "$dir/complete" 2>/dev/null)" != "$stamp" ] || exit 0

echo "tests: unpacking an arm64 Python into $dir" >&2
rm -rf "$dir"
mkdir -p "$dir"
. "$here/debian.sh"
use_apt "$dir/apt" bookworm arm64 || {
    echo "tests: there is no apt-get of Debian here to fetch arm64's Python" >&2
    exit 1
}
apt-get -qq -y --no-install-recommends --download-only install python3.11 libstdc++6
unpack "$dir/apt/cache/archives" "$dir/root" >/dev/null
rm -rf "$dir/apt"
"$python" -m pip install -q --disable-pip-version-check --no-deps --target "$dir/site" --only-binary :all: \
    --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 -c "$here/../deploy/constraints.txt" -r "$here/support/bundle_packages.txt"
echo "$stamp" >"$dir/complete"
