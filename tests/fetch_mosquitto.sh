#!/bin/sh
# Puts mosquitto and its clients into DIR/bin: links to the machine's own, else wrappers around Debian's packages
# unpacked beside them. Installs nothing, starts nothing, needs no root; apt checks what it downloads.
set -eu
dir=$1
bin=$dir/bin
tools="mosquitto mosquitto_pub mosquitto_sub mosquitto_rr mosquitto_passwd"
PATH=$PATH:/usr/sbin:/usr/local/sbin

works() { "$bin/mosquitto" -h >/dev/null 2>&1 || [ $? -eq 3 ]; }

[ -x "$bin/mosquitto_rr" ] && works && exit 0
rm -rf "$dir"
mkdir -p "$bin"

for tool in $tools; do
    path=$(command -v "$tool") || { rm -f "$bin"/*; break; }
    ln -s "$path" "$bin/$tool"
done
if [ -x "$bin/mosquitto_passwd" ] && works; then
    echo "tests: $("$bin/mosquitto" -h | head -n 1), of this machine"
    exit 0
fi

command -v apt-get >/dev/null || { echo "tests: install mosquitto and its clients first (no apt-get here)" >&2; exit 1; }
echo "tests: unpacking Debian's mosquitto into $dir"
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/root"
apt="-o Dir::State::Lists=$dir/apt/lists -o Dir::Cache=$dir/apt/cache -o Debug::NoLocking=1 -o APT::Sandbox::User="
apt-get -qq $apt update
libraries() { apt-cache $apt depends --important "$@" | sed -n 's/^ *|\{0,1\}Depends: \(lib[^ <]*\)$/\1/p' | sort -u; }
first=$(libraries mosquitto mosquitto-clients)
# libc stays the machine's own, and so do the libraries that every Debian has in one version with it.
all=$(printf '%s\n' $first $(libraries $first) | grep -Ev '^(libc6|libgcc-s1|libcrypt1)$' | sort -u)
(cd "$dir/apt" && apt-get -qq $apt download mosquitto mosquitto-clients $all)
for package in "$dir"/apt/*.deb; do
    dpkg -x "$package" "$dir/root"
done
rm -rf "$dir/apt"
libs=$(find "$dir/root" -name '*.so*' -exec dirname {} \; | sort -u | tr '\n' ':')
for tool in $tools; do
    program=$(find "$dir/root" -type f -name "$tool" -path '*bin/*')
    # The libraries are for this program alone: an exported path would reach every child of the tests.
    printf '#!/bin/sh\nexec env LD_LIBRARY_PATH="%s" "%s" "$@"\n' "$libs" "$program" >"$bin/$tool"
    chmod +x "$bin/$tool"
done
works || { "$bin/mosquitto" -h >&2; echo "tests: the unpacked mosquitto does not run" >&2; exit 1; }
