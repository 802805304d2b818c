# shellcheck shell=bash
# What build.sh and run.sh share: places, messages, host tools, and a private view of Debian 12's
# packages that leaves the host's own apt state alone.

GUEST_SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
REPOSITORY="$(cd "$GUEST_SCRIPTS/../.." && pwd)"
GUEST_CACHE="$REPOSITORY/target/guest"
CLIENTS="$REPOSITORY/tests/clients"
# Exit status of a stage that cannot run here (the convention of automake and of scripts/test.sh).
NOT_RUN=77

say() { printf 'guest: %s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

not_run() {
    say "NOT RUN: $*"
    exit "$NOT_RUN"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# install_packages PACKAGE...: with the host's apt-get.
install_packages() {
    command -v apt-get >/dev/null || not_run "there is no apt-get here to install $*"
    say "installing $*"
    as_root apt-get -qq update >&2 || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" \
        >/dev/null || not_run "$* cannot be installed"
}

# need_tool COMMAND DEBIAN_PACKAGE: installs the package if the command is missing.
need_tool() {
    PATH="$PATH:/usr/sbin:/sbin"
    command -v "$1" >/dev/null || install_packages "$2"
}

# The keyring that signs Debian's archives.
debian_keyring() {
    local keyring
    for keyring in /usr/share/keyrings/debian-archive-keyring.gpg /etc/apt/trusted.gpg.d; do
        [ -e "$keyring" ] && echo "$keyring" && return
    done
    not_run "no Debian archive keyring (package debian-archive-keyring)"
}

# debian_apt ROOT ARCHITECTURE TOOL ARGUMENT...: runs apt-get or apt-cache on a private Debian 12 tree
# with nothing installed, so that a resolution names every package of the closure.
debian_apt() {
    local root="$1" architecture="$2" tool="$3"
    shift 3
    "$tool" -qq -o Dir="$root" -o Dir::State="$root/state" -o Dir::State::Status="$root/status" \
        -o Dir::Cache="$root/cache" -o Dir::Etc::SourceList="$root/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null \
        -o Dir::Etc::PreferencesParts=/dev/null -o APT::Architecture="$architecture" \
        -o APT::Architectures="$architecture" -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true -o Acquire::Retries=3 "$@"
}

# debian_tree ROOT ARCHITECTURE: makes that tree and fetches the package lists.
debian_tree() {
    local root="$1" architecture="$2" keyring
    keyring="$(debian_keyring)"
    mkdir -p "$root/state/lists/partial" "$root/cache/archives/partial"
    : >"$root/status"
    local options="[signed-by=$keyring arch=$architecture]"
    [ -d "$keyring" ] && options="[arch=$architecture]"
    cat >"$root/sources.list" <<LIST
deb $options http://deb.debian.org/debian bookworm main
deb $options http://deb.debian.org/debian bookworm-updates main
deb $options http://deb.debian.org/debian-security bookworm-security main
LIST
    debian_apt "$root" "$architecture" apt-get update
}
