"""Real brokers that replicate over real verbs between three guests: what becomes of acknowledged messages when
nodes, links and time fail.

    scenarios.py IMAGE JOB DIRECTORY RINGLANE [SCENARIO...]      made and called by scripts/guest/rdma.sh

RINGLANE is a broker of this host, which reads the logs in the end. Each scenario begins where the last one
ended, as a cluster's days do.
"""

import signal
import sys
import time
from pathlib import Path

from logs import check_logs
from machines import NODES, Failure, Machines, check, say
from nodes import Cluster
from publisher import Load

MESSAGES = 100_000
#: What has to be acknowledged after each fault.
MORE = 200
#: Messages a second and publisher meanwhile: no more than slow guests can make up for.
RATE = 25


class Story:
    """The cluster's life so far."""

    def __init__(self, machines, program, directory):
        self.machines = machines
        self.program = program
        self.directory = directory
        self.cluster = Cluster(machines, directory)
        self.leader = None
        self.loads = []
        self.load = None

    def patience(self, seconds):
        """Seconds, by the factor of this machine."""
        return seconds * self.machines.factor

    def begin_load(self):
        """Publishers for the faults: they begin at a node that follows."""
        first = next(node for node in NODES if node != self.leader)
        ports = [self.cluster.mqtt_port(node) for node in (first, *[n for n in NODES if n != first])]
        self.load = Load("fault", 4, ports, 20, self.patience(2), RATE)
        self.loads.append(self.load)

    def gets_on(self):
        """More messages are acknowledged."""
        self.load.wait_more(MORE, self.patience(30))

    def others(self, *without):
        """All nodes but these."""
        return [node for node in NODES if node not in without]

    def next_leader(self, old):
        """Another node leads."""
        self.leader = self.cluster.wait_leader(self.others(old), 30)

    def publishers(self):
        """All that ever published."""
        return [publisher for load in self.loads for publisher in load.publishers]


def verbs(story):
    """The tests of one process, both ends on one device."""
    ended = story.machines.ask(1, "run verbs --test-threads=1 --nocapture", "ran", 60)
    check(ended["detail"] == "0", f"the tests of verbs ended with {ended['detail']}")


def tcp(story):
    """The same messages over TCP, for the counts of both beside each other."""
    cluster = story.cluster
    begin(cluster, "tcp")
    publish_counted(story, "tcp", None)
    # The leader last, so that nobody follows it.
    for node in (*story.others(story.leader), story.leader):
        cluster.kill(node)


def replicate(story):
    """100,000 messages of QoS 1: each is acknowledged once a majority has it on disk, over RDMA, with no copy of records on
    the leader, and one on each follower."""
    begin(story.cluster, "rdma")
    publish_counted(story, "first", check_copies)


def begin(cluster, transport):
    """Starts all nodes."""
    for node in NODES:
        cluster.configure(node, transport)
        cluster.start(node)


def publish_counted(story, name, check_grown):
    """The messages, and what they cost the nodes."""
    cluster = story.cluster
    leader = story.leader = cluster.wait_leader(seconds=30)
    load = Load(name, 4, [cluster.mqtt_port(leader)], 500, story.patience(60))
    story.loads.append(load)
    before = {node: cluster.metrics(node) for node in NODES}
    started = time.monotonic()
    load.publish(MESSAGES, story.patience(120))
    seconds = time.monotonic() - started
    for node in story.others(leader):
        cluster.wait_caught_up(node)
    say(f"{name}: {MESSAGES} messages of 256 B in {seconds:.1f} s, acknowledged by a majority's disks")
    for node in (leader, *story.others(leader)):
        after = cluster.metrics(node)
        grown = {count: after[count] - before[node][count] for count in after if count in before[node]}
        report_counters(node, node == leader, grown)
        if check_grown:
            check_grown(node, node == leader, grown)
    load.finish(story.patience(10))


#: What is shown of a node besides what its links over RDMA count.
SHOWN = ["link_sends_total", "link_sent_bytes_total", "link_received_messages_total", "link_received_bytes_total",
         "link_moved_bytes_total", "system_calls_total", "completions_total", "core_turns_total"]


def report_counters(node, leads, grown):
    """What the node's links, and all that it does, have cost per 1,000 messages."""
    shown = [name for name in grown if name.startswith("rdma_") or name in SHOWN]
    per = {name.removesuffix("_total"): round(grown[name] * 1000 / MESSAGES, 1) for name in shown}
    say(f"node {node}, {'leader' if leads else 'follower'}, per 1,000 messages: {per}")


