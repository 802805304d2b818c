#!/usr/bin/env bash
# A cluster of three nodes on this machine, to be tried: etcd and three brokers, whose data stay below one directory.
#
#   scripts/cluster.sh                builds, starts everything, says how to use it; Ctrl-C ends it
#   scripts/cluster.sh kill-leader    kill -9 of the node that leads; it is started again after some seconds
#   scripts/cluster.sh status         who leads, and how far the others are
#
# MQTT is on 127.0.0.1:1883, 1884 and 1885; RINGLANE_CLUSTER_PORT is another first port, and those up to 31 above it are
# used as well. Data are in $XDG_DATA_HOME/ringlane-cluster, or in RINGLANE_CLUSTER_DIR. RINGLANE_PROGRAM is a broker to
# start instead of the one that is built. A killed node comes back after RINGLANE_CLUSTER_AWAY seconds (5), etcd after
# RINGLANE_CLUSTER_ETCD_AWAY (0). With RINGLANE_CLUSTER_NETWORK=1, inside scripts/faults/network.sh, each node has a
# network namespace and an address of its own. RINGLANE_CLUSTER_RETENTION is how much log the nodes keep (10GiB).
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

NODES="1 2 3"
DIR="${RINGLANE_CLUSTER_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/ringlane-cluster}"
PORT="${RINGLANE_CLUSTER_PORT:-1883}"
PROGRAM="${RINGLANE_PROGRAM:-$TARGET/release/ringlane}"
AWAY="${RINGLANE_CLUSTER_AWAY:-5}"
ETCD_AWAY="${RINGLANE_CLUSTER_ETCD_AWAY:-0}"
NETWORK="${RINGLANE_CLUSTER_NETWORK:-}"
RETENTION="${RINGLANE_CLUSTER_RETENTION:-10GiB}"
# Seconds that what ends in order has.
END=20

mqtt_port() { echo $((PORT + $1 - 1)); }
control_port() { echo $((PORT + 9 + $1)); }
replication_port() { echo $((PORT + 19 + $1)); }
etcd_port() { echo $((PORT + 30)); }
etcd_peer_port() { echo $((PORT + 31)); }

# Where a node is, where etcd is, and what starts a program where a node is.
host() { [ -n "$NETWORK" ] && echo "10.77.0.$1" || echo 127.0.0.1; }
etcd_host() { [ -n "$NETWORK" ] && echo 10.77.0.254 || echo 127.0.0.1; }
place() { [ -z "$NETWORK" ] || echo "ip netns exec n$1"; }

configuration() { echo "$DIR/n$1/ringlane.toml"; }

