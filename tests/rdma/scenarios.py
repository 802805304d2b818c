"""Real brokers that replicate over real verbs between three guests: what becomes of acknowledged messages when
nodes, links and time fail.

    scenarios.py IMAGE JOB DIRECTORY RINGLANE BENCH [SCENARIO...]      made and called by scripts/guest/rdma.sh

RINGLANE is a broker of this host, which reads the logs in the end, BENCH the load tool, whose ledger calls for the
faults. Each scenario begins where the last one ended, as a cluster's days do.
"""

import signal
import sys
import time
from pathlib import Path

from carriers import caught_up, device_gone, mix, port_down, roce_lost
from costs import copied, publish_counted
from ledger import Ledger
from logs import check_logs
from machines import NODES, Failure, Machines, check, say
from nodes import Cluster
from publisher import Load

#: How often that many are published at most, to see once what no follower that has fallen behind adds to: it reads from the
#: leader's log then, which copies.
ROUNDS_MAX = 3
#: What has to be acknowledged after each fault.
MORE = 200
#: Messages a second and publisher meanwhile: no more than slow guests can make up for.
RATE = 25


class Story:
    """The cluster's life so far."""

    def __init__(self, machines, program, bench, directory):
        self.machines = machines
        self.program = program
        self.bench = bench
        self.directory = directory
        self.cluster = Cluster(machines, directory)
        self.leader = None
        self.loads = []
        self.load = None
        self.ledger = None
        #: The nodes that chose what carries their links by themselves.
        self.auto = ()

    def patience(self, seconds):
        """Seconds, by the factor of this machine."""
        return seconds * self.machines.factor

    def begin_load(self):
        """Publishers for the faults: they begin at a node that follows."""
        first = next(node for node in NODES if node != self.leader)
        ports = [self.cluster.mqtt_port(node) for node in (first, *[n for n in NODES if n != first])]
        self.load = Load("fault", 4, ports, 20, self.patience(2), RATE)
        self.loads.append(self.load)

    def begin_ledger(self, cycles):
        """Clients with sessions, and QoS 2, which the faults strike as well."""
        ports = [self.cluster.mqtt_port(node) for node in NODES]
        self.ledger = Ledger(self.bench, self.directory, ports, cycles, self.machines.factor)

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
    publish_counted(story, "tcp")
    # The leader last, so that nobody follows it.
    for node in (*story.others(story.leader), story.leader):
        cluster.kill(node)


def replicate(story):
    """100,000 messages of QoS 1: each is acknowledged once a majority has it on disk, over RDMA, with no copy of records on
    the leader, and one on each follower."""
    begin(story.cluster, "rdma")
    for turn in range(1, ROUNDS_MAX + 1):
        copies = copied(publish_counted(story, f"round-{turn}"))
        if not copies:
            return
        say("; ".join(copies))
    raise Failure(f"copies in each of {ROUNDS_MAX} rounds")


def begin(cluster, transport):
    """Starts all nodes."""
    for node in NODES:
        cluster.configure(node, transport)
        cluster.start(node)


# A fault comes until its first `yield`, and goes after it.


def cut(story, name, ways):
    """A cut that one follower is behind: a majority gets on; after it the follower has all."""
    lost = story.others(story.leader)[-1]
    for source, target in ways(story.leader, lost):
        story.machines.switch.cut_one_way(source, target)
    yield
    story.gets_on()
    time.sleep(story.patience(0.5))
    story.gets_on()
    story.machines.switch.heal()
    story.leader = story.cluster.wait_leader()
    story.cluster.wait_caught_up(lost if lost != story.leader else story.others(lost)[0], 40)
    say(f"{name}: node {lost} was behind it")


def cut_out(story):
    """Nothing gets from the leader to a follower."""
    yield from cut(story, "one way, leader to follower", lambda leader, lost: [(leader, lost)])


def cut_in(story):
    """Nothing gets from a follower to the leader."""
    yield from cut(story, "one way, follower to leader", lambda leader, lost: [(lost, leader)])


