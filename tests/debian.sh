# For tests/fetch_*.sh: a private apt below $1, which shares only the list of installed packages with the machine's
# apt. Needs no root; apt checks what it downloads.
use_apt() {
    command -v apt-get >/dev/null || return 1
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    cat >"$1/conf" <<CONF
Dir::State::Lists "$1/lists";
Dir::Cache "$1/cache";
Debug::NoLocking "true";
APT::Sandbox::User "";
CONF
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
