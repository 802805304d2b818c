#!/usr/bin/env bash
# Holds ringlane-bench's figures for Mosquitto against those of other load generators: mosquitto_pub
# (libmosquitto) and mqtt-benchmark (crates.io, on rumqttc and tokio). Clients publish with QoS 1 and 2
# as fast as acknowledgements allow, and nobody subscribes: what the broker's CPU does for a message
# and its acknowledgements is then the same whoever sends. Interleaved rounds; broker on CPU 0,
# generator on CPU 1.
#
#   scripts/bench/second-opinion.sh
#
# Environment: ROUNDS (5), PUBLISHERS (10), MESSAGES of each (5000), PORT (18840), MQTT_BENCHMARK: path
# of the program (`cargo install mqtt-benchmark --version 0.2.4`); without it the other two are compared.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

ROUNDS="${ROUNDS:-5}"
PUBLISHERS="${PUBLISHERS:-10}"
MESSAGES="${MESSAGES:-5000}"
PORT="${PORT:-18840}"
MQTT_BENCHMARK="${MQTT_BENCHMARK:-$(command -v mqtt-benchmark || true)}"
BENCH="$TARGET/release/ringlane-bench"
PAYLOAD="$(printf 'Z%.0s' $(seq 64))"
# What libmosquitto has in flight.
WINDOW=20
MOSQUITTO="$(PATH="$PATH:/usr/sbin" command -v mosquitto)" || not_run "mosquitto is not installed"
have mosquitto_pub || not_run "mosquitto_pub is not installed"
[ -x "$BENCH" ] || die "build first: cargo build --release -p ringlane-bench"

DIR="$(mktemp -d)"
cat >"$DIR/mosquitto.conf" <<CONFIG
listener $PORT 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_inflight_messages 0
max_queued_messages 0
sys_interval 0
log_dest none
log_type none
CONFIG
taskset -c 0 "$MOSQUITTO" -c "$DIR/mosquitto.conf" >/dev/null 2>&1 &
BROKER=$!
trap 'kill "$BROKER" 2>/dev/null; rm -rf "$DIR"' EXIT
yes "$PAYLOAD" | head -n "$MESSAGES" >"$DIR/lines" || true
sleep 0.5

bench() {
    taskset -c 1 "$BENCH" publish-ack -p "$PORT" -c "$PUBLISHERS" -q "$1" -W "$WINDOW" -n "$MESSAGES" >"$DIR/out" ||
        die "ringlane-bench failed: $(cat "$DIR/out")"
}

mosquitto_pubs() {
    local number pids=()
    for number in $(seq "$PUBLISHERS"); do
        taskset -c 1 mosquitto_pub -p "$PORT" -t "bench/$number" -q "$1" -l <"$DIR/lines" &
        pids+=($!)
    done
    wait "${pids[@]}"
}

mqtt_benchmark() {
    taskset -c 1 "$MQTT_BENCHMARK" -b "127.0.0.1:$PORT" -t bench -q "$1" -P "$PAYLOAD" -C "$PUBLISHERS" \
        -s "$MESSAGES" >"$DIR/out" 2>&1 || die "mqtt-benchmark failed: $(tail -1 "$DIR/out")"
}

# CPU time of the broker in nanoseconds.
broker_ns() { cat "/proc/$BROKER"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'; }

# Runs a generator; prints messages per second and microseconds of broker CPU per message. All three are
# measured in the same way, from the outside: with the connections and the start of the program.
measure() {
    local before started all=$((PUBLISHERS * MESSAGES))
    before="$(broker_ns)"
    started="$(date +%s%N)"
    "$1" "$2"
    awk -v ns="$(($(date +%s%N) - started))" -v cpu="$(($(broker_ns) - before))" -v n="$all" \
        'BEGIN { printf "%.0f %.3f\n", n * 1e9 / ns, cpu / n / 1000 }'
}

generators=(bench mosquitto_pubs)
[ -z "$MQTT_BENCHMARK" ] || generators+=(mqtt_benchmark)
echo "qos round generator messages/s us/message"
for round in $(seq "$ROUNDS"); do
    for qos in 1 2; do
        for generator in "${generators[@]}"; do
            echo "$qos $round $generator $(measure "$generator" "$qos")" | tee -a "$DIR/all"
        done
    done
done
python3 - "$DIR/all" <<'TABLE'
import statistics, sys
rows = [line.split() for line in open(sys.argv[1], encoding="ascii")]
for qos in sorted({row[0] for row in rows}):
    cost = {}
    for row in rows:
        if row[0] == qos:
            cost.setdefault(row[2], []).append(float(row[4]))
    for name, values in cost.items():
        ratios = [ours / other for ours, other in zip(cost["bench"], values)]
        print(f"QoS {qos} {name}: median {statistics.median(values):.2f} us per message "
              f"({min(values):.2f} to {max(values):.2f})")
        if name != "bench":
            print(f"QoS {qos} bench/{name}: median {statistics.median(ratios):.3f} "
                  f"({min(ratios):.3f} to {max(ratios):.3f})")
TABLE
