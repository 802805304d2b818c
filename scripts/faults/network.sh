#!/usr/bin/env bash
# Runs a command in a network of its own: a bridge, and network namespaces n1, n2, ... that hang on it, one for each node of
# a cluster, whose lines can be cut. Nothing of the host's network is touched, and all of it is gone when the command ends.
#
#   scripts/faults/network.sh COMMAND...
#
# The command has 10.77.0.254 on the bridge, node N 10.77.0.N behind the line vN - e0. In it:
#
#   ip netns exec nN PROGRAM                           runs a program on node N
#   tc -n nN qdisc replace dev e0 root pfifo limit 0   drops what node N sends, without a word to it or to anybody
#   tc qdisc replace dev vN root pfifo limit 0         drops what is sent to it
#   ... qdisc del dev ... root                         mends the line
#
# RINGLANE_NETWORK_NODES is the number of nodes (3). Status 77: this machine gives no namespaces, or iproute2 is missing.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

NODES="${RINGLANE_NETWORK_NODES:-3}"

make_network() {
    local node
    # What names namespaces, out of sight of the host.
    mount -t tmpfs tmpfs /run
    mkdir /run/netns
    ip link set lo up
    ip link add br0 type bridge
    ip address add 10.77.0.254/24 dev br0
    ip link set br0 up
    for node in $(seq "$NODES"); do
        ip netns add "n$node"
        ip link add "v$node" type veth peer name e0 netns "n$node"
        ip link set "v$node" master br0 up
        ip -n "n$node" address add "10.77.0.$node/24" dev e0
        ip -n "n$node" link set e0 up
        ip -n "n$node" link set lo up
    done
    # Both ways are tried once: a kernel may lack the queue that drops.
    tc -n n1 qdisc replace dev e0 root pfifo limit 0
    tc -n n1 qdisc del dev e0 root
    tc qdisc replace dev v1 root pfifo limit 0
    tc qdisc del dev v1 root
}

if [ "${1:-}" = --inside ]; then
    shift
    make_network || not_run "this machine does not let a network be made"
    exec "$@"
fi
have ip && have tc || install iproute2 || not_run "iproute2 is missing"
own=()
[ "$(id -u)" -eq 0 ] || own=(--user --map-root-user)
unshare "${own[@]}" --net --mount true 2>/dev/null || not_run "this machine gives no network namespaces"
exec unshare "${own[@]}" --net --mount -- "${BASH_SOURCE[0]}" --inside "$@"