def cut_leader(story, ways):
    """A cut between the leader and both others: one of them leads, and after it the old leader has all."""
    old = story.leader
    for node in story.others(old):
        for source, target in ways(old, node):
            story.machines.switch.cut_one_way(source, target)
    yield
    story.next_leader(old)
    story.gets_on()
    story.machines.switch.heal()
    story.cluster.wait_one_leader()
    caught_up(story, old)


def cut_mute(story):
    """Nothing gets from the leader to anybody."""
    yield from cut_leader(story, lambda leader, other: [(leader, other)])


def cut_deaf(story):
    """Nothing gets from anybody to the leader."""
    yield from cut_leader(story, lambda leader, other: [(other, leader)])


def cut_off(story):
    """Nothing gets through between the leader and both others."""
    yield from cut_leader(story, lambda leader, other: [(leader, other), (other, leader)])


def kill_process(story):
    """kill -9 of the leader: another one leads, and it comes back as a follower."""
    old = story.leader
    story.cluster.kill(old)
    yield
    story.next_leader(old)
    story.gets_on()
    story.cluster.start(old)
    story.cluster.wait_caught_up(old, 40)


def pause(story):
    """The leader stands still for longer than its lease and comes back: nothing of its epoch counts any more."""
    old = story.leader
    story.machines.guests[old].qmp("stop")
    paused = time.monotonic()
    yield
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
    yield
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
    # How far sessions have come is recorded once a second.
    time.sleep(story.patience(1.5))
    for node in story.others(leader):
        story.cluster.wait_caught_up(node, 40, most=0)
    story.cluster.kill_all()
    check_logs(story.program, story.machines, story.directory, story.publishers())
    longest = max(publisher.longest_gap for publisher in story.publishers())
    say(f"longest time without an acknowledgement: {longest:.1f} s (time-outs times {story.machines.factor})")


BEGINNING = [verbs, tcp, replicate]
FAULTS = [cut_out, cut_in, cut_mute, cut_deaf, cut_off, kill_process, pause, kill_guest,
          port_down, mix, roce_lost, device_gone]
#: They need nodes that do not demand RDMA.
AFTER_MIX = [roce_lost, device_gone]


def tell(story, chosen):
    """All scenarios, or those that were chosen; the cluster is begun and ended in any case."""
    def is_told(scenario):
        return (not chosen or scenario.__name__ in chosen or scenario is replicate
                or scenario is mix and any(other.__name__ in chosen for other in AFTER_MIX))

    for scenario in filter(is_told, BEGINNING):
        held(scenario.__name__, scenario, story)
    if faults := list(filter(is_told, FAULTS)):
        story.begin_load()
        story.begin_ledger(len(faults))
        for fault in faults:
            held(fault.__name__, strike, story, fault(story))
        held("sessions", story.ledger.wait_end, story.patience(60))
    held("ledger", ledger, story)


def strike(story, fault):
    """A fault comes and goes when the ledger wants it to."""
    story.ledger.wait_call("strike")
    next(fault)
    story.ledger.answer()
    story.ledger.wait_call("heal")
    next(fault, None)
    story.ledger.answer()


def held(name, scenario, *arguments):
    """Runs one scenario; a failure names it."""
    started = time.monotonic()
    try:
        scenario(*arguments)
    except Failure as failure:
        raise Failure(f"{name}: {failure}") from failure
    say(f"{name}: held ({time.monotonic() - started:.1f} s)")


def main():
    """Exit status 0 if every scenario held."""
    # The bound of the run comes as a signal: the guests must not outlive it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("not ended in time"))
    image, job, directory, program, bench = sys.argv[1:6]
    machines = Machines(image, job, directory)
    story = None
    try:
        story = Story(machines, program, bench, Path(directory))
        tell(story, sys.argv[6:])
        say(f"{machines.switch.frames} frames, {machines.switch.dropped} dropped by the switch")
    except Failure as failure:
        say(f"FAILED: {failure}")
        if story:
            story.cluster.show_logs()
        return 1
    finally:
        machines.stop()
        if story:
            if story.ledger:
                story.ledger.stop()
            story.cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