def check_copies(node, leads, grown):
    """A leader copies no record for replication. A follower copies each once, out of the ring into the batch of its log; all
    else that it copies are heads."""
    moved = grown["rdma_sent_bytes_total" if leads else "rdma_received_bytes_total"]
    followers = 2 if leads else 1
    check(moved > followers * MESSAGES * 256, f"node {node} has moved {moved} bytes over RDMA")
    copied, again = grown["rdma_copied_bodies_bytes_total"], grown["rdma_assembled_bytes_total"]
    check(copied == 0, f"node {node} has copied {copied} bytes of records before it sent them")
    check(again == 0, f"node {node} has copied {again} bytes of records twice")


def cut(story, name, ways):
    """A cut that one follower is behind: a majority gets on; after it the follower has all."""
    lost = story.others(story.leader)[-1]
    for source, target in ways(story.leader, lost):
        story.machines.switch.cut_one_way(source, target)
    story.gets_on()
    time.sleep(story.patience(0.5))
    story.gets_on()
    story.machines.switch.heal()
    story.leader = story.cluster.wait_leader()
    story.cluster.wait_caught_up(lost if lost != story.leader else story.others(lost)[0], 40)
    say(f"{name}: node {lost} was behind it")


def cut_out(story):
    """Nothing gets from the leader to a follower."""
    cut(story, "one way, leader to follower", lambda leader, lost: [(leader, lost)])


def cut_in(story):
    """Nothing gets from a follower to the leader."""
    cut(story, "one way, follower to leader", lambda leader, lost: [(lost, leader)])


def cut_off(story):
    """Nothing gets through between the leader and both others: one of them leads, and the old leader follows it."""
    old = story.leader
    for node in story.others(old):
        story.machines.switch.cut_both_ways(old, node)
    story.next_leader(old)
    story.gets_on()
    story.machines.switch.heal()
    story.cluster.wait_follows(old)
    story.cluster.wait_caught_up(old, 40)


def kill_process(story):
    """kill -9 of the leader: another one leads, and it comes back as a follower."""
    old = story.leader
    story.cluster.kill(old)
    story.next_leader(old)
    story.gets_on()
    story.cluster.start(old)
    story.cluster.wait_caught_up(old, 40)


def pause(story):
    """The leader stands still for longer than its lease and comes back: nothing of its epoch counts any more."""
    old = story.leader
    story.machines.guests[old].qmp("stop")
    paused = time.monotonic()
    story.next_leader(old)
    story.gets_on()
    lease = max(3, story.machines.factor)
    time.sleep(max(0.0, lease + 1 - (time.monotonic() - paused)))
    story.machines.guests[old].qmp("cont")
    story.gets_on()
    story.cluster.wait_follows(old)
    story.leader = story.cluster.wait_leader(story.others(old))
    story.cluster.wait_caught_up(old, 40)


def kill_guest(story):
    """The leader's whole machine is gone, without a word; it comes back with its disk."""
    old = story.leader
    story.machines.guests[old].kill()
    story.cluster.running.discard(old)
    story.next_leader(old)
    story.gets_on()
    story.machines.boot_again(old)
    story.cluster.start(old)
    story.cluster.wait_caught_up(old, 40)


def ledger(story):
    """In the end nothing that was acknowledged is missing anywhere, and nothing of an old epoch was taken in."""
    for load in story.loads:
        load.finish(story.patience(20))
    leader = story.leader = story.cluster.wait_leader()
    for node in story.others(leader):
        story.cluster.wait_caught_up(node, 40)
    story.cluster.kill_all()
    check_logs(story.program, story.machines, story.directory, story.publishers())
    longest = max(publisher.longest_gap for publisher in story.publishers())
    say(f"longest time without an acknowledgement: {longest:.1f} s (time-outs times {story.machines.factor})")


FAULTS = [cut_out, cut_in, cut_off, kill_process, pause, kill_guest]
SCENARIOS = [verbs, tcp, replicate, *FAULTS, ledger]


def tell(story, chosen):
    """All scenarios, or those that were chosen; the cluster is begun in any case."""
    for scenario in SCENARIOS:
        needed = scenario in (replicate, ledger)
        if chosen and scenario.__name__ not in chosen and not needed:
            continue
        if scenario in FAULTS and story.load is None:
            story.begin_load()
        started = time.monotonic()
        try:
            scenario(story)
        except Failure as failure:
            raise Failure(f"{scenario.__name__}: {failure}") from failure
        say(f"{scenario.__name__}: held ({time.monotonic() - started:.1f} s)")


def main():
    """Exit status 0 if every scenario held."""
    # The bound of the run comes as a signal: the guests must not outlive it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("not ended in time"))
    image, job, directory, program = sys.argv[1:5]
    machines = Machines(image, job, directory)
    story = None
    try:
        story = Story(machines, program, Path(directory))
        tell(story, sys.argv[5:])
        say(f"{machines.switch.frames} frames, {machines.switch.dropped} dropped by the switch")
    except Failure as failure:
        say(f"FAILED: {failure}")
        if story:
            story.cluster.show_logs()
        return 1
    finally:
        machines.stop()
        if story:
            story.cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
