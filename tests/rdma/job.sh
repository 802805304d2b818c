#!/bin/sh
# What a soft-RoCE guest does: makes its device on eth0, mounts its disk, then does what the harness asks over
# the third serial port, one line per command:
#   write NAME BASE64   a file on the disk
#   start               the node (ringlane serve), with /data/ringlane.toml
#   kill                the node, with SIGKILL
#   end                 the same, and the disk is unmounted
#   run PROGRAM ...     a program of the job to its end; its output comes on the same port
#   do COMMAND ...      the same with a command of the guest
#   begin COMMAND ...   the same, without waiting for its end
#   doctor PATTERN      what doctor says of these things, with the node's configuration
#   cpu                 CPU time of the node's process in hundredths of a second
#   log [PATTERN]       the last lines of what the node has logged, and how its process has ended, if it has
#   quit                end with status 0
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
control=/dev/ttyS2
# Open until the end: with the last close a terminal forgets what has come and was not read.
exec 4<>"$control"
busybox stty -F "$control" raw -echo
say() { echo "{\"event\":\"$1\",\"detail\":\"$2\"}" >"$control"; }
show() { busybox sed 's/^/| /' >"$control"; }

# The exit status of the node's process, and what the kernel says of it, such as a segmentation fault.
how_it_ended() {
    wait "$child" 2>/dev/null
    echo "the process has ended with $?" | show
    busybox dmesg | busybox tail -n 12 | show
}
# run COMMAND: to its end, then what it printed.
run() {
    # shellcheck disable=SC2086
    RINGLANE_RDMA_REQUIRED=1 $1 >/tmp/run.log 2>&1
    code=$?
    show </tmp/run.log
    say ran "$code"
}

while read -r module; do busybox insmod "/opt/modules/$module" 2>/dev/null; done </opt/modules/order
node="$(busybox sed -n 's/.*ringlane\.node=\([0-9]*\).*/\1/p' /proc/cmdline)"
ip link set lo up
ip address add "10.77.0.$node/24" dev eth0
ip link set eth0 up
# QEMU's user network: the host is 10.0.2.2.
ip address add 10.0.2.15/24 dev eth1
ip link set eth1 up
rdma link add rxe0 type rxe netdev eth0 || { say broken "no rxe device"; exit 1; }
busybox mount -t tmpfs tmpfs /dev/shm 2>/dev/null
busybox mkdir -p /run/data
busybox mount -t ext4 -o noatime /dev/vdc /run/data || { say broken "no disk"; exit 1; }
ulimit -l unlimited
ulimit -n 4096
say booted "$(busybox uname -r)"
child=
while read -r word rest; do
    case "$word" in
    write)
        echo "${rest#* }" | busybox base64 -d >"/run/data/${rest%% *}"
        say written "${rest%% *}"
        ;;
    start)
        /suite/ringlane serve -c /run/data/ringlane.toml >>/run/data/node.log 2>&1 &
        child=$!
        say started "$child"
        ;;
    kill)
        kill -9 "$child"
        wait "$child" 2>/dev/null
        say killed "$child"
        child=
        ;;
    end)
        kill -9 "$child"
        wait "$child" 2>/dev/null
        child=
        busybox umount /run/data
        say ended "$?"
        ;;
    run) run "/suite/$rest" ;;
    do) run "$rest" ;;
    begin)
        $rest >/dev/null 2>&1 &
        say begun "$!"
        ;;
    doctor)
        /suite/ringlane doctor -c /run/data/ringlane.toml >/tmp/doctor.log 2>&1
        code=$?
        busybox grep -E "$rest" /tmp/doctor.log | show
        say examined "$code"
        ;;
    cpu) say cpu "$(busybox sed 's/.*) //' "/proc/$child/stat" | busybox awk '{ print $12 + $13 }')" ;;
    log)
        if [ -n "$rest" ]; then busybox grep -E "$rest" /run/data/node.log; else busybox cat /run/data/node.log; fi |
            busybox tail -n 30 | show
        [ -z "$child" ] || kill -0 "$child" 2>/dev/null || how_it_ended
        say logged "$?"
        ;;
    quit) exit 0 ;;
    esac
done <&4
