#!/usr/bin/env python3
"""How long publishers are without an acknowledgement when the node that leads is killed or stands still.

    scripts/bench/failover.py [--kills 20] [--fault kill|pause] [--publishers 3] [--dir DIR] [--port 22400] [--binary PROGRAM]

Three nodes and an etcd by scripts/cluster.sh. Each publisher publishes with QoS 1, one message at a time, and connects to
the next node after 300 ms without an answer. The leader is killed (kill -9), or stopped (SIGSTOP) for three seconds, once
all nodes are in step; the gap of a fault is the longest time between two acknowledgements of one publisher around it. All
gaps are printed, in ms. Exit status 1 if more than 1 in 100 is above 500 ms (1,500 ms with `pause`), or one never ended.
"""
import argparse
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

from log_lab import packet, say, text

ROOT = pathlib.Path(__file__).resolve().parents[2]
ANSWER, PATIENCE = 0.3, 30.0
BOUND = {"kill": 500, "pause": 1500}


class Cluster:
    def __init__(self, options):
        self.port, self.dir = options.port, pathlib.Path(options.dir)
        environment = {
            **os.environ,
            "RINGLANE_CLUSTER_PORT": str(options.port),
            "RINGLANE_CLUSTER_DIR": str(self.dir),
            "RINGLANE_CLUSTER_AWAY": "1",
            **({"RINGLANE_PROGRAM": options.binary} if options.binary else {}),
        }
        command = [ROOT / "scripts/cluster.sh"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    def ask(self, node, path):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port + 10 + node}/{path}", timeout=1).read().decode()
        except OSError:
            return ""

    def leader(self):
        for node in range(3):
            answer = self.ask(node, "readyz")
            if "this node" in answer and "leads" in answer:
                return node
        return None

    def is_whole(self, leader):
        """Whether both followers are in step in all partitions."""
        prefix = "ringlane_follower_partitions_in_step{"
        lines = [line for line in self.ask(leader, "metrics").splitlines() if line.startswith(prefix)]
        return len(lines) == 2 and all(float(line.split()[-1]) == 4 for line in lines)

    def wait(self):
        """The leader of a cluster in which all nodes are in step."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            leader = self.leader()
            if leader is not None and self.is_whole(leader):
                return leader
            if self.process.poll() is not None:
                sys.exit("the cluster has ended")
            time.sleep(0.1)
        sys.exit("the nodes do not come into step")

    def signal(self, node, number):
        os.kill(int((self.dir / f"n{node + 1}" / "pid").read_text()), number)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Publisher(threading.Thread):
    """Publishes until it is told to stop; notes when it was answered."""

    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.port, self.number, self.node = port, number, number
        self.answered, self.is_over = [], False
        self.start()

    def run(self):
        sequence, connection = 0, None
        while not self.is_over:
            try:
                connection = connection or self.connect()
                sequence += 1
                identifier = struct.pack(">H", sequence % 60000 + 1)
                topic = text(f"failover/{self.number}")
                connection.sendall(packet(0x32, topic + identifier + str(sequence).encode()))
                self.receive(connection, b"\x40\x02" + identifier)
                self.answered.append(time.monotonic())
            except OSError:
                # Not acknowledged, or nobody is there: the next node.
                if connection:
                    connection.close()
                connection, self.node = None, self.node + 1
                time.sleep(0.005)

    def connect(self):
        connection = socket.create_connection(("127.0.0.1", self.port + self.node % 3), ANSWER)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = text(f"failover-{self.number}")
        connection.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + client))
        self.receive(connection, b"\x20\x02\x00\x00")
        return connection

    @staticmethod
    def receive(connection, expected):
        data = b""
        while len(data) < len(expected):
            more = connection.recv(len(expected) - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        if data != expected:
            raise ConnectionResetError

    def gap(self, fault_at):
        """The longest time between two answers from shortly before a fault on, in ms; none if there was no answer since."""
        times = [at for at in list(self.answered) if at > fault_at - 1]
        if not times or times[-1] < fault_at + 1:
            return None
        return round(1000 * max(later - one for one, later in zip(times, times[1:])))


def strike(cluster, fault):
    leader = cluster.wait()
    time.sleep(1)
    at = time.monotonic()
    cluster.signal(leader, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    if fault == "pause":
        time.sleep(3)
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


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kills", type=int, default=20)
    flags.add_argument("--fault", choices=sorted(BOUND), default="kill")
    flags.add_argument("--publishers", type=int, default=3)
    flags.add_argument("--dir", default="/var/tmp/ringlane-failover")
    flags.add_argument("--port", type=int, default=22400)
    flags.add_argument("--binary", help="a broker to start instead of the one that is built")
    options = flags.parse_args()
    cluster = Cluster(options)
    try:
        cluster.wait()
        publishers = [Publisher(options.port, number) for number in range(options.publishers)]
        found = []
        for number in range(options.kills):
            leader, at = strike(cluster, options.fault)
            here = gaps(publishers, at)
            found += here
            say(options.fault, number=number + 1, leader=leader + 1, gaps_ms=here)
        for publisher in publishers:
            publisher.is_over = True
        acknowledged = sum(len(publisher.answered) for publisher in publishers)
    finally:
        cluster.stop()
    ended = sorted(gap for gap in found if gap is not None)
    late = len(found) - len(ended) + sum(gap > BOUND[options.fault] for gap in ended)
    middle, longest = ended[len(ended) // 2], ended[-1]
    say("all", gaps=len(found), p50=middle, longest=longest, above_bound=late, acknowledged=acknowledged)
    sys.exit(1 if late * 100 > len(found) else 0)


main()
