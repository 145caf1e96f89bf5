#!/bin/sh
# Puts mosquitto and its clients into DIR/bin: links to the machine's own, else wrappers around Debian's packages
# unpacked beside them. Installs nothing, starts nothing, needs no root; apt checks what it downloads.
#
#   sh tests/fetch_mosquitto.sh DIR
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
dir=$(CDPATH='' cd -- "$1" && pwd)
bin=$dir/bin
tools="mosquitto mosquitto_pub mosquitto_sub mosquitto_rr mosquitto_passwd"
PATH=$PATH:/usr/sbin:/usr/local/sbin

# The broker prints its usage (and ends with 3), a client without arguments an error: then their libraries were found.
works() {
    "$bin/mosquitto" -h 2>/dev/null | grep -q 'mosquitto version' &&
        "$bin/mosquitto_sub" --help 2>/dev/null | grep -q 'mosquitto_sub version' &&
        [ -x "$bin/mosquitto_passwd" ]
}

works && exit 0
rm -rf "$dir"
mkdir -p "$bin"

for tool in $tools; do
    if path=$(command -v "$tool"); then ln -s "$path" "$bin/$tool"; fi
done
if works; then
    echo "tests: this machine's $("$bin/mosquitto" -h | head -n 1)" >&2
    exit 0
fi
rm -f "$bin"/*

echo "tests: unpacking Debian's mosquitto into $dir" >&2
. "$here/debian.sh"
use_apt "$dir/apt" || {
    echo "tests: install mosquitto and its clients (there is no apt-get here to fetch them)" >&2
    exit 1
}
libraries() { apt-cache depends --important "$@" | sed -n 's/^ *|\{0,1\}Depends: \(lib[^ <]*\)$/\1/p' | sort -u; }
# shellcheck disable=SC2046 # lists of words
set -- $(libraries mosquitto mosquitto-clients)
# libc stays the machine's own, and so do the libraries that are of one version with it.
# shellcheck disable=SC2046
set -- $(printf '%s\n' "$@" $(libraries "$@") | grep -Ev '^(libc6|libgcc-s1|libcrypt1)$' | sort -u)
(cd "$dir/apt" && apt-get -qq download mosquitto mosquitto-clients "$@")
libs=$(unpack "$dir/apt" "$dir/root")
rm -rf "$dir/apt"
for tool in $tools; do
    program=$(find "$dir/root" -type f -name "$tool" -path '*bin/*')
    # The libraries are for this program alone: an exported path would reach every child of the tests.
    printf '#!/bin/sh\nexec env LD_LIBRARY_PATH="%s" "%s" "$@"\n' "$libs" "$program" >"$bin/$tool"
    chmod +x "$bin/$tool"
done
works || {
    "$bin/mosquitto" -h >&2
    echo "tests: the unpacked mosquitto does not run" >&2
    exit 1
}
