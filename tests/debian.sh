# For tests/fetch_*.sh: a private apt below $1, which shares only the list of installed packages with the machine's
# apt. Needs no root; apt checks what it downloads.
#
# With a second argument, the name of a Debian release, apt takes packages of that release from the mirror that this
# machine uses, and downloads all that they need, the C library too. With a third one, of that architecture.
use_apt() {
    command -v apt-get >/dev/null || return 1
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial" "$1/parts"
    cat >"$1/conf" <<CONF
Dir::State::Lists "$1/lists";
Dir::Cache "$1/cache";
Debug::NoLocking "true";
APT::Sandbox::User "";
CONF
    if [ -n "${2:-}" ]; then
        # shellcheck disable=SC2016 # apt's variables
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
            head -n 1)
        [ -n "$mirror" ] || return 1
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $2 main" >"$1/sources.list"
        cat >>"$1/conf" <<CONF
Dir::State::status "/dev/null";
Dir::Etc::SourceList "$1/sources.list";
Dir::Etc::SourceParts "$1/parts";
CONF
        [ -z "${3:-}" ] || echo "APT::Architecture \"$3\"; APT::Architectures { \"$3\"; };" >>"$1/conf"
    fi
    export APT_CONFIG="$1/conf"
    apt-get -qq update
}

# Unpacks the packages in folder $1 into $2, and tells where libraries are: a value for LD_LIBRARY_PATH.
unpack() {
    for package in "$1"/*.deb; do
        dpkg -x "$package" "$2"
    done
    find "$2" -name '*.so*' -exec dirname {} \; | sort -u | tr '\n' ':'
}
