#!/bin/sh
# What a soft-RoCE guest does: makes its device on eth0, then does what the harness asks over the third
# serial port, one line per command:
#   start ARGUMENT...   the node (rdma_node), with its output on the same port
#   kill                the node, with SIGKILL
#   run PROGRAM ...     a program to its end, output likewise
#   quit                end with status 0
# Every other line goes to the node's standard input.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
control=/dev/ttyS2
# Open until the end: with the last close a terminal forgets what has come and was not read.
exec 4<>"$control"
busybox stty -F "$control" raw -echo
say() { echo "{\"event\":\"$1\",\"detail\":\"$2\"}" >"$control"; }

while read -r module; do busybox insmod "/opt/modules/$module" 2>/dev/null; done </opt/modules/order
node="$(busybox sed -n 's/.*ringlane\.node=\([0-9]*\).*/\1/p' /proc/cmdline)"
ip link set lo up
ip address add "10.77.0.$node/24" dev eth0
ip link set eth0 up
rdma link add rxe0 type rxe netdev eth0 || { say broken "no rxe device"; exit 1; }
busybox mount -t tmpfs tmpfs /dev/shm 2>/dev/null
ulimit -l unlimited
busybox mkfifo /tmp/input
exec 3<>/tmp/input
say booted "$(busybox uname -r)"
child=
while read -r word rest; do
    case "$word" in
    start)
        # shellcheck disable=SC2086 # arguments are words
        /suite/rdma_node $rest <&3 >"$control" 2>/tmp/node.log &
        child=$!
        ;;
    kill)
        kill -9 "$child"
        wait "$child" 2>/dev/null
        say killed "$child"
        ;;
    run)
        # shellcheck disable=SC2086
        RINGLANE_RDMA_REQUIRED=1 /suite/$rest >/tmp/run.log 2>&1
        code=$?
        busybox sed 's/^/| /' /tmp/run.log >"$control"
        say ended "$code"
        ;;
    log) busybox sed 's/^/| /' /tmp/node.log >"$control" ;;
    quit) exit 0 ;;
    *) echo "$word $rest" >&3 ;;
    esac
done <&4
