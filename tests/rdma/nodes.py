"""A cluster of real brokers in the guests, with its etcd on the host."""

import re
import subprocess
import time
import urllib.error
import urllib.request

from machines import CONTROL_PORT, HOST_ADDRESS, MQTT_PORT, NODES, Failure, check, free_port, say

REPLICATION_PORT = 7883
PARTITIONS = 4
#: Records that the publishers of the tests have on their way, at most.
LAG_RECORDS = 500


class Etcd:
    """One etcd of the host, which the guests reach through their second card."""

    def __init__(self, directory):
        self.port = free_port()
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{free_port()}"
        with open(directory / "etcd.log", "wb") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", str(directory / "etcd"), "--unsafe-no-fsync",
                 "--listen-client-urls", client, "--advertise-client-urls", client,
                 "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"default={peer}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until("etcd answers", 30, lambda: fetch(f"{client}/health") is not None)

    def stop(self):
        """Ends it."""
        self.process.kill()
        self.process.wait()


def fetch(url):
    """What a GET gives, also with an error status; none without an answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return None


def wait_until(what, seconds, is_so):
    """Waits until it is so; what it gave."""
    end = time.monotonic() + seconds
    while not (found := is_so()):
        check(time.monotonic() < end, f"{what}: not in {seconds:.0f} s")
        time.sleep(0.1)
    return found


def configuration(node, factor, etcd_port, transport, cores):
    """What a node is told. Times are those of the defaults, times the factor."""
    lease = max(3, factor)
    lines = f"""
data_dir = "/run/data/ringlane"

[runtime]
# With one core the other CPU is for the device's soft interrupts and the files.
cores = {cores}
partitions = {PARTITIONS}
idle = "park"

[listeners.tcp]
bind = "0.0.0.0:{MQTT_PORT}"

[listeners.websocket]
enabled = false

[control]
bind = "0.0.0.0:{CONTROL_PORT}"

[commit_log]
segment_size = "8MiB"

[cluster]
name = "guests"
node = {node}

[cluster.etcd]
endpoints = ["http://{HOST_ADDRESS}:{etcd_port}"]
timeout = "{min(lease * 400, 10000)}ms"

[replication]
transport = "{transport}"
heartbeat = "{50 * factor}ms"
suspect_after = "{300 * factor}ms"
lease = "{lease}s"

