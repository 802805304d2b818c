#!/usr/bin/env python3
"""How long publishers are without an acknowledgement when the node that leads fails, and whether anything is lost.

    scripts/bench/failover.py [--faults kill,pause,cut,cut-in,cut-out] [--times 20] [--network] [--sessions N]
                              [--subscriptions N] [--log-gb N] [--etcd SECONDS] [--publishers 3] [--dir DIR]
                              [--port 22400] [--binary PROGRAM] [--pause SECONDS]
                              [--results FILE] [--no-bounds]

Three nodes and an etcd by scripts/cluster.sh; with --network each node in a network namespace of its own (scripts/faults/
network.sh), whose line can be cut. Each publisher publishes with QoS 1, one message at a time, and connects to the next
node after 300 ms without an answer. A fault comes --pause seconds (1) after all nodes are in step and have applied what they
have, `--times` of each kind in turn:

    kill      the leader is killed (kill -9), and started again a second later
    pause     it stands still (SIGSTOP) for 4 s, longer than its lease
    cut       its line is cut without a word for 4 s; cut-out: only what it sends is lost, cut-in: only what it is sent

The gap of a fault is the longest time between two acknowledgements of one publisher around it. All are printed, in ms, and added
to the lines of --results, whose faults count: a series that was ended goes on where it was. At
the end etcd is killed for --etcd seconds under load, which the leader must survive. A session that is subscribed all the time
must get every message that was acknowledged, which is looked at after each fault. --sessions with --subscriptions each (of
--filters different ones) and --log-gb of log on each node are put in place first; a directory that has them is used again. Exit status 1 if a message was lost, a gap never ended, or more than
1 in 100 are above 500 ms (kill) or 1,500 ms (the others), unless --no-bounds is said; 77 if there can be no network.
"""
import argparse
import datetime
import json
import os
import pathlib
import signal
import sys
import time

from failover_lab import PATIENCE, ROOT, Cluster, Publisher, Witness
from failover_state import fill
from log_lab import say

BOUND = {"kill": 500, "pause": 1500, "cut": 1500, "cut-in": 1500, "cut-out": 1500}
WAYS = {"cut": "in out", "cut-in": "in", "cut-out": "out"}
CUT = 4


def strike(cluster, fault, pause):
    leader = cluster.wait()
    time.sleep(pause)
    at = time.monotonic()
    if fault in WAYS:
        cluster.line(leader, WAYS[fault], True)
        time.sleep(CUT)
        cluster.line(leader, WAYS[fault], False)
    else:
        cluster.signal(leader, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        if fault == "pause":
            time.sleep(CUT)
            cluster.signal(leader, signal.SIGCONT)
    return leader, at


def gaps(publishers, at):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = [publisher.gap(at) for publisher in publishers]
        if None not in found:
            break
        time.sleep(0.1)
    return found


def judge(fault, found, options):
    """Whether few enough gaps are above the bound; without bounds, whether all have ended."""
    ended = sorted(gap for gap in found if gap is not None)
    late = len(found) - len(ended) + sum(gap > BOUND[fault] for gap in ended)
    middle, longest = (ended[len(ended) // 2], ended[-1]) if ended else (None, None)
    say("all", fault=fault, gaps=len(found), p50=middle, longest=longest, above_bound=late)
    return late * 100 <= len(found) or options.no_bounds and None not in found


def without_etcd(cluster, publishers, seconds):
    """Whether the leader goes on while there is no etcd."""
    leader, at = cluster.wait(), time.monotonic()
    cluster.kill_etcd()
    time.sleep(seconds)
    found = gaps(publishers, at)
    stayed = cluster.leader() == leader
    say("etcd", seconds=seconds, leader_stayed=stayed, gaps_ms=found)
    return stayed and None not in found


class Results:
    """What was found, of this run and of those before it that wrote into the same file."""

    def __init__(self, path):
        self.path, self.rows = path, []
        if path and path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def add(self, row):
        self.rows.append(row)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def count(self, fault):
        return sum(row["fault"] == fault for row in self.rows)

    def gaps(self, fault):
        return [gap for row in self.rows if row["fault"] == fault for gap in row["gaps_ms"]]

    def sum(self, what):
        return sum(row[what] for row in self.rows)


def one(cluster, fault, publishers, witness, results, pause):
    """One fault, and what came of it."""
    leader, at = strike(cluster, fault, pause)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    here = gaps(publishers, at)
    acknowledged, lost = witness.missing(publishers)
    row = {"fault": fault, "number": results.count(fault) + 1, "at": when, "leader": leader + 1, "gaps_ms": here}
    row |= {"acknowledged": acknowledged, "lost": len(lost)}
    results.add(row)
    say(**{"step": "fault", **row}, **({"first": [one.decode() for one in lost[:5]]} if lost else {}))


def measure(cluster, options):
    witness, results = Witness(cluster), Results(options.results)
    if not witness.is_there.wait(PATIENCE):
        sys.exit("nobody is served")
    publishers = [Publisher(cluster, number) for number in range(options.publishers)]
    wanted = {fault: options.times * options.faults.count(fault) for fault in options.faults}
    while left := [fault for fault in options.faults if results.count(fault) < wanted[fault]]:
        for fault in left:
            if results.count(fault) < wanted[fault]:
                one(cluster, fault, publishers, witness, results, options.pause)
    is_well = all([judge(fault, results.gaps(fault), options) for fault in wanted if wanted[fault]])
    if options.etcd:
        is_well &= without_etcd(cluster, publishers, options.etcd)
        cluster.wait()
    for publisher in publishers:
        publisher.is_over = True
        publisher.join()
    acknowledged, missing = witness.missing(publishers)
    acknowledged, lost = acknowledged + results.sum("acknowledged"), len(missing) + results.sum("lost")
    say("ledger", acknowledged=acknowledged, lost=lost, first=[one.decode() for one in missing[:5]])
    return is_well and not lost


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--faults", default="kill", type=lambda value: value.split(","))
    flags.add_argument("--times", type=int, default=20)
    flags.add_argument("--network", action="store_true")
    flags.add_argument("--no-bounds", action="store_true")
    flags.add_argument("--sessions", type=int, default=0)
    flags.add_argument("--subscriptions", type=int, default=10)
    flags.add_argument("--filters", type=int, default=1_000_000)
    flags.add_argument("--log-gb", type=float, default=0)
    flags.add_argument("--etcd", type=int, default=0)
    flags.add_argument("--publishers", type=int, default=3)
    flags.add_argument("--pause", type=float, default=1)
    flags.add_argument("--results", type=pathlib.Path)
    flags.add_argument("--dir", default="/var/tmp/ringlane-failover")
    flags.add_argument("--port", type=int, default=22400)
    flags.add_argument("--binary", help="a broker to start instead of the one that is built")
    options = flags.parse_args()
    options.away = options.etcd
    unknown = set(options.faults) - set(BOUND)
    if unknown or (set(options.faults) & set(WAYS) and not options.network):
        flags.error(f"no such fault: {unknown}" if unknown else "a line is cut with --network alone")
    if options.network and "RINGLANE_FAILOVER_INSIDE" not in os.environ:
        os.environ["RINGLANE_FAILOVER_INSIDE"] = "1"
        network = ROOT / "scripts/faults/network.sh"
        os.execv(network, [network, sys.executable, *sys.argv])
    # Whoever stops it gets no nodes left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster = Cluster(options)
    try:
        cluster.wait()
        fill(cluster, options)
        is_well = measure(cluster, options)
    finally:
        cluster.stop()
    sys.exit(0 if is_well else 1)


main()
