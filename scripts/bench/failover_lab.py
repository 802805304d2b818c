"""What the measurements of fail-over share: a cluster whose nodes can be struck, publishers, and a witness."""
import collections
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

from log_lab import packet, text

ROOT = pathlib.Path(__file__).resolve().parents[2]
ANSWER, PATIENCE = 0.3, 60.0
PARTITIONS = 4


class Cluster:
    """Three nodes and an etcd by scripts/cluster.sh; with `network` inside scripts/faults/network.sh."""

    def __init__(self, options):
        self.port, self.dir, self.network = options.port, pathlib.Path(options.dir), options.network
        environment = {
            **os.environ,
            "RINGLANE_CLUSTER_PORT": str(options.port),
            "RINGLANE_CLUSTER_DIR": str(self.dir),
            "RINGLANE_CLUSTER_AWAY": "1",
            "RINGLANE_CLUSTER_ETCD_AWAY": str(options.away),
            "RINGLANE_CLUSTER_NETWORK": "1" if self.network else "",
            # Each partition keeps its share alone, and no two have the same of --log-gb.
            "RINGLANE_CLUSTER_RETENTION": f"{round(2 * options.log_gb) + 10}GiB",
            **({"RINGLANE_PROGRAM": options.binary} if options.binary else {}),
        }
        command = [ROOT / "scripts/cluster.sh"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)

    def host(self, node):
        return f"10.77.0.{node + 1}" if self.network else "127.0.0.1"

    def address(self, node):
        return self.host(node), self.port + node

    def ask(self, node, path):
        try:
            return urllib.request.urlopen(f"http://{self.host(node)}:{self.port + 10 + node}/{path}", timeout=1).read().decode()
        except OSError:
            return ""

    def leader(self):
        for node in range(3):
            answer = self.ask(node, "readyz")
            if "this node" in answer and "leads" in answer:
                return node
        return None

    def values(self, node, name):
        lines = self.ask(node, "metrics").splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith(f"ringlane_{name}{{")]

    def is_whole(self, leader):
        """Whether both followers are in step in all partitions, could lead at once, and have applied all but a little."""
        in_step = self.values(leader, "follower_partitions_in_step") == [PARTITIONS] * 2
        # A broker before that is compared with another one says nothing of it.
        in_step &= self.values(leader, "follower_ready") in ([], [1, 1])
        lags = self.values(leader, "follower_lag_records")
        applied = sum(self.values(leader, "replica_applied_offset"))
        behind = [applied - sum(self.values(node, "replica_applied_offset")) for node in range(3)]
        return in_step and all(lag < 1000 for lag in lags + behind)

    def wait(self):
        """The leader of a cluster in which all nodes are in step."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            leader = self.leader()
            if leader is not None and self.is_whole(leader):
                return leader
            if self.process.poll() is not None:
                sys.exit(self.process.returncode or 1)
            time.sleep(0.1)
        sys.exit("the nodes do not come into step")

    def log_bytes(self, node):
        """Bytes of segments that a node has."""
        return sum(file.stat().st_size for file in self.dir.glob(f"n{node + 1}/data/partitions/*/*.log"))

    def signal(self, node, number):
        os.kill(int((self.dir / f"n{node + 1}" / "pid").read_text()), number)

    def kill_etcd(self):
        os.kill(int((self.dir / "etcd" / "pid").read_text()), signal.SIGKILL)

    def line(self, node, ways, is_cut):
        """Cuts the line of a node, or mends it: what it sends (`out`), what is sent to it (`in`), or both."""
        what = ["replace"] if is_cut else ["del"]
        queue = ["pfifo", "limit", "0"] if is_cut else []
        if "out" in ways:
            subprocess.run(["tc", "-n", f"n{node + 1}", "qdisc", *what, "dev", "e0", "root", *queue], check=True)
        if "in" in ways:
            subprocess.run(["tc", "qdisc", *what, "dev", f"v{node + 1}", "root", *queue], check=True)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Client(threading.Thread):
    """Is connected to one node after the other until it is told to stop."""

    def __init__(self, cluster, name, node):
        super().__init__(daemon=True)
        self.cluster, self.name_of, self.node, self.is_over = cluster, name, node, False
        self.start()

    def run(self):
        while not self.is_over:
            connection = None
            try:
                connection = socket.create_connection(self.cluster.address(self.node % 3), ANSWER)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(packet(0x10, text("MQTT") + b"\x04" + self.FLAGS + b"\x00\x3c" + text(self.name_of)))
                kind, body = self.read(connection)
                if kind != 0x20 or body[1] != 0:
                    raise ConnectionResetError
                self.serve(connection)
            except OSError:
                # Not acknowledged, or nobody is there: the next node.
                self.node += 1
                time.sleep(0.005)
            finally:
                if connection:
                    connection.close()

    def read(self, connection):
        """The next packet."""
        kind, length, shift = self.exactly(connection, 1)[0], 0, 0
        while True:
            digit = self.exactly(connection, 1)[0]
            length, shift = length | (digit & 127) << shift, shift + 7
            if digit < 128:
                return kind, self.exactly(connection, length)

    @staticmethod
    def exactly(connection, count):
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise ConnectionResetError
            data += more
        return data


class Publisher(Client):
    """Publishes with QoS 1, one message at a time; notes when it was answered, and what of it nobody has looked for yet."""

    FLAGS = b"\x02"

    def __init__(self, cluster, number):
        self.number, self.sequence, self.answered = number, 0, collections.deque(maxlen=20_000)
        self.owed = collections.deque()
        super().__init__(cluster, f"failover-{number}", number)

    def serve(self, connection):
        while not self.is_over:
            self.sequence += 1
            identifier = struct.pack(">H", self.sequence % 60000 + 1)
            payload = f"{self.number}/{self.sequence}".encode()
            connection.sendall(packet(0x32, text(f"failover/{self.number}") + identifier + payload))
            if self.read(connection) != (0x40, identifier):
                raise ConnectionResetError
            self.answered.append(time.monotonic())
            self.owed.append(payload)

    def gap(self, fault_at):
        """The longest time between two answers from shortly before a fault on, in ms; none if there was no answer since."""
        # It is asked while publishers look for the next node, which a long look would keep from it.
        if not self.answered or self.answered[-1] < fault_at + 1:
            return None
        times = [at for at in self.answered.copy() if at > fault_at - 1]
        return round(1000 * max((later - one for one, later in zip(times, times[1:])), default=0))


class Witness(Client):
    """Has a session that is kept, takes everything, and says what of it is missing."""

    FLAGS = b"\x00"

    def __init__(self, cluster):
        self.taken, self.is_there = set(), threading.Event()
        super().__init__(cluster, "failover-witness", 0)

    def serve(self, connection):
        connection.sendall(packet(0x82, b"\x00\x01" + text("failover/+") + b"\x01"))
        connection.settimeout(20)
        while not self.is_over:
            kind, body = self.read(connection)
            if kind == 0x90:
                self.is_there.set()
            if kind & 0xF0 == 0x30:
                behind = 2 + struct.unpack(">H", body[:2])[0]
                self.taken.add(body[behind + 2:])
                connection.sendall(b"\x40\x02" + body[behind:behind + 2])

    def missing(self, publishers):
        """How much was acknowledged that nobody has asked for yet, and what of it does not come. What has come is forgotten."""
        owed = {publisher.owed.popleft() for publisher in publishers for _ in range(len(publisher.owed))}
        end = time.monotonic() + PATIENCE
        while not owed <= self.taken and time.monotonic() < end:
            time.sleep(0.05)
        lost = owed - self.taken
        self.taken -= owed
        return len(owed), sorted(lost)
