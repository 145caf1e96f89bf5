#!/bin/sh
# Puts a current Home Assistant into DIR, with the Python that it needs: Debian's, unpacked with the C library of its
# release. DIR/bin/python runs it. Installs nothing, starts nothing that stays, needs no root.
#
#   sh tests/fetch_homeassistant.sh PYTHON DIR      PYTHON: of an environment with pip
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=$1
mkdir -p "$2"
dir=$(CDPATH='' cd -- "$2" && pwd)
release=2026.11.0
packages=$here/support/homeassistant_packages.txt # what it needs to run with MQTT alone, each with its version
version=3.14
stamp=$(cat "$here/fetch_homeassistant.sh" "$packages" | cksum)
[ "$(cat "$dir/complete" 2>/dev/null)" != "$stamp" ] || exit 0

echo "tests: unpacking Home Assistant $release and a Python $version into $dir" >&2
rm -rf "$dir"
mkdir -p "$dir/bin" "$dir/wheel"
. "$here/debian.sh"
# A mirror without that release, which Debian is still making, must not keep all other tests from running.
leave_out() {
    echo "tests: Home Assistant is left out: $1" >&2
    echo "$1" >"$dir/missing"
    exit 0
}
use_apt "$dir/apt" forky || leave_out "its Python needs apt-get and a mirror of Debian that has forky"
apt-get -qq -y --no-install-recommends --download-only install "python$version" libstdc++6 >/dev/null ||
    leave_out "this mirror of Debian has no python$version for forky"
full=$(apt-cache show "python$version" | sed -n 's/^Version: \([0-9.]*\).*/\1/p' | head -n 1)
rm -f "$dir"/apt/cache/archives/debconf_*
unpack "$dir/apt/cache/archives" "$dir/root" >/dev/null
rm -rf "$dir/apt"
libs=$(find "$dir/root" -type d -path '*/lib/*-linux-gnu' -prune | tr '\n' ':')
PATH=$PATH:/usr/sbin:/sbin
# shellcheck disable=SC2046 # folders without spaces, or the wrapper would not work either
ldconfig -n $(echo "$libs" | tr ':' ' ') # makes the links that a package's installation would make
loader=$(find "$dir/root" -name 'ld-linux*.so*' | head -n 1)
cat >"$dir/bin/python" <<WRAPPER
#!/bin/sh
unset PYTHONDONTWRITEBYTECODE # it would compile every module again at every start
export PYTHONHOME="$dir/root/usr" PYTHONPATH="$dir/site" PYTHONNOUSERSITE=1
exec "$loader" --library-path "$libs" --argv0 "\$0" "$dir/root/usr/bin/python$version" "\$@"
WRAPPER
chmod +x "$dir/bin/python"

machine=$(uname -m)
platforms="--platform manylinux2014_$machine"
for libc in 39 38 37 36 35 34 33 32 31 30 29 28 27 26 25 24 17 12 5; do
    platforms="$platforms --platform manylinux_2_${libc}_$machine"
done
# For that Python, by a pip that does not run in it.
foreign() {
    command=$1
    shift
    # shellcheck disable=SC2086 # several words
    "$python" -m pip "$command" -q --disable-pip-version-check --no-deps --only-binary :all: \
        --ignore-requires-python --python-version "$full" $platforms "$@"
}
foreign install --no-compile --target "$dir/site" -r "$packages"
foreign download -d "$dir/wheel" "homeassistant==$release"
# Three quarters of the wheel's files are translations.
"$python" - "$dir" <<'UNPACK'
import re, sys, zipfile
from pathlib import Path
folder = Path(sys.argv[1])
(wheel,) = folder.glob("wheel/*.whl")
with zipfile.ZipFile(wheel) as archive:
    needed = [name for name in archive.namelist() if not re.search(r"/translations/(?!en\.json$)", name)]
    archive.extractall(folder / "site", needed)
UNPACK
rm -rf "$dir/wheel"
"$dir/bin/python" -c 'from homeassistant.components.mqtt import sensor, binary_sensor, text, update'
echo "$stamp" >"$dir/complete"