# The CPUs that this process may use, one a line.
cpus() {
    local list range
    list="$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)"
    for range in ${list//,/ }; do seq "${range%-*}" "${range#*-}"; done
}

write_configuration() {
    local node="$1" other all
    mapfile -t all < <(cpus)
    mkdir -p "$DIR/n$node"
    {
        cat <<TOML
data_dir = "$DIR/n$node/data"

[runtime]
cores = [${all[$(((node - 1) % ${#all[@]}))]}]
partitions = 4
idle = "park"

[listeners.tcp]
bind = "$(host "$node"):$(mqtt_port "$node")"

[listeners.websocket]
enabled = false

[control]
bind = "$(host "$node"):$(control_port "$node")"

[commit_log]
segment_size = "8MiB"

[[stream]]
name = "default"
retention_size = "$RETENTION"

[cluster]
name = "try"
node = $node

[cluster.etcd]
endpoints = ["http://$(etcd_host):$(etcd_port)"]
TOML
        for other in $NODES; do
            printf '\n[[cluster.members]]\nnode = %s\nname = "n%s"\naddress = "%s:%s"\n' \
                "$other" "$other" "$(host "$other")" "$(replication_port "$other")"
            printf 'advertised_address = "%s:%s"\n' "$(host "$other")" "$(mqtt_port "$other")"
        done
    } >"$(configuration "$node")"
}

# start NAME COMMAND...: in a session of its own, so that Ctrl-C reaches this script alone.
start() {
    local name="$1"
    shift
    mkdir -p "$DIR/$name"
    setsid "$@" >>"$DIR/$name/log" 2>&1 </dev/null &
    echo "$!" >"$DIR/$name/pid"
    # Its end is told by this script, not by the shell.
    disown "$!"
}

start_etcd() {
    local client peer
    client="http://$(etcd_host):$(etcd_port)" peer="http://127.0.0.1:$(etcd_peer_port)"
    start etcd etcd --data-dir "$DIR/etcd/data" \
        --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
        --initial-cluster "default=$peer"
    for _ in $(seq 100); do
        answers "$(etcd_host):$(etcd_port)" health && return
        runs etcd || break
        sleep 0.1
    done
    tail -n 5 "$DIR/etcd/log" >&2
    die "etcd does not start; see $DIR/etcd/log"
}

# shellcheck disable=SC2046 # the place is several words, or none
start_node() { start "n$1" $(place "$1") "$PROGRAM" serve -c "$(configuration "$1")"; }

# answers ADDRESS PATH: whether a GET there gets status 200.
answers() { curl -sf --max-time 1 -o /dev/null "http://$1/$2"; }

pid() { cat "$DIR/$1/pid" 2>/dev/null; }

runs() { [ -n "$(pid "$1")" ] && kill -0 "$(pid "$1")" 2>/dev/null; }

# The number of the node that leads and takes clients; nothing if there is none.
leader() {
    local node
    for node in $NODES; do
        if runs "n$node" && curl -sf --max-time 1 "http://$(host "$node"):$(control_port "$node")/readyz" 2>/dev/null |
            grep -q 'this node.* leads'; then
            echo "$node"
            return
        fi
    done
}

wait_for_leader() {
    local node
    for _ in $(seq 300); do
        node="$(leader)"
        [ -z "$node" ] || return 0
        for node in $NODES; do
            runs "n$node" || { tail -n 5 "$DIR/n$node/log" >&2 && die "node $node has ended; see $DIR/n$node/log"; }
        done
        sleep 0.1
    done
    die "nobody leads; see $DIR/n1/log"
}

hints() {
    local a b c again
    a="$(mqtt_port 1)" b="$(mqtt_port 2)" c="$(mqtt_port 3)"
    again="$(dirname "${BASH_SOURCE[0]}")/cluster.sh"
    [ -z "${RINGLANE_CLUSTER_DIR:-}" ] || again="RINGLANE_CLUSTER_DIR=$DIR $again"
    [ -z "${RINGLANE_CLUSTER_PORT:-}" ] || again="RINGLANE_CLUSTER_PORT=$PORT $again"
    cat <<TEXT

Node $(leader) leads. Clients connect to any node: MQTT on 127.0.0.1, ports $a, $b and $c.

Subscribe in a second terminal, with a session that is kept (package mosquitto-clients):

    mosquitto_sub -p $b -V 5 -q 1 -i me -c -x 3600 -t 'demo/#' -v

Publish in a third one; what is not acknowledged is published again, at the next node:

    for i in \$(seq 1 200); do
        until for p in $a $b $c; do mosquitto_pub -p \$p -q 1 -t demo/n -m \$i && break; done; do sleep 0.1; done
    done

Kill the node that leads while that runs. Another one takes over, and every number comes:

    $again kill-leader

Who leads, and how far the others are:

    $again status

Ctrl-C ends everything. What the nodes have is kept in $DIR.

TEXT
}

start_etcd_later() {
    (sleep "$ETCD_AWAY") &
    wait "$!" || true
    start_etcd
}

# Says what becomes of the nodes, and starts again what has ended.
watch_over() {
    local node before now
    before="$(leader)"
    while sleep 0.5; do
        for node in $NODES; do
            runs "n$node" && continue
            say "node $node has ended; it is started again in $AWAY s"
            (sleep "$AWAY") &
            wait "$!" || true
            start_node "$node"
            say "node $node is started again"
        done
        runs etcd || { say "etcd has ended; it is started again in $ETCD_AWAY s" && start_etcd_later; }
        now="$(leader)"
        [ -z "$now" ] || [ "$now" = "$before" ] || say "node $now leads now"
        before="${now:-$before}"
    done
}

stop() {
    trap - EXIT INT TERM
    local node name
    say "ending"
    for node in $NODES; do
        runs "n$node" && kill -TERM "$(pid "n$node")"
    done
    for _ in $(seq $((END * 10))); do
        for node in $NODES; do runs "n$node" && sleep 0.1 && continue 2; done
        break
    done
    for name in n1 n2 n3 etcd; do
        runs "$name" && kill -KILL "$(pid "$name")"
        rm -f "$DIR/$name/pid"
    done
    exit "${1:-0}"
}

serve() {
    local node
    [ -n "${RINGLANE_PROGRAM:-}" ] || need_ringlane
    want_verbs
    need_etcd || die "etcd is missing and cannot be fetched: install it (Debian: etcd-server)"
    have curl || install curl || die "curl is missing"
    mkdir -p "$DIR"
    exec 9>"$DIR/lock"
    flock -n 9 || die "a cluster runs in $DIR already"
    trap 'stop $?' EXIT
    trap 'stop 0' INT TERM
    start_etcd 9>&-
    for node in $NODES; do
        write_configuration "$node"
        start_node "$node" 9>&-
    done
    wait_for_leader
    hints
    watch_over 9>&-
}

kill_leader() {
    local node
    node="$(leader)"
    [ -n "$node" ] || die "nobody leads in $DIR; is the cluster running?"
    say "kill -9 of node $node"
    kill -KILL "$(pid "n$node")"
}

case "${1:-start}" in
start) serve ;;
kill-leader) kill_leader ;;
status) exec "$PROGRAM" cluster status -c "$(configuration 1)" ;;
*) die "no command \"$1\": start, kill-leader or status" ;;
esac
