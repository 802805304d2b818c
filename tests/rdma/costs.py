"""What replication of the same messages costs the nodes: counts, CPU time, latency."""

import json
import subprocess
import time

from machines import NODES, check, say
from publisher import Load

MESSAGES = 100_000
#: What the load tool is told besides the port: 4 publishers, 8 messages of each on their way.
LATENCY = ["-c", "4", "-W", "8", "-q", "1", "-s", "256", "-n", "1000", "--warm-up", "0"]


def publish_counted(story, name):
    """The messages, and what they cost the nodes: what grew, the leader first. Then how long single ones take."""
    cluster = story.cluster
    leader = story.leader = cluster.wait_leader(seconds=30)
    load = Load(name, 4, [cluster.mqtt_port(leader)], 500, story.patience(60))
    story.loads.append(load)
    before = {node: cluster.metrics(node) for node in NODES}
    cpu = {node: cluster.cpu(node) for node in NODES}
    started = time.monotonic()
    load.publish(MESSAGES, story.patience(120))
    seconds = time.monotonic() - started
    for node in story.others(leader):
        cluster.wait_caught_up(node)
    say(f"{name}: {MESSAGES} messages of 256 B in {seconds:.1f} s, acknowledged by a majority's disks")
    costs = {}
    for node in (leader, *story.others(leader)):
        after = cluster.metrics(node)
        costs[node] = {count: after[count] - before[node][count] for count in after if count in before[node]}
        report_counters(node, node == leader, costs[node])
        used = [new - old for new, old in zip(cluster.cpu(node), cpu[node])]
        say(f"node {node}, CPU time: {used[0]:.2f} s of its process, {used[1]:.2f} s of the host for its machine")
    load.finish(story.patience(10))
    report_latency(story, name, cluster.mqtt_port(leader))
    return costs


def report_latency(story, name, port):
    """From PUBLISH to PUBACK, as the load tool sees it from the host, at a window so small that little waits for others."""
    command = [story.bench, "publish-ack", "-p", str(port), *LATENCY, "--patience", str(story.patience(20)), "--json", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    check(done.returncode == 0, f"the load tool ended with {done.returncode}: {done.stdout[-500:]}")
    took = json.loads(done.stdout)["figures"]["puback_latency_us"]
    say(f"{name}: PUBACK of {took['count']} messages, ms: p50 {took['p50'] / 1000:.1f}, p99 {took['p99'] / 1000:.1f}")


#: What is shown of a node besides what its links over RDMA count.
SHOWN = ["link_sends_total", "link_sent_bytes_total", "link_received_messages_total", "link_received_bytes_total",
         "link_moved_bytes_total", "system_calls_total", "completions_total", "core_turns_total"]


def report_counters(node, leads, grown):
    """What the node's links, and all that it does, have cost per 1,000 messages."""
    shown = [name for name in grown if name.startswith("rdma_") or name in SHOWN]
    per = {name.removesuffix("_total"): round(grown[name] * 1000 / MESSAGES, 1) for name in shown}
    say(f"node {node}, {'leader' if leads else 'follower'}, per 1,000 messages: {per}")


def copied(costs):
    """What was copied too often. A leader copies no record for replication. A follower copies each once, out of the ring into
    the batch of its log; all else that it copies are heads."""
    found = []
    for index, (node, grown) in enumerate(costs.items()):
        moved = grown["rdma_received_bytes_total" if index else "rdma_sent_bytes_total"]
        followers = 1 if index else 2
        check(moved > followers * MESSAGES * 256, f"node {node} has moved {moved} bytes over RDMA")
        if before := grown["rdma_copied_bodies_bytes_total"]:
            found.append(f"node {node} has copied {before} bytes of records before it sent them")
        if again := grown["rdma_assembled_bytes_total"]:
            found.append(f"node {node} has copied {again} bytes of records twice")
    return found