[replication.rdma]
# One more doubles the time: 4.096 us times 2^14, times four tries, is 268 ms.
timeout = {14 + min(4, factor.bit_length() - 1)}
"""
    for other in NODES:
        lines += (f"\n[[cluster.members]]\nnode = {other}\nname = \"n{other}\"\n"
                  f"address = \"10.77.0.{other}:{REPLICATION_PORT}\"\n")
    return lines


class Cluster:
    """The nodes."""

    def __init__(self, machines, directory):
        self.machines = machines
        self.directory = directory
        self.factor = machines.factor
        self.etcd = Etcd(directory)
        #: Those whose process runs, as far as the harness knows.
        self.running = set()

    def configure(self, number, transport, cores=(0,)):
        """Writes the node's configuration."""
        text = configuration(number, self.factor, self.etcd.port, transport, list(cores))
        self.machines.write(number, "ringlane.toml", text)

    def start(self, number):
        """Starts the node's process."""
        self.machines.ask(number, "start", "started")
        self.running.add(number)

    def kill(self, number):
        """kill -9 of the node's process."""
        self.machines.ask(number, "kill", "killed")
        self.running.discard(number)

    def url(self, number, path):
        """Where the node's control plane is reached from the host."""
        return f"http://127.0.0.1:{self.machines.guests[number].control_plane}/{path}"

    def mqtt_port(self, number):
        """Where the node's clients are taken, from the host."""
        return self.machines.guests[number].mqtt

    def leader(self, among=NODES):
        """The node that leads and takes clients; none if there is none."""
        for number in among:
            if number in self.running and re.search(r"this node.* leads", fetch(self.url(number, "readyz")) or ""):
                return number
        return None

    def wait_leader(self, among=NODES, seconds=20):
        """The next leader among these."""
        started = time.monotonic()
        leader = wait_until(f"one of {among} leads", seconds * self.factor, lambda: self.leader(among))
        say(f"node {leader} leads ({time.monotonic() - started:.1f} s)")
        return leader

    def wait_one_leader(self, seconds=60):
        """Until nobody leads beside the leader: who was cut off may believe that it does for a while."""
        wait_until("one node leads", seconds * self.factor,
                   lambda: sum(self.leader([node]) is not None for node in NODES) == 1)

    def counters(self, number):
        """What a node counts, summed over its cores; nothing if it does not answer."""
        sums = {}
        for line in (fetch(self.url(number, "metrics")) or "").splitlines():
            found = re.match(r"ringlane_(\w+)(?:\{[^}]*\})? (\d+)$", line)
            if found:
                sums[found[1]] = sums.get(found[1], 0) + int(found[2])
        return sums

    def metrics(self, number):
        """The counters of a node that has to answer."""
        counted = self.counters(number)
        check("rdma_requests_total" in counted, f"node {number} shows no counters")
        return counted

    def links(self, number):
        """How many links a node has over RDMA, and over TCP; none if it does not answer."""
        counted = self.counters(number)
        names = ("replication_links_rdma", "replication_links_tcp")
        return tuple(counted.get(name, 0) for name in names) if counted else None

    def cpu(self, number):
        """CPU seconds since they began: of the node's process by its guest's clock, and of its whole machine on the host."""
        process = int(self.machines.ask(number, "cpu", "cpu")["detail"]) / 100
        return process, self.machines.guests[number].host_cpu()

    def carriers_said(self, number):
        """What each start of the node has said of what carries replication, the last one last."""
        return self.machines.lines(number, "log replication.*transport=\"", "logged")

    def begin_anew(self, number):
        """Starts the node's process, and waits until it has said what carries replication."""
        before = len(self.carriers_said(number))
        self.start(number)
        wait_until(f"node {number} says what carries replication", 30 * self.factor,
                   lambda: before < len(self.carriers_said(number)))

    def doctor_says(self, number):
        """What doctor finds of RDMA and of what carries replication, with the node's configuration."""
        return self.machines.lines(number, "doctor RDMA|libibverbs|replication.transport", "examined")

    def has_all_in_step(self, leader):
        """Whether a leader says that all others follow it in every partition."""
        others = len(NODES) - 1
        return self.counters(leader).get("follower_partitions_in_step") == PARTITIONS * others

    def wait_caught_up(self, number, seconds=20, most=LAG_RECORDS):
        """Until the leader says that a follower lacks no more of any log than that: what is on its way."""
        leader = self.leader() or self.wait_leader()

        def lag():
            page = fetch(self.url(leader, "metrics")) or ""
            lags = re.findall(rf'^ringlane_\w*lag\w*\{{[^}}]*node="{number}"[^}}]*\}} (\d+)$', page, re.M)
            return bool(lags) and all(int(value) <= most for value in lags)

        wait_until(f"node {number} has caught up", seconds * self.factor, lag)

    def wait_follows(self, number):
        """Until a node knows that it does not lead."""
        wait_until(f"node {number} follows", 30 * self.factor, lambda: self.leader([number]) is None)

    def kill_all(self):
        """kill -9 of all nodes while nothing is under way, the leader last, so that nobody follows it; each one's
        disk is whole then."""
        leader = self.leader()
        for number in sorted(self.running, key=lambda node: node == leader):
            self.machines.ask(number, "end", "ended", 20)
        self.running.clear()

    def show_logs(self):
        """The last lines of each node's log, or of its machine's console if that has ended, for people."""
        for number, guest in self.machines.guests.items():
            if not guest.is_alive():
                say(f"the machine of node {number} has ended with {guest.process.returncode}:\n{guest.console()}")
                continue
            try:
                guest.qmp("cont")
                self.machines.ask(number, "log", "logged", 3)
            except Failure as failure:
                say(str(failure))

    def stop(self):
        """Ends the etcd."""
        self.etcd.stop()
