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

BINARY="${RINGLANE_GUEST_BINARY:-${CARGO_TARGET_DIR:-$REPOSITORY/target}/release/ringlane}"
TRANSPORT="${RINGLANE_GUEST_TRANSPORT:-uring}"
CORES="${RINGLANE_GUEST_CORES:-0,1,2,3}"
SECONDS_MAX="${RINGLANE_GUEST_SECONDS:-600}"
MQTTJS=no
if [ "$#" -eq 0 ]; then
    set -- -m guest
    MQTTJS=yes
fi

# The second disk: a tar archive, padded to whole sectors by tar itself.
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
    tar -C "$tree" -cf "$RUN/job.tar" .
}

# no_timer_check: on a busy host the emulated timer ticks too late for the kernel's boot-time test.
# Boots and waits; the guest's console goes to standard output. Returns 124 at the bound.
boot() {
    timeout --kill-after=5 "$SECONDS_MAX" qemu-system-x86_64 \
        -machine pc -accel tcg,thread=multi,tb-size=512 -cpu max -smp 8 -m 3072 \
        -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initramfs.gz" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog no_timer_check tsc=reliable" \
        -drive "file=$IMAGE/root.img,format=raw,if=virtio,readonly=on" \
        -drive "file=$RUN/job.tar,format=raw,if=virtio,readonly=on" \
        -chardev stdio,id=console,signal=off -serial chardev:console \
        -serial "file:$RUN/status" </dev/null | sed -u 's,\r$,,'
}

report() {
    local code="$1" status
    status="$(tr -d '\r' 2>/dev/null <"$RUN/status" | awk '$1 == "status" { print $2 }')"
    if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
        say "FAILED: not ended within $SECONDS_MAX s"
        return 124
    fi
    if [ -z "$status" ]; then
        say "FAILED: the guest stopped without a status (qemu exited with $code)"
        return 1
    fi
    [ "$status" -eq 0 ] && return 0
    say "FAILED: the job's status is $status"
    return 1
}

need_tool qemu-system-x86_64 qemu-system-x86
need_tool python3 python3
[ -x "$BINARY" ] || (cd "$REPOSITORY" && cargo build --release -p ringlane)
IMAGE="$("$GUEST_SCRIPTS/build.sh")"
# What earlier inputs and broken-off runs left behind.
find "$GUEST_CACHE" -mindepth 1 -maxdepth 1 -mtime +0 ! -path "$IMAGE" -exec rm -rf {} +
RUN="$(mktemp -d "$GUEST_CACHE/run.XXXXXX")"
trap 'rm -rf "$RUN"' EXIT
make_job "$@"
code=0
boot || code="${PIPESTATUS[0]}"
report "$code"
