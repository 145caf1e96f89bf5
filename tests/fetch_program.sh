#!/bin/sh
# Puts a program into DIR/bin/NAME: a link to the machine's own, else a wrapper around Debian's packages unpacked beside
# it. Installs nothing, starts nothing that stays, needs no root.
#
#   sh tests/fetch_program.sh DIR chromium|nginx|redis-server|qemu-aarch64
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
dir=$(CDPATH='' cd -- "$1" && pwd)
name=$2 unpacked=
program=$dir/bin/$name
PATH=$PATH:/usr/sbin
case $name in
    # With an emoji and a Chinese font: the tests look at both.
    chromium)
        packages="chromium fontconfig-config fonts-dejavu-core fonts-noto-color-emoji fonts-wqy-microhei"
        inside=usr/lib/chromium/chromium ask=--version
        ;;
    nginx) packages=nginx inside=usr/sbin/nginx ask=-v ;;
    redis-server) packages=redis-server inside=usr/bin/redis-server ask=--version ;;
    # Unpacked in any case: arm64's C library stands below DIR/root.
    qemu-aarch64) packages="qemu-user libc6-arm64-cross" inside=usr/bin/qemu-aarch64 ask=--version unpacked=yes ;;
    *) echo "tests: $name is not known here" >&2 && exit 1 ;;
esac

works() { "$program" $ask >/dev/null 2>&1; }

works && exit 0
rm -rf "$dir"
mkdir -p "$dir/bin"
if [ -z "$unpacked" ] && path=$(command -v "$name"); then
    ln -s "$path" "$program"
    works && exit 0
    rm -f "$program"
fi

echo "tests: unpacking Debian's $name into $dir" >&2
. "$here/debian.sh"
use_apt "$dir/apt" || {
    echo "tests: install $name (there is no apt-get here to fetch it)" >&2
    exit 1
}
# The packages among these and their dependencies that are not installed.
# shellcheck disable=SC2086 # several words
apt-get -qq -y --no-install-recommends --download-only ${unpacked:+--reinstall} install $packages
# libc stays the machine's own, and so do the libraries that are of one version with it.
for library in libc6 libgcc-s1 libcrypt1; do
    rm -f "$dir/apt/cache/archives/${library}_"*
done
libs=$(unpack "$dir/apt/cache/archives" "$dir/root")
rm -rf "$dir/apt"
mkdir -p "$dir/fonts"
cat >"$dir/fonts.conf" <<CONF
<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>$dir/root/usr/share/fonts</dir><dir>/usr/share/fonts</dir><cachedir>$dir/fonts</cachedir></fontconfig>
CONF
cat >"$program" <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH="$libs" FONTCONFIG_FILE="$dir/fonts.conf"
exec "$dir/root/$inside" "\$@"
WRAPPER
chmod +x "$program"
works || {
    "$program" $ask
    echo "tests: the unpacked $name does not run" >&2
    exit 1
}
