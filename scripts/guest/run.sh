#!/usr/bin/env bash
# Runs the client suite in a QEMU guest: stock Debian 12 kernel (6.1), 8 virtual CPUs, io_uring.
#
#   scripts/guest/run.sh                          pytest -m guest, then MQTT.js
#   scripts/guest/run.sh PYTEST_ARGUMENT...       pytest alone, with these arguments
#
# Environment:
#   RINGLANE_GUEST_BINARY     the broker, default target/release/ringlane (built if missing)
#   RINGLANE_GUEST_TRANSPORT  uring (default) or epoll
#   RINGLANE_GUEST_CORES      cores of the broker, default 0,1,2,3
#   RINGLANE_GUEST_SECONDS    bound of the whole run, default 600
# Exit status: 0 passed, 1 failed, 124 not ended in time, 77 cannot run here.
#
# TCG, never KVM: nested virtualisation hangs on some build machines, and TCG runs on all of them.
set -euo pipefail
# shellcheck source=scripts/guest/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/guest/machine.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

BINARY="${RINGLANE_GUEST_BINARY:-${CARGO_TARGET_DIR:-$REPOSITORY/target}/release/ringlane}"
TRANSPORT="${RINGLANE_GUEST_TRANSPORT:-uring}"
CORES="${RINGLANE_GUEST_CORES:-0,1,2,3}"
SECONDS_MAX="${RINGLANE_GUEST_SECONDS:-600}"
MQTTJS=no
if [ "$#" -eq 0 ]; then
    set -- -m guest
    MQTTJS=yes
fi

make_job() {
    local tree="$RUN/job"
    mkdir -p "$tree/target/release" "$tree/tests"
    cp "$BINARY" "$tree/target/release/ringlane"
    tar -C "$REPOSITORY/tests" --exclude=node_modules --exclude=__pycache__ --exclude=.pytest_cache \
        -c clients | tar -C "$tree/tests" -x
    cp "$GUEST_SCRIPTS/job.sh" "$GUEST_SCRIPTS/calibrate.py" "$tree/"
    cat >"$tree/job.conf" <<CONF
REFERENCE='$(python3 "$GUEST_SCRIPTS/calibrate.py")'
CORES='$CORES'
TRANSPORT='$TRANSPORT'
SESSION_SECONDS=$((SECONDS_MAX - SECONDS_MAX / 4))
set -- ${*@Q}
MQTTJS=$MQTTJS
CONF
    pack_job "$tree"
}

[ -x "$BINARY" ] || (cd "$REPOSITORY" && cargo build --release -p ringlane)
prepare_machine
make_job "$@"
boot 8 3072 "$SECONDS_MAX"
