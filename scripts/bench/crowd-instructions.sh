#!/usr/bin/env bash
# Counts the instructions that Ringlane spends on a message (user space), with callgrind: from few and
# from many publishers, and among few and many subscriptions that do not match.
#
#   scripts/bench/crowd-instructions.sh [publishers|subscriptions]...      both without an argument
#
# Only measured windows are counted: the tool tells this script (as its --hook) when one begins and
# ends. In a window ten messages come at once, again and again. Tool and broker share one CPU, and the
# tool goes first (chrt, which root may use): all ten are there when the broker's turn begins, so that
# turns are alike and their number does not depend on the speed of the tool. The broker uses the epoll
# driver, which valgrind knows.
#
# Environment: MESSAGES of a window (20000), PORT (18830), EXACT and WILDCARD subscriptions (1000000
# and 100000), PUBLISHERS (10,10000), TOP: lines of the profile that is printed for each window (0).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

MESSAGES="${MESSAGES:-20000}"
PORT="${PORT:-18830}"
EXACT="${EXACT:-1000000}"
WILDCARD="${WILDCARD:-100000}"
PUBLISHERS="${PUBLISHERS:-10,10000}"
TOP="${TOP:-0}"
RINGLANE="$TARGET/release/ringlane"
BENCH="$TARGET/release/ringlane-bench"

# As the tool's hook: switches the counting on, or writes down what was counted and switches it off.
if [ "${INSTRUCTIONS_PID:-}" ]; then
    case "$1" in
        start)
            callgrind_control --instr=on "$INSTRUCTIONS_PID" >/dev/null
            callgrind_control --zero "$INSTRUCTIONS_PID" >/dev/null
            ;;
        end)
            callgrind_control --dump="$2" "$INSTRUCTIONS_PID" >/dev/null
            callgrind_control --instr=off "$INSTRUCTIONS_PID" >/dev/null
            ;;
    esac
    exit 0
fi

have callgrind_control || not_run "valgrind is not installed"
if [ ! -x "$RINGLANE" ] || [ ! -x "$BENCH" ]; then
    die "build first: cargo build --release -p ringlane -p ringlane-bench"
fi
DIR="$(mktemp -d)"
BROKER=
stop() {
    [ -z "$BROKER" ] || kill "$BROKER" 2>/dev/null || true
    [ -z "$BROKER" ] || wait "$BROKER" 2>/dev/null || true
    BROKER=
}
trap 'stop; rm -rf "$DIR"' EXIT

# Starts the broker under callgrind, counting nothing yet.
start() {
    rm -f "$DIR"/callgrind.*
    RINGLANE_RUNTIME__IDLE=park RINGLANE_CONTROL__ENABLED=false RINGLANE_SYS__ENABLED=false \
        RINGLANE_LISTENERS__WEBSOCKET__ENABLED=false \
        valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file="$DIR/callgrind.out" \
        "$RINGLANE" serve -p "$PORT" --cores 0 --transport epoll --data-dir "$DIR/data" \
        >"$DIR/log" 2>&1 &
    BROKER=$!
    for _ in $(seq 300); do
        (: >"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && return
        sleep 0.2
    done
    cat "$DIR/log" >&2
    die "the broker did not start under valgrind"
}

# Prints instructions per message of each window.
print_windows() {
    local file name total
    for file in $(printf '%s\n' "$DIR"/callgrind.out.* | sort -V); do
        name="$(awk '/^desc: Trigger:/ { print $NF; exit }' "$file")"
        total="$(awk '/^(totals|summary):/ { print $2; exit }' "$file")"
        [[ "$name" =~ ^[0-9]+- ]] || continue
        printf '%-32s %10.1f instructions per message\n' "$name" \
            "$(awk -v total="$total" -v n="$MESSAGES" 'BEGIN { print total / n }')"
        [ "$TOP" = 0 ] ||
            callgrind_annotate "$file" | awk -v top="$TOP" '/^ *[0-9,]+ \(/ && n++ < top'
    done
}

FIRST=()
if chrt --fifo 1 true 2>/dev/null; then
    FIRST=(chrt --fifo 1)
else
    say "no right to use chrt: turns of the broker will differ, and counts with them"
fi

measure() {
    start
    INSTRUCTIONS_PID="$BROKER" "${FIRST[@]}" "$BENCH" "$@" --cpu 0 -p "$PORT" -n "$MESSAGES" -W 10 --lockstep \
        --patience 300 --hook "${BASH_SOURCE[0]}" >"$DIR/report" 2>&1 || { cat "$DIR/report" >&2; die "$1 failed"; }
    print_windows
    stop
}

[ $# -gt 0 ] || set -- publishers subscriptions
for what in "$@"; do
    case "$what" in
        publishers) measure publishers -c "$PUBLISHERS" ;;
        subscriptions) measure wildcards --exact "$EXACT" --wildcard "$WILDCARD" ;;
        *) die "publishers or subscriptions, not $what" ;;
    esac
done
