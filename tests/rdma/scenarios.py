"""Links over real verbs between three guests: what is replicated, and what is not when nodes, links and
time fail.

    scenarios.py IMAGE JOB DIRECTORY      made and called by scripts/guest/rdma.sh

The nodes are transport-rdma/examples/rdma_node.rs. Each scenario begins where the last one ended, as a
cluster's days do.
"""

import re
import signal
import sys
import time

from guests import Cluster, Failure, say

MESSAGES = 100_000
#: What each scenario adds.
MORE = 6400


def check(condition, text):
    """A thing that has to be so."""
    if not condition:
        raise Failure(text)


class Story:
    """The cluster's life so far."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.leader = 1
        self.epoch = 1
        self.count = 0
        self.alive = [1, 2, 3]

    def followers(self):
        """Those alive that do not lead."""
        return [node for node in self.alive if node != self.leader]

    def lead(self, more, followers, seconds=30):
        """The leader brings that many followers to `more` messages more."""
        self.count += more
        return self.cluster.ask(self.leader, f"lead {self.epoch} {self.count}", "done", seconds,
                                followers=followers, epoch=self.epoch)

    def check_same(self, nodes):
        """These nodes have all of it, and nothing of an older epoch."""
        for node in nodes:
            end = time.monotonic() + 10 * self.cluster.factor
            while (status := self.cluster.status(node))["next"] < self.count:
                check(time.monotonic() < end, f"node {node} stays at {status['next']} of {self.count}")
            check(status["next"] == self.count, f"node {node} is at {status['next']}, not {self.count}")
            check(status["epoch"] == self.epoch, f"node {node} obeys epoch {status['epoch']}")

    def take_over(self, nodes):
        """A new epoch: those nodes are fenced, the one that has most leads."""
        self.epoch += 1
        fenced = {node: self.cluster.ask(node, f"fence {self.epoch}", "fenced")["next"] for node in nodes}
        self.leader = max(fenced, key=fenced.get)
        self.count = fenced[self.leader]
        say(f"epoch {self.epoch}: {fenced}, node {self.leader} leads")


def counters(status):
    """The endpoint's counters out of a status line."""
    return {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", status["counters"])}


def verbs(story):
    """The tests of one process, both ends on one device."""
    ended = story.cluster.ask(1, "run verbs --test-threads=1 --nocapture", "ended", 60)
    check(ended["detail"] == "0", f"the tests of verbs ended with {ended['detail']}")


def replicate(story):
    """100,000 messages to both followers, every byte checked there."""
    for node in story.alive:
        story.cluster.start_node(node)
    started = time.monotonic()
    story.lead(MESSAGES, 2, 60)
    seconds = time.monotonic() - started
    story.check_same(story.followers())
    sums = counters(story.cluster.status(story.leader))
    per = {name: round(value * 1000 / (2 * MESSAGES), 1) for name, value in sums.items()}
    say(f"{MESSAGES} messages of 256 B to two followers in {seconds:.1f} s; leader, per 1,000 sent: {per}")
    other = counters(story.cluster.status(2))
    per = {name: round(value * 1000 / MESSAGES, 1) for name, value in other.items()}
    say(f"a follower, per 1,000 received: {per}")
    check(sums["wraps"] > 50, "the ring wraps")
    check(sums["doorbells"] < MESSAGES, "several messages per bell")


def exhaust(story):
    """A follower that takes nothing stops the writes to it, and only those; then it catches up."""
    slow = story.followers()[-1]
    story.cluster.guests[slow].send("hold")
    story.lead(MORE, 1)
    status = story.cluster.status(story.leader)
    check(counters(status)["exhausted"] > 0, "credit ran out")
    story.cluster.guests[slow].send("go")
    story.cluster.wait(story.leader, "done", followers=2, count=story.count // 64 * 64)
    story.check_same(story.followers())


def cut(story, name, ways):
    """A cut that one follower is behind: the other one gets on; after it both have all."""
    lost = story.followers()[-1]
    for source, target in ways(story.leader, lost):
        story.cluster.switch.cut_one_way(source, target)
    story.lead(MORE, 1)
    down = story.cluster.wait(story.leader, "down", peer=lost)
    say(f"{name}: the leader says: {down['cause']}")
    story.cluster.switch.heal()
    story.cluster.wait(story.leader, "done", 30, followers=2, count=story.count // 64 * 64)
    story.check_same(story.followers())


def cut_out(story):
    """Nothing gets from the leader to a follower."""
    cut(story, "one way, leader to follower", lambda leader, lost: [(leader, lost)])


def cut_in(story):
    """Nothing gets from a follower to the leader."""
    cut(story, "one way, follower to leader", lambda leader, lost: [(lost, leader)])


def cut_both(story):
    """Nothing gets through between them."""
    cut(story, "both ways", lambda leader, lost: [(leader, lost), (lost, leader)])


def kill_process(story):
    """kill -9 of the leader: both followers notice, one of them goes on, and it comes back as a follower."""
    dead = story.leader
    story.cluster.guests[dead].send(f"lead {story.epoch} {story.count + 1_000_000}")
    time.sleep(0.5)
    story.cluster.mark()
    story.cluster.ask(dead, "kill", "killed")
    for node in story.followers():
        story.cluster.wait(node, "down", peer=dead)
    story.take_over(story.followers())
    story.cluster.start_node(dead)
    story.cluster.guests[dead].send(f"have {story.count}")
    story.lead(MORE, 2)
    story.check_same(story.followers())


def pause(story):
    """The leader stands still for longer than its lease and comes back: not one of its writes counts."""
    old, others = story.leader, story.followers()
    story.cluster.guests[old].send(f"lead {story.epoch} {story.count + 1_000_000}")
    time.sleep(0.5)
    story.cluster.guests[old].qmp("stop")
    story.take_over(others)
    story.alive = others
    story.lead(MORE, 1)
    story.cluster.mark()
    story.cluster.guests[old].qmp("cont")
    down = story.cluster.wait(old, "down", 30)
    say(f"the old leader, awake again: {down['cause']}")
    story.cluster.wait(old, "up", 30)
    time.sleep(1)
    story.lead(MORE, 1)
    story.check_same(others)
    refused = sum(story.cluster.status(node)["stale"] for node in others)
    say(f"messages of the old epoch that came and were refused: {refused}")
    check(refused > 0, "the old leader tried")
    story.cluster.ask(old, f"fence {story.epoch}", "fenced")
    story.cluster.ask(old, "kill", "killed")
    story.cluster.start_node(old)
    story.cluster.guests[old].send(f"have {story.count}")
    story.alive = [1, 2, 3]
    story.lead(MORE, 2)
    story.check_same(story.followers())


def kill_guest(story):
    """The leader's whole machine is gone, without a word: noticed by silence, the others go on."""
    dead, others = story.leader, story.followers()
    story.cluster.guests[dead].send(f"lead {story.epoch} {story.count + 1_000_000}")
    time.sleep(0.5)
    story.cluster.mark()
    story.cluster.guests[dead].kill()
    for node in others:
        down = story.cluster.wait(node, "down", 30, peer=dead)
    say(f"a follower says: {down['cause']}")
    story.alive = others
    story.take_over(others)
    story.lead(MORE, 1)
    story.check_same(others)


SCENARIOS = [verbs, replicate, exhaust, cut_out, cut_in, cut_both, kill_process, pause, kill_guest]


def main():
    """Exit status 0 if every scenario held."""
    # The bound of the run comes as a signal: the guests must not outlive it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("not ended in time"))
    image, job, directory = sys.argv[1:4]
    chosen = sys.argv[4:]
    cluster = Cluster(image, job, directory)
    story = Story(cluster)
    try:
        for scenario in SCENARIOS:
            if chosen and scenario.__name__ not in chosen:
                continue
            started = time.monotonic()
            cluster.mark()
            scenario(story)
            say(f"{scenario.__name__}: held ({time.monotonic() - started:.1f} s)")
        say(f"{cluster.switch.frames} frames, {cluster.switch.dropped} dropped by the switch")
    except Failure as failure:
        say(f"FAILED: {scenario.__name__}: {failure}")
        for number, guest in cluster.guests.items():
            guest.read()
            say(f"node {number}, last lines: {guest.lines[-12:]}")
        return 1
    finally:
        cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
