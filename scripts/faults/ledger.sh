#!/usr/bin/env bash
# The stage `ledger`: kill -9 and power loss under load, and everything that was acknowledged is there.
#
#   scripts/faults/ledger.sh [KILLS [CUTS]]       50 kills and 25 power cuts if nothing is said
#
# Half of the cycles speak MQTT 5, half 3.1.1. The seeds are printed: RINGLANE_LEDGER_SEED=N repeats them.
# Status 77: power cannot be cut here (root and loop devices are needed); the kills passed.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

kills="${1:-50}" cuts="${2:-25}"
bench="$TARGET/release/ringlane-bench"
seed="${RINGLANE_LEDGER_SEED:-$((RANDOM * 32768 + RANDOM))}"

# ledger FAULT CYCLES VERSION
ledger() {
    [ "$2" -eq 0 ] || "$bench" ledger --broker ringlane-disk --fault "$1" -n "$2" -V "$3" --seed "$seed" \
        --broker-cpus "$(if [ "$(nproc)" -ge 2 ]; then echo 0,1; else echo 0; fi)"
}

ledger kill $((kills - kills / 2)) 5
ledger kill $((kills / 2)) 4
if [ "$(id -u)" -ne 0 ] || [ ! -e /dev/loop-control ]; then
    not_run "no power can be cut here: that needs root and loop devices; the kills passed"
fi
ledger power-loss $((cuts - cuts / 2)) 5
ledger power-loss $((cuts / 2)) 4
