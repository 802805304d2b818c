#!/usr/bin/env bash
# Holds a million idle connections in a QEMU guest, both ends in it, and sums up the memory of the
# broker's side: nothing is timed, because the guest is emulated.
#
#   scripts/guest/million.sh [--subscribe] [CONNECTIONS]     default 1000000
#
# The limits are raised as docs/operations.md tells operators to. The guest has 18 GiB (it touches
# about 11 KB per connection, so 20,000 connections need no more than 1 GiB of the host).
#
# Environment:
#   RINGLANE_GUEST_BINARY     the broker, default target/release/ringlane (built if missing)
#   RINGLANE_GUEST_BENCH      the load tool, default target/release/ringlane-bench (built if missing)
#   RINGLANE_GUEST_TRANSPORT  uring (default) or epoll
#   RINGLANE_GUEST_SECONDS    bound of the whole run, default 7200
# Exit status: 0 held and within the bound, 1 not, 124 not ended in time, 77 cannot run here.
set -euo pipefail
# shellcheck source=scripts/guest/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/guest/machine.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

BUILT="${CARGO_TARGET_DIR:-$REPOSITORY/target}/release"
BINARY="${RINGLANE_GUEST_BINARY:-$BUILT/ringlane}"
BENCH="${RINGLANE_GUEST_BENCH:-$BUILT/ringlane-bench}"
TRANSPORT="${RINGLANE_GUEST_TRANSPORT:-uring}"
SECONDS_MAX="${RINGLANE_GUEST_SECONDS:-7200}"
SUBSCRIBE=()
if [ "${1:-}" = --subscribe ]; then
    SUBSCRIBE=(--subscribe)
    shift
fi
CONNECTIONS="${1:-1000000}"

make_job() {
    local tree="$RUN/job"
    mkdir -p "$tree"
    cp "$BINARY" "$tree/ringlane"
    cp "$BENCH" "$tree/ringlane-bench"
    cp "$GUEST_SCRIPTS/million.py" "$tree/"
    cp "$REPOSITORY/deploy/ringlane-many.sysctl" "$tree/"
    cat >"$tree/job.sh" <<'JOB'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
busybox ip link set lo up
ulimit -n 1048576
JOB
    echo "exec python3 /suite/million.py $TRANSPORT $CONNECTIONS ${SUBSCRIBE[*]}" >>"$tree/job.sh"
    pack_job "$tree"
}

[ -x "$BINARY" ] || (cd "$REPOSITORY" && cargo build --release -p ringlane)
[ -x "$BENCH" ] || (cd "$REPOSITORY" && cargo build --release -p ringlane-bench)
prepare_machine
make_job
boot 2 18432 "$SECONDS_MAX" slab_nomerge
