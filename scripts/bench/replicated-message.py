#!/usr/bin/env python3
"""What a replicated message costs: three nodes on this host, loaded by ringlane-bench, one program or several in turn.

    scripts/bench/replicated-message.py target/release/ringlane [OTHER/ringlane ...] -n 5 --flags '-c 64 -s 256 -W 8'

Prints for each run the CPU time per message of the leader, of each follower and of etcd, and per 1,000 messages what the
nodes count: messages and sends of their links, bytes moved, rounds of their logs, turns, system calls. Needs etcd.
All nodes share one CPU (--cpu), the load has another one (--load-cpu). Files go to --dir, which should be on a disk.
"""
import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request

NODES = (1, 2, 3)
COUNTED = {
    "link_received_messages_total": "link messages received",
    "link_sends_total": "link sends",
    "link_sent_bytes_total": "link bytes sent",
    "link_moved_bytes_total": "bytes moved again",
    "log_rounds_total": "rounds",
    "core_turns_total": "turns",
    "system_calls_total": "system calls",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+", help="ringlane executables")
    parser.add_argument("-n", type=int, default=1, help="rounds")
    parser.add_argument("-d", type=float, default=4, help="measured seconds")
    parser.add_argument("--flags", default="-c 64 -s 256 -W 8", help="flags of ringlane-bench publish-ack")
    parser.add_argument("--level", default="", help="level of all messages")
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--bench", default="target/release/ringlane-bench")
    parser.add_argument("--cpu", default="0")
    parser.add_argument("--load-cpu", default="1")
    parser.add_argument("--port", type=int, default=29300)
    parser.add_argument("--dir", default=None)
    return parser.parse_args()


class Cluster:
    """etcd and three nodes of one program, in a directory of their own."""

    def __init__(self, args, program):
        self.args, self.port = args, args.port
        self.room = tempfile.mkdtemp(prefix="replicated-message-", dir=args.dir)
        self.etcd = self.start_etcd()
        self.nodes = {node: self.start_node(node, program) for node in NODES}

    def spawn(self, name, command):
        with open(f"{self.room}/{name}.out", "w") as out:
            command = ["taskset", "-c", self.args.cpu, *command]
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def start_etcd(self):
        client, peer = (f"http://127.0.0.1:{self.port + step}" for step in (40, 41))
        etcd = self.spawn("etcd", [
            "etcd", "--data-dir", f"{self.room}/etcd", "--listen-client-urls", client,
            "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"])
        wait(lambda: "true" in get(f"{client}/health"), "etcd does not answer")
        return etcd

    def start_node(self, node, program):
        path = f"{self.room}/n{node}.toml"
        with open(path, "w") as file:
            file.write(self.configuration(node))
        return self.spawn(f"n{node}", [program, "serve", "-c", path])

    def mqtt(self, node):
        return self.port + 4 * node

    def configuration(self, node):
        members = "".join(
            f'[[cluster.members]]\nnode = {other}\nname = "n{other}"\naddress = "127.0.0.1:{self.mqtt(other) + 3}"\n'
            for other in NODES)
        level = self.args.level and f'[[stream]]\nname = "default"\nlevel = "{self.args.level}"\n'
        return f"""data_dir = "{self.room}/n{node}"
[runtime]
cores = [{self.args.cpu}]
idle = "park"
partitions = {self.args.partitions}
[listeners.tcp]
bind = "127.0.0.1:{self.mqtt(node)}"
[listeners.websocket]
enabled = false
[control]
bind = "127.0.0.1:{self.mqtt(node) + 1}"
[log]
level = "warn"
{level}[cluster]
node = {node}
[cluster.etcd]
endpoints = ["http://127.0.0.1:{self.port + 40}"]
{members}"""

    def leader(self):
        for node in NODES:
            said = get(f"http://127.0.0.1:{self.mqtt(node) + 1}/readyz")
            if "this node" in said and "leads" in said:
                return node
        return None

    def read(self):
        """CPU microseconds and counters of every process now."""
        cpu = {node: cpu_us(process.pid) for node, process in self.nodes.items()}
        cpu["etcd"] = cpu_us(self.etcd.pid)
        pages = {node: counters(get(f"http://127.0.0.1:{self.mqtt(node) + 1}/metrics")) for node in NODES}
        return cpu, pages

    def end(self):
        for process in [*self.nodes.values(), self.etcd]:
            process.kill()
            process.wait()
        shutil.rmtree(self.room, ignore_errors=True)


def get(url):
    try:
        return urllib.request.urlopen(url, timeout=2).read().decode()
    except OSError:
        return ""


def wait(happened, complaint):
    for _ in range(600):
        found = happened()
        if found:
            return found
        time.sleep(0.05)
    raise SystemExit(complaint)


def cpu_us(pid):
    """CPU microseconds of the threads of a process, by kind: `core`, `files` (writes and syncs), `jobs`, `rest`."""
    kinds = dict.fromkeys(("core", "files", "jobs", "rest"), 0)
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/comm") as file:
                kind = kind_of(file.read())
            with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                kinds[kind] += int(file.read().split()[0]) / 1e3
        except FileNotFoundError:
            pass
    return kinds


def kind_of(thread):
    for prefix, kind in (("ringlane-core", "core"), ("ringlane-io", "files"), ("ringlane-job", "jobs")):
        if thread.startswith(prefix):
            return kind
    return "rest"


def counters(page):
    sums = {}
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        name = name.split("{")[0].removeprefix("ringlane_")
        if name in COUNTED:
            sums[name] = sums.get(name, 0) + float(value)
    return sums


def measure(args, program):
    cluster = Cluster(args, program)
    try:
        leader = wait(cluster.leader, f"nobody leads; see {cluster.room}")
        output = f"{cluster.room}/load.json"
        command = [args.bench, "publish-ack", "-p", str(cluster.mqtt(leader)), "-q", "1", "--cpu", args.load_cpu,
                   "-d", str(args.d), "--warm-up", "1", "--json", output, *args.flags.split()]
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(1.5)
        before, begun = cluster.read(), time.time()
        time.sleep(args.d - 1)
        after, seconds = cluster.read(), time.time() - begun
        load.wait()
        with open(output) as file:
            report = json.load(file)
        show(program, leader, before, after, report, seconds)
    finally:
        cluster.end()


def show(program, leader, before, after, report, seconds):
    figures = report["figures"]
    messages = figures["messages_per_second"] * seconds
    by_kind = {who: {kind: (after[0][who][kind] - before[0][who][kind]) / messages for kind in after[0][who]}
               for who in after[0]}
    us = {who: sum(kinds.values()) for who, kinds in by_kind.items()}
    followers = [us[node] for node in NODES if node != leader]
    latency = figures["puback_latency_us"]
    held = "" if report["held"] else "  CHECKS FAILED"
    print(f"{program}: {figures['messages_per_second']:.0f}/s, p50 {latency['p50']:.0f} us, p99 {latency['p99']:.0f} us; "
          f"CPU us/msg: leader {us[leader]:.2f}, followers {followers[0]:.2f} {followers[1]:.2f} "
          f"({sum(followers) / 2 / us[leader]:.2f} of the leader), etcd {us['etcd']:.2f}, all {sum(us.values()):.2f}{held}")
    for node in sorted(NODES, key=lambda node: node != leader):
        per = {name: (after[1][node].get(key, 0) - before[1][node].get(key, 0)) * 1000 / messages
               for key, name in COUNTED.items()}
        role = "leader  " if node == leader else "follower"
        threads = ", ".join(f"{kind} {value:.2f}" for kind, value in by_kind[node].items())
        print(f"  {role} us/msg by thread: {threads}")
        print(f"  {role} per 1,000: " + ", ".join(f"{name} {value:.0f}" for name, value in per.items()), flush=True)


def main():
    args = arguments()
    for _ in range(args.n):
        for program in args.programs:
            measure(args, os.path.abspath(program))


main()
