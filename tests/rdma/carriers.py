"""Faults of what carries replication, and nodes that differ in it: ports that go down, RDMA that does not get through, a device that
is gone, `auto` and `tcp` in one cluster. As in scenarios.py a fault comes until its first `yield`, and goes after it."""

from machines import check, say
from nodes import wait_until

DEVICE = "rxe0"
#: What a start and doctor say of a device that works.
TAKEN = f'transport="rdma" device="{DEVICE}" port=1 gid_index=1'
MADE = f"rdma: device {DEVICE}, port 1, gid_index 1; the port is active, and what a link needs could be made there with this user's limits"


def port_down(story):
    """The port of a follower's device goes down, and up again: its links come back over RDMA, which all nodes demand."""
    lost = story.others(story.leader)[-1]
    story.machines.do(lost, "ip link set eth0 down")
    yield
    wait_links(story, lost, lambda rdma, tcp: not rdma and not tcp)
    story.gets_on()
    story.machines.do(lost, "ip link set eth0 up")
    wait_links(story, lost, lambda rdma, tcp: rdma and not tcp)
    caught_up(story, lost)


def mix(story):
    """All nodes begin again, one after another, with other configurations: a follower with "auto", the leader with "auto" and
    two cores, the other follower with "tcp". Each says what carries its links, doctor says the same, and it is so."""
    old = story.leader
    first, second = story.others(old)
    restart(story, first, "auto")
    yield
    restart(story, old, "auto", (0, 1))
    restart(story, second, "tcp")
    story.auto = (first, old)
    for node in story.auto:
        is_said(story, node, TAKEN, f"auto takes {MADE}")
        wait_links(story, node, lambda rdma, tcp: rdma and tcp)
    is_said(story, second, 'transport="tcp" why="it is configured"', "configured: tcp: it is configured")
    wait_links(story, second, lambda rdma, tcp: tcp and not rdma)


def roce_lost(story):
    """Between the two nodes that chose RDMA by themselves no RoCE gets through, but all else does: one of them leads, and whichever
    end the links are used from, the other one follows over TCP in all partitions."""
    for node in story.auto:
        wait_links(story, node, lambda rdma, _: rdma)
    story.machines.switch.cut_roce(*story.auto)
    yield
    story.leader = wait_until("all follow over TCP", 30 * story.cluster.factor, lambda: leader_over_tcp(story))
    used = "over TCP" if story.leader in story.auto else "the links between the two are not used"
    say(f"node {story.leader} leads, and has all in step: {used}")
    story.gets_on()
    story.machines.switch.heal()


def leader_over_tcp(story):
    """Who leads, once all follow in all partitions, and the two nodes have all links over TCP. If the third one leads by now, the links
    between the two are not used, and may stay as they are."""
    leader = story.cluster.leader()
    carried = [story.cluster.links(node) for node in story.auto]
    goes_on = leader and (leader not in story.auto or carried == [(0, 3), (0, 4)])
    return leader if goes_on and story.cluster.has_all_in_step(leader) else None


def device_gone(story):
    """The device of a follower is taken away while its node runs, which ends with it: begun again, it goes on over TCP."""
    story.leader = story.cluster.wait_leader()
    lost = next(node for node in story.auto if node != story.leader)
    # The kernel lets go of the device when nobody has it open any more.
    story.machines.ask(lost, f"begin rdma link del {DEVICE}", "begun")
    story.gets_on()
    story.cluster.kill(lost)
    yield
    story.gets_on()
    gone = f"do test ! -e /sys/class/infiniband/{DEVICE}"
    wait_until("the device is gone", 30 * story.cluster.factor,
               lambda: story.machines.ask(lost, gone, "ran")["detail"] == "0")
    story.cluster.begin_anew(lost)
    caught_up(story, lost)
    is_said(story, lost, 'transport="tcp" why="there is no RDMA device"', "auto takes tcp: there is no RDMA device", False)
    wait_links(story, lost, lambda rdma, tcp: tcp and not rdma)


def restart(story, node, transport, cores=(0,)):
    """kill -9, another configuration, and up again."""
    story.cluster.kill(node)
    story.cluster.configure(node, transport, cores)
    story.cluster.begin_anew(node)
    caught_up(story, node)
    story.gets_on()


def caught_up(story, node):
    """Until a node has all. It may lead by now: on a busy machine a leader's lease ends by itself."""
    story.leader = story.cluster.wait_leader(seconds=30)
    if node != story.leader:
        story.cluster.wait_caught_up(node, 40)


def wait_links(story, node, are_so):
    """Until the links of a node are carried so."""
    found = wait_until(f"the links of node {node} are carried as they have to be", 30 * story.cluster.factor,
                       lambda: (links := story.cluster.links(node)) and are_so(*links) and links)
    say(f"node {node} has {found[0]} links over RDMA, {found[1]} over TCP")


def is_said(story, node, by_start, by_doctor, has_device=True):
    """The node's start has said so of what carries replication, and doctor does; it names the device and its address."""
    said = story.cluster.carriers_said(node)[-1]
    check(by_start in said, f"node {node} has said: {said}")
    found = "\n".join(story.cluster.doctor_says(node))
    check(by_doctor in found, f"doctor does not say {by_doctor} on node {node}:\n{found}")
    address = f"::ffff:10.77.0.{node}, RoCE v2 on eth0"
    check((f"RDMA {DEVICE}/1" in found and address in found) == has_device, f"doctor on node {node}:\n{found}")
