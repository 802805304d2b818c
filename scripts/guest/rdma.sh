#!/usr/bin/env bash
# Three brokers that replicate over RDMA verbs: QEMU guests with soft-RoCE devices (kernel 6.1), which meet
# in a switch of the harness, tests/rdma/scenarios.py. Their etcd is on the host.
#
#   scripts/guest/rdma.sh [SCENARIO...]     default: all of them
#
# Environment:
#   RINGLANE_GUEST_BINARY     the broker, default target/release/ringlane
#   RINGLANE_BENCH            the load tool, default target/release/ringlane-bench
#   RINGLANE_GUEST_SECONDS    bound of the whole run, default 880
# Exit status: 0 passed, 1 failed, 124 not ended in time, 77 cannot run here.
set -euo pipefail
# shellcheck source=scripts/guest/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/guest/machine.sh
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

SECONDS_MAX="${RINGLANE_GUEST_SECONDS:-880}"
SUITE="$REPOSITORY/tests/rdma"
BROKER="${RINGLANE_GUEST_BINARY:-${CARGO_TARGET_DIR:-$REPOSITORY/target}/release/ringlane}"

BENCH="${RINGLANE_BENCH:-${CARGO_TARGET_DIR:-$REPOSITORY/target}/release/ringlane-bench}"

# built PACKAGE_ARGUMENT...: the program that cargo makes of it.
built() {
    (cd "$REPOSITORY" && cargo build --locked -p ringlane-transport-rdma --message-format=json "$@") |
        python3 -c '
import json, sys
for line in sys.stdin:
    program = json.loads(line).get("executable")
    if program:
        print(program)'
}

# Debug information stays behind: the guest is slow at reading.
take() { objcopy --strip-debug "$1" "$RUN/job/$2"; }

make_job() {
    mkdir -p "$RUN/job"
    take "$BROKER" ringlane
    take "$(built --test verbs)" verbs
    cp "$SUITE/job.sh" "$RUN/job/"
    pack_job "$RUN/job"
}

prepare_machine rdma
need_tool objcopy binutils
need_tool debugfs e2fsprogs
command -v etcd >/dev/null || not_run "etcd is missing"
[ -x "$BROKER" ] || die "no broker at $BROKER: build it, or set RINGLANE_GUEST_BINARY"
[ -x "$BENCH" ] || die "no load tool at $BENCH: build it, or set RINGLANE_BENCH"
make_job
timeout --kill-after=10 "$SECONDS_MAX" python3 "$SUITE/scenarios.py" "$IMAGE" "$RUN/job.tar" "$RUN" "$BROKER" "$BENCH" "$@"
