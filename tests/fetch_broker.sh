#!/bin/sh
# Puts a broker into DIR: Debian's packages of a release that is not this machine's, unpacked with the C library of that
# release, or an npm package. Installs nothing, starts nothing that stays, needs no root.
#
#   sh tests/fetch_broker.sh DIR mosquitto-2.1|rabbitmq-3.10|rabbitmq-4.0|aedes
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
mkdir -p "$1"
dir=$(CDPATH='' cd -- "$1" && pwd)
name=$2
aedes="aedes@1.2.0 aedes-persistence-level@9.2.0 level@10.0.0"
case $name in
    mosquitto-2.1) release=forky package=mosquitto ;;
    rabbitmq-3.10) release=bookworm package=rabbitmq-server ;;
    rabbitmq-4.0) release=trixie package=rabbitmq-server ;;
    aedes) release='' ;;
    *) echo "tests: the broker $name is not known here" >&2 && exit 1 ;;
esac

works() {
    case $name in
        mosquitto-*) "$dir/bin/mosquitto" -h 2>/dev/null | grep -q 'mosquitto version' ;;
        rabbitmq-*) "$dir/bin/erl" -noshell -eval 'halt(0).' >/dev/null 2>&1 ;;
        aedes) (cd "$dir" && node --input-type=module -e "import 'aedes'; import 'level'; import 'aedes-persistence-level'") ;;
    esac
}

[ -e "$dir/done" ] && works && exit 0
rm -rf "$dir"
mkdir -p "$dir/bin"
if [ "$name" = aedes ]; then
    echo "tests: fetching the npm package aedes into $dir" >&2
    # shellcheck disable=SC2086 # several packages
    npm install --loglevel error --fetch-retries 5 --no-audit --no-fund --no-package-lock --prefix "$dir" $aedes
    works
    touch "$dir/done"
    exit 0
fi

echo "tests: unpacking $name of Debian $release into $dir" >&2
. "$here/debian.sh"
use_apt "$dir/apt" "$release" || {
    echo "tests: $name cannot be fetched: that needs apt-get and a mirror of Debian" >&2
    exit 1
}
apt-get -qq -y --no-install-recommends --download-only install "$package" >/dev/null
archives=$dir/apt/cache/archives
# What these packages need to be installed, but not to run here.
rm -f "$archives"/python3* "$archives"/libpython3* "$archives"/passwd_* "$archives"/dpkg_* "$archives"/debconf_* \
    "$archives"/systemd_* "$archives"/tzdata_* "$archives"/perl* "$archives"/libperl*
unpack "$archives" "$dir/root" >/dev/null
rm -rf "$dir/apt"
libs=$(find "$dir/root" -type d -path '*/lib/*-linux-gnu' -prune | tr '\n' ':')
PATH=$PATH:/usr/sbin:/sbin
# shellcheck disable=SC2046 # folders without spaces, or the wrappers would not work either
ldconfig -n $(echo "$libs" | tr ':' ' ') # makes the links that a package's installation would make
loader=$(find "$dir/root" -name 'ld-linux*.so*' | head -n 1)

# Makes $2 a script that runs program $1 with the C library that was unpacked with it.
wrap() {
    cat >"$2" <<WRAPPER
#!/bin/sh
exec "$loader" --library-path "$libs" "$1" "\$@"
WRAPPER
    chmod +x "$2"
}

case $name in
    mosquitto-*) wrap "$(find "$dir/root" -type f -path '*bin/mosquitto')" "$dir/bin/mosquitto" ;;
    rabbitmq-*)
        erlang=$dir/root/usr/lib/erlang
        # erl is a script: it and beam.smp begin further programs, each by its path.
        for program in "$erlang"/erts-*/bin/* "$erlang"/lib/os_mon-*/priv/bin/*; do
            if [ "$(head -c 4 "$program" | tail -c 3)" = ELF ]; then
                mv "$program" "$program.real"
                wrap "$program.real" "$program"
            fi
        done
        sed -i "s|=/usr/lib/erlang|=\"$erlang\"|; s|=\"/usr/lib/erlang\"|=\"$erlang\"|" "$erlang/bin/erl"
        ln -s "$erlang/bin/erl" "$dir/bin/erl"
        ln -s "$(echo "$erlang"/erts-*/bin/epmd)" "$dir/bin/epmd"
        server=$(echo "$dir"/root/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server)
        printf '#!/bin/sh\nexec "%s" "$@"\n' "$server" >"$dir/bin/rabbitmq-server" # it looks around where it lies
        chmod +x "$dir/bin/rabbitmq-server"
        ;;
esac
works || {
    echo "tests: the unpacked $name does not run" >&2
    exit 1
}
touch "$dir/done"
