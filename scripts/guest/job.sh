#!/bin/sh
# What the guest does: shows which kernel and which transport it is about, runs the client suite on
# io_uring with the broker on several cores, and exits with 1 if anything failed.
# /suite holds the repository's layout: target/release/ringlane, tests/clients, and job.conf with
#   REFERENCE   seconds that calibrate.py took on the host
#   CORES       cores of the broker, e.g. 0,1,2,3
#   TRANSPORT   uring or epoll
#   SESSION_SECONDS  after which pytest starts no further test
#   MQTTJS      yes if MQTT.js runs, too
# and it sets the positional parameters to what pytest is given besides the transport and the cores.
. /suite/job.conf
export HOME=/tmp PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/opt/python LC_ALL=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 TERM=dumb NO_COLOR=1
BROKER="${RINGLANE_TEST_BROKER:-/suite/target/release/ringlane}"
failed=0

say() { echo "guest: $*"; }

# step NAME COMMAND...: runs one part of the job, remembers a failure, prints the time it took.
step() {
    name="$1"
    shift
    started="$(date +%s)"
    if "$@"; then result=passed; else result="FAILED with $?"; failed=1; fi
    say "$name: $result in $(($(date +%s) - started)) s"
}

measure_factor() {
    seconds="$(python3 /suite/calibrate.py)"
    # At most 10: the suite's bounds are generous, and a failing test should not use up the run.
    RINGLANE_TEST_TIME_FACTOR="$(python3 -c "print(min(10, max(2, round($seconds / $REFERENCE))))")"
    export RINGLANE_TEST_TIME_FACTOR
    say "calibration: $seconds s here, $REFERENCE s on the host: time-outs times $RINGLANE_TEST_TIME_FACTOR"
}

# The broker chooses by itself here; the start-up lines must say that it chose io_uring, and why.
show_transport() {
    timeout -s TERM "$((5 * RINGLANE_TEST_TIME_FACTOR))" "$BROKER" serve --transport auto \
        --cores "$CORES" -p 1883 --data-dir /tmp/show >/tmp/show.log 2>&1 &
    broker=$!
    tries=0
    until mosquitto_pub -h 127.0.0.1 -p 1883 -t probe -n >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 100 ] || ! kill -0 "$broker"; then break; fi
        sleep 0.2
    done
    kill -TERM "$broker"
    wait "$broker"
    cat /tmp/show.log
    grep -q 'io_uring' /tmp/show.log && ! grep -q 'transport[^ ]* *[=:]* *"*epoll' /tmp/show.log
}

run_pytest() {
    cd /suite/tests/clients || return 1
    # A test that hangs fails alone (by signal, not by ending the process), and a suite that gets too
    # slow ends with pytest's summary before run.sh ends the machine.
    python3 -m pytest -q --tb=short --color=no -p no:cacheprovider --session-timeout="$SESSION_SECONDS" \
        -o timeout="$((12 * RINGLANE_TEST_TIME_FACTOR))" -o timeout_method=signal \
        --transport "$TRANSPORT" --cores "$CORES" --durations=5 "$@"
}

run_mqttjs() {
    ln -s /opt/mqttjs/node_modules /suite/tests/clients/mqttjs/node_modules
    cd /suite/tests/clients/mqttjs || return 1
    RINGLANE_TEST_TRANSPORT="$TRANSPORT" RINGLANE_TEST_CORES="$CORES" \
        node --test --test-reporter=spec
}

cd /tmp || exit 125
busybox ip link set lo up
ulimit -n 65536
busybox mount -t devpts devpts /dev/pts 2>/dev/null
busybox mkdir -p /dev/shm && busybox mount -t tmpfs tmpfs /dev/shm
say "$(uname -sr), $(nproc) virtual CPUs, up after $(cut -d' ' -f1 /proc/uptime) s," \
    "clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
measure_factor
case "$BROKER" in
*/ringlane)
    step doctor "$BROKER" doctor
    [ "$TRANSPORT" = epoll ] || step transport show_transport
    ;;
esac
step pytest run_pytest "$@"
if [ "$MQTTJS" = yes ]; then step mqttjs run_mqttjs; fi
exit "$failed"
