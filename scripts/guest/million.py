"""What million.sh does in its guest: starts the broker, holds many idle connections, sums up memory.

    million.py TRANSPORT CONNECTIONS [--subscribe]

The broker's side is its own memory, half of what the slabs of sockets, files and dentries grew by
(the other half is the load tool's end), all that io_uring's grew by, and all of the general slabs,
which io_uring's poll entries are in. 6 GiB is the bound for a million connections. The kernel runs
with slab_nomerge: otherwise it counts one kind of object with another of the same size.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SUITE = Path("/suite")
PORT = 1883
BOUND_BYTES = 6 << 30
BOUND_CONNECTIONS = 1_000_000
SAMPLE = 1000
CONFIG = """
[runtime]
idle = "park"
[session]
max_sessions = 1100000
[limits]
max_connections = 1010000
[listeners.websocket]
enabled = false
[control]
enabled = false
[sys]
enabled = false
"""


def set_kernel():
    """Applies the sysctl file as systemd-sysctl(8) would; a key with a dash may be missing."""
    for line in (SUITE / "ringlane-many.sysctl").read_text().splitlines():
        setting = re.match(r"(-?)([\w.-]+) = (.*)", line)
        if not setting:
            continue
        optional, key, value = setting.groups()
        path = Path("/proc/sys") / key.replace(".", "/")
        if path.exists() or not optional:
            path.write_text(value)
    Path("/proc/sys/net/core/somaxconn").write_text("4096")
    Path("/proc/sys/net/ipv4/tcp_max_syn_backlog").write_text("4096")


def start_broker(transport):
    """The broker, once it accepts."""
    config = Path("/tmp/ringlane.toml")
    config.write_text(CONFIG)
    command = [SUITE / "ringlane", "serve", "-c", config, "--transport", transport, "--cores", "0"]
    command += ["-p", str(PORT), "--data-dir", "/tmp/data"]
    broker = subprocess.Popen([str(word) for word in command])
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", PORT)).close()
            return broker
        except OSError:
            time.sleep(0.2)
    sys.exit("the broker does not accept")


def run_bench(broker, connections, more):
    """The report of idle-connections; its progress goes to the console."""
    steps = [step for step in (1000, 10_000, 100_000) if step < connections]
    command = [SUITE / "ringlane-bench", "idle-connections", "-c", str(connections), "--json"]
    command += ["-p", str(PORT), "--pid", str(broker.pid), "--sample", str(SAMPLE)]
    command += ["--sources", "127.0.0.1-127.0.0.40", "--keepalive", "0", "--patience", "300"]
    command += ["--pending", "64", "--hold", "10", "--settle", "5", *more]
    if steps:
        command += ["--steps", ",".join(map(str, steps))]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if not done.stdout.strip():
        sys.exit(f"idle-connections gave no report (exit status {done.returncode})")
    return done.returncode, json.loads(done.stdout)


def broker_side(step, connections):
    """Parts of the broker's side in bytes, by name."""
    each = {name: figure * connections for name, figure in step.items() if name.startswith("kernel_")}
    shared = ("sockets", "files", "dentries")
    parts = {f"half of {name}": each.get(f"kernel_{name}_each", 0) / 2 for name in shared}
    parts["io_uring"] = each.get("kernel_io_uring_each", 0)
    parts["general slabs"] = each.get("kernel_general_each", 0)
    return {"broker": step["broker_bytes"], **parts}


def show(report):
    """Prints every step; the total of the last one per connection."""
    total = connections = 0
    for name, step in sorted(report["figures"].items()):
        if not name.startswith("at_"):
            continue
        connections = int(name.removeprefix("at_"))
        parts = broker_side(step, connections)
        total = sum(parts.values())
        listed = ", ".join(f"{part} {value / connections:.0f}" for part, value in parts.items())
        print(f"million: {connections} connections in {step['seconds']:.0f} s, bytes each: {listed};"
              f" in all {total / connections:.0f}, {total / (1 << 30):.2f} GiB", flush=True)
    return total / max(1, connections)


def main():
    """Exit status 0 if all connections stood, every check held, and the bound is kept."""
    transport, connections, *more = sys.argv[1:]
    connections = int(connections)
    set_kernel()
    broker = start_broker(transport)
    status, report = run_bench(broker, connections, more)
    for part in ("figures", "checks", "warnings"):
        print(f"{part}: {json.dumps(report.get(part))}", flush=True)
    each = show(report)
    print(Path("/proc/meminfo").read_text().splitlines()[1], flush=True)
    broker.send_signal(signal.SIGTERM)
    broker.wait(600)
    bound = BOUND_BYTES / BOUND_CONNECTIONS
    verdict = "within" if each <= bound else "ABOVE"
    print(f"million: {each:.0f} bytes per connection on the broker's side, {verdict} {bound:.0f};"
          f" checks of the load tool: {'held' if status == 0 else 'FAILED'}")
    sys.exit(status or each > bound)


if __name__ == "__main__":
    main()
