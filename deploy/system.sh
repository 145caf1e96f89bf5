#!/bin/sh
# Makes an installed edged a service of the box, or removes the service. Run it as root; it may be run again at any
# time.
#
#   sh deploy/system.sh install [--model ID] [--root DIR]
#   sh deploy/system.sh uninstall [--purge] [--root DIR]
#
# install           the user, the unit, the settings (kept if they are there), the model; then starts the service
# uninstall         ends and removes the service and /opt/edged; settings, models and the journal stay
# --purge removes settings, models, journal and user too
# --model ID        the model: a preset, a hub id, a folder or a GGUF file; written into the settings
# --root DIR        into an image of a box instead of this one: nothing is got or started
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
action=${1:-} root='' model='' purge=''

die() {
    echo "edged: $*" >&2
    exit 1
}

case $action in
    install | uninstall) shift ;;
    *)
        sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$0"
        [ "$action" = --help ] && exit 0
        exit 2
        ;;
esac
while [ $# -gt 0 ]; do
    case $1 in
        --model | --root)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in
                --model) model=$2 ;;
                --root) root=${2%/} ;;
            esac
            shift
            ;;
        --purge) purge=yes ;;
        *) die "unknown option $1 (--help lists all)" ;;
    esac
    shift
done
[ -n "$root" ] || [ "$(id -u)" = 0 ] || die "this changes the whole box: run it as root, with sudo"

units=$root/etc/systemd/system
users=$root/etc/sysusers.d
settings=$root/etc/edged
command=$root/usr/local/bin/edged
is_running() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

if [ "$action" = uninstall ]; then
    if is_running; then
        systemctl disable --now edged.service 'edged@*.service' 2>/dev/null || true
    fi
    rm -f "$units/edged.service" "$units/edged@.service" "$users/edged.conf"
    rm -rf "$root/opt/edged"
    if [ -L "$command" ]; then
        rm "$command"
    fi
    if [ -n "$purge" ]; then
        rm -rf "$settings" "$units/edged.service.d" "$root/var/lib/edged" "$root/var/cache/edged"
        [ -n "$root" ] || userdel edged 2>/dev/null || true
    fi
    if is_running; then
        systemctl daemon-reload
    fi
    echo "edged: uninstalled${purge:+, with all that it kept}"
    exit 0
fi

edged=/opt/edged/bin/edged
[ -n "$root" ] || [ -x $edged ] || die "$edged is not there: sudo sh deploy/install.sh --system"

install -d -m 755 "$units" "$users" "$settings" "$(dirname "$command")"
ln -sfn $edged "$command"
install -d -m 700 "$settings/credentials"
install -m 644 "$here/systemd/edged.service" "$here/systemd/edged@.service" "$units"
install -m 644 "$here/systemd/edged.sysusers.conf" "$users/edged.conf"
[ -e "$settings/edged.toml" ] || install -m 644 "$here/deploy/edged.toml" "$settings/edged.toml"
if [ -n "$model" ]; then
    quoted=$(printf '%s' "$model" | sed 's/[&|\\]/\\&/g')
    sed -i "/^\[model\]/,/^\[/s|^#\{0,1\} *id = .*|id = \"$quoted\"|" "$settings/edged.toml"
fi
if [ -n "$root" ]; then
    echo "edged: installed below $root; the user is made at the first boot, the model is got by edged models pull"
    exit 0
fi

id edged >/dev/null 2>&1 || useradd --system --user-group --home-dir /var/lib/edged --no-create-home \
    --shell /usr/sbin/nologin edged
# Files that root fetched or prepared before the user existed now belong to the service.
install -d -m 755 /var/cache/edged
chown -R edged:edged /var/cache/edged
echo "edged: getting the model (its settings: $settings/edged.toml)"
# As the service's user, who will round the weights into the same folder.
(cd / && setpriv --reuid=edged --regid=edged --clear-groups \
    env -i PATH="$PATH" HOME=/nonexistent CACHE_DIRECTORY=/var/cache/edged ${HTTPS_PROXY:+"HTTPS_PROXY=$HTTPS_PROXY"} \
    $edged models pull) ||
    die "there is no model; once there is one (edged models list), run this again"
if is_running; then
    systemctl daemon-reload
    systemctl enable edged.service
    systemctl restart edged.service # returns when it is ready
    systemctl --no-pager --lines=0 status edged.service
else
    echo "edged: systemd does not run here; after the next boot: systemctl enable --now edged"
fi
