#!/bin/sh
# Makes this box's mosquitto the broker of edged: TLS, passwords, rights by role. Root does it; may be run again at
# any time: certificates and passwords that are there stay.
#
#   sh deploy/mosquitto/setup.sh [--name NAME]... [--root DIR]
#
# --name NAME   a host name or address by which devices reach this box (default: its host name); may come again
# --root DIR    into an image of a box instead of this one
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root='' names=''
days=3650

die() {
    echo "setup: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --name | --root)
            [ $# -gt 1 ] || die "$1 needs a value"
            if [ "$1" = --root ]; then root=${2%/}; else names="$names $2"; fi
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
[ -n "$root" ] || [ "$(id -u)" = 0 ] || die "this changes the whole box: run it as root, with sudo"
PATH=$PATH:/usr/sbin
for tool in openssl mosquitto_passwd; do
    command -v $tool >/dev/null || die "$tool is not there; on Debian or Ubuntu: apt install mosquitto openssl"
done
[ -n "$names" ] || names=$(hostname)

folder=$root/etc/mosquitto/edged
credentials=$root/etc/edged/credentials
install -d -m 755 "$root/etc/mosquitto/conf.d" "$folder"
install -d -m 700 "$folder/authority" "$credentials"
install -m 644 "$here/edged.conf" "$root/etc/mosquitto/conf.d/edged.conf"
# The web page, for a web server: deploy/dashboard/nginx.conf.
page=$root/usr/local/share/edged/dashboard
install -d -m 755 "$page/vendor"
for file in "$here"/../dashboard/*.html "$here"/../dashboard/*.css "$here"/../dashboard/*.js; do
    install -m 644 "$file" "$page/"
done
install -m 644 "$here"/../dashboard/vendor/* "$page/vendor/"
[ -e "$folder/acl" ] || install -m 640 "$here/acl" "$folder/acl"

umask 077
run_openssl() {
    said=$(openssl "$@" 2>&1) || die "openssl $1: $said"
}
new_key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
authority=$folder/authority
if [ ! -e "$authority/ca.key" ]; then
    # shellcheck disable=SC2086 # several words
    run_openssl req -x509 $new_key -keyout "$authority/ca.key" -out "$folder/ca.crt" -days $days \
        -subj "/CN=edged broker authority" -addext basicConstraints=critical,CA:TRUE,pathlen:0 \
        -addext keyUsage=critical,keyCertSign,cRLSign
fi
if [ ! -e "$folder/server.key" ]; then
    list=DNS:localhost,IP:127.0.0.1
    for name in $names; do
        case $name in
            *:*) list=$list,IP:$name ;;
            *[!0-9.]*) list=$list,DNS:$name ;;
            *) list=$list,IP:$name ;;
        esac
    done
    # shellcheck disable=SC2086 # several words
    run_openssl req $new_key -keyout "$folder/server.key" -out "$authority/server.csr" -subj "/CN=${names##* }"
    printf '%s\n' "subjectAltName=$list" extendedKeyUsage=serverAuth >"$authority/server.ext"
    run_openssl x509 -req -in "$authority/server.csr" -CA "$folder/ca.crt" -CAkey "$authority/ca.key" \
        -CAcreateserial -out "$folder/server.crt" -days $days -extfile "$authority/server.ext"
fi

touch "$folder/passwd"
for user in edged dashboard operator homeassistant; do
    grep -q "^$user:" "$folder/passwd" && continue
    password=$(openssl rand -hex 16)
    # By its standard input: a command line is seen by all.
    printf '%s\n%s\n' "$password" "$password" | mosquitto_passwd "$folder/passwd" $user >/dev/null 2>&1 ||
        die "mosquitto_passwd: the password of $user cannot be kept"
    if [ $user = edged ]; then
        printf '%s\n' "$user" >"$credentials/username"
        printf '%s\n' "$password" >"$credentials/password"
    else
        echo "setup: password of $user: $password"
    fi
done

chmod 644 "$folder/ca.crt" "$folder/server.crt"
chmod 640 "$folder/server.key" "$folder/passwd" "$folder/acl"
if [ -z "$root" ] && getent group mosquitto >/dev/null; then
    chgrp mosquitto "$folder/server.key" "$folder/passwd" "$folder/acl"
fi
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    systemctl restart mosquitto
fi
echo "setup: done; devices trust ${folder#"$root"}/ca.crt; a device's password: mosquitto_passwd ${folder#"$root"}/passwd NAME"
