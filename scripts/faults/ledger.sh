#!/usr/bin/env bash
# The stage `ledger`: kill -9 and power loss under load, and everything that was acknowledged is there; the same for a
# cluster of three nodes whose leader is killed, each fourth time all of them, and for one in network namespaces whose leader
# is killed, stands still for longer than its lease, and is cut off without a word, one way and both ways.
#
#   scripts/faults/ledger.sh [KILLS [CUTS [LEADERS]]]    50 kills, 25 power cuts and 10 kills of leaders if nothing is said
#
# Half of the cycles speak MQTT 5, half 3.1.1. The seeds are printed: RINGLANE_LEDGER_SEED=N repeats them.
# Status 77: power or lines cannot be cut here (root and loop devices, network namespaces), or etcd cannot be fetched; the rest
# passed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

kills="${1:-50}" cuts="${2:-25}" leaders="${3:-10}"
bench="$TARGET/release/ringlane-bench"
seed="${RINGLANE_LEDGER_SEED:-$((RANDOM * 32768 + RANDOM))}"

# ledger FAULT CYCLES VERSION [FLAG...]
ledger() {
    [ "$2" -eq 0 ] || "$bench" ledger --broker ringlane-disk --fault "$1" -n "$2" -V "$3" --seed "$seed" \
        --broker-cpus "$(if [ "$(nproc)" -ge 2 ]; then echo 0,1; else echo 0; fi)" "${@:4}"
}

# network KILLS: in namespaces.
network() {
    local status=0
    python3 "$ROOT/scripts/bench/failover.py" --network --no-bounds --binary "$TARGET/release/ringlane" --port 28960 \
        --faults "$(printf 'kill,%.0s' $(seq "$1"))cut,cut-in,cut-out,pause" --times 1 --dir "$TARGET/failover" || status=$?
    rm -rf "$TARGET/failover"
    [ "$status" -ne "$NOT_RUN" ] || missing+=("there are no network namespaces")
    [ "$status" -eq 0 ] || [ "$status" -eq "$NOT_RUN" ]
}

ledger kill $((kills - kills / 2)) 5
ledger kill $((kills / 2)) 4
missing=()
if [ "$leaders" -eq 0 ]; then
    :
elif need_etcd; then
    ledger kill 2 5 --cluster 3
    ledger kill 2 4 --cluster 3
    network $((leaders - 4))
else
    missing+=("there is no etcd for a cluster")
fi
if [ "$(id -u)" -eq 0 ] && [ -e /dev/loop-control ]; then
    ledger power-loss $((cuts - cuts / 2)) 5
    ledger power-loss $((cuts / 2)) 4
else
    missing+=("no power can be cut: that needs root and loop devices")
fi
[ "${#missing[@]}" -eq 0 ] || not_run "${missing[*]}; the rest passed"
