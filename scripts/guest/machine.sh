# shellcheck shell=bash
# The guest as a machine: an image, a directory for the run, a boot to the end, and what came of it.
# Sourced after lib.sh by those who have a job for it.

# prepare_machine [KIND]: sets IMAGE and RUN; RUN goes when the caller ends.
prepare_machine() {
    need_tool qemu-system-x86_64 qemu-system-x86
    need_tool python3 python3
    IMAGE="$("$GUEST_SCRIPTS/build.sh" "${1:-clients}")"
    # What earlier inputs and broken-off runs left behind.
    find "$GUEST_CACHE" -mindepth 1 -maxdepth 1 -mtime +0 ! -path "$IMAGE" -exec rm -rf {} +
    RUN="$(mktemp -d "$GUEST_CACHE/run.XXXXXX")"
    trap 'rm -rf "$RUN"' EXIT
}

# pack_job TREE: the second disk, a tar archive, padded to whole sectors by tar itself.
pack_job() { tar -C "$1" -cf "$RUN/job.tar" .; }

# run_qemu CPUS MEBIBYTES SECONDS PARAMETER...: boots with these kernel parameters besides and waits;
# the guest's console goes to standard output. Returns 124 at the bound.
# no_timer_check: on a busy host the emulated timer ticks too late for the kernel's boot-time test.
run_qemu() {
    timeout --kill-after=5 "$3" qemu-system-x86_64 \
        -machine pc -accel tcg,thread=multi,tb-size=512 -cpu max -smp "$1" -m "$2" \
        -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initramfs.gz" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog no_timer_check tsc=reliable ${*:4}" \
        -drive "file=$IMAGE/root.img,format=raw,if=virtio,readonly=on" \
        -drive "file=$RUN/job.tar,format=raw,if=virtio,readonly=on" \
        -chardev stdio,id=console,signal=off -serial chardev:console \
        -serial "file:$RUN/status" </dev/null | sed -u 's,\r$,,'
}

# boot CPUS MEBIBYTES SECONDS PARAMETER...: the whole run. Returns 0 if the job did, 124 at the bound, else 1.
boot() {
    local code=0 status
    run_qemu "$@" || code="$?"
    status="$(tr -d '\r' 2>/dev/null <"$RUN/status" | awk '$1 == "status" { print $2 }')"
    if [ "$code" -eq 124 ] || [ "$code" -eq 137 ]; then
        say "FAILED: not ended within $3 s"
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
