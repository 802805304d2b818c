"""What the measurements of the log share: a broker of its own, and MQTT 3.1.1 by hand.

The clients are plain sockets that count bytes, so that reading again is not bounded by a client library.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = """
data_dir = "{dir}/data"
[listeners.tcp]
bind = "127.0.0.1:{port}"
[listeners.websocket]
bind = "127.0.0.1:{websocket}"
[control]
bind = "127.0.0.1:{control}"
[log]
level = "warn"
[[stream]]
name = "live"
filters = ["live/#"]
level = "memory"
[[stream]]
name = "default"
level = "local_disk"
retention_size = 0
retention_age = 0
"""


def say(step, **facts):
    print(json.dumps({"step": step, **facts}), flush=True)


class Broker:
    def __init__(self, options):
        self.port, self.dir = options.port, pathlib.Path(options.dir)
        self.binary, self.process = options.binary, None
        os.makedirs(self.dir, exist_ok=True)
        (self.dir / "r.toml").write_text(
            CONFIG.format(dir=self.dir, port=self.port, websocket=self.port + 1, control=self.port + 2)
        )

    def start(self, cores="0"):
        command = ["taskset", "-c", "0,1", self.binary, "serve", "-c", str(self.dir / "r.toml"), "--cores", cores]
        self.process = subprocess.Popen(command)

    def wait(self):
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 60)
            except ConnectionRefusedError:
                if self.process.poll() is not None:
                    sys.exit("the broker has ended")
                time.sleep(0.002)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024


def text(string):
    return struct.pack(">H", len(string)) + string.encode()


def packet(kind, body):
    length, rest = b"", len(body)
    while True:
        rest, digit = rest >> 7, rest & 127
        length += bytes([digit | (128 if rest else 0)])
        if not rest:
            return bytes([kind]) + length + body


def connect(connection, client):
    connection.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x3c" + text(client)))
    return receive(connection, 4)


def receive(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            sys.exit("the broker closed the connection")
        data += more
    return data


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def metrics(broker):
    url = f"http://127.0.0.1:{broker.port + 2}/metrics"
    return urllib.request.urlopen(url, timeout=10).read().decode()


def turns(broker, name="core_turn_seconds"):
    """Turns by their upper bound in seconds, counted since the start."""
    buckets = re.findall(rf'ringlane_{name}_bucket\{{[^}}]*le="([^"]+)"\}} (\d+)', metrics(broker))
    return {float(bound): int(count) for bound, count in buckets}


def counter(broker, name):
    """The sum of a counter over the cores."""
    return sum(int(value) for value in re.findall(rf"ringlane_{name}\{{[^}}]*\}} (\d+)", metrics(broker)))


def longest(before, after):
    """The upper bound of the longest turn between two looks, and of the 99.9th percentile."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    total = max(counts.values())
    first = lambda part: next(bound for bound, count in counts.items() if count >= part * total)
    return first(1), first(0.999)


def segments(broker):
    return sorted((broker.dir / "data").glob("partitions/*/*.log"))


def main(doc, measure, port, directory, cores="0", **numbers):
    """Parses the command line, whose options are whole numbers with these defaults, and measures with a broker that runs on `cores`.

    Exit status 0 if `measure(options, broker)` says that every bound was held.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dir", default=f"/var/tmp/{directory}")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--binary", default=str(target / "ringlane"))
    parser.add_argument("--bench", default=str(target / "ringlane-bench"))
    options = parser.parse_args()
    shutil.rmtree(options.dir, ignore_errors=True)
    broker = Broker(options)
    try:
        broker.start(cores)
        broker.wait().close()
        held = measure(options, broker)
    finally:
        if broker.process:
            broker.kill()
        shutil.rmtree(options.dir, ignore_errors=True)
    sys.exit(not held)
