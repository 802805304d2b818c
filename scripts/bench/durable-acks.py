#!/usr/bin/env python3
"""Time to an acknowledgement of brokers that sync before they answer, beside what a sync takes in the same minute.

    scripts/bench/durable-acks.py [--case "-c 1 -W 1"] [--rounds 1] [--seconds 2] [--dir DIR] [RECIPE ...]

Recipes are those of `ringlane-bench compare` (bench/src/compare/recipes), by default ringlane-disk, mosquitto-safest,
nats-sync and rabbitmq-disk. Unlike there, their data is in DIR, which should be on a disk, and an absent subscriber with
a persistent session wants all messages, so that all brokers have to keep them. The floor is `pwrite` of 234 bytes and
`fdatasync` on a file that was written before, right before and after each run. Broker on CPU 0, load on CPU 1; Ringlane's
file threads are on CPU 1 as well. Peers: `scripts/peers.sh all`; mosquitto_sub makes the session.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib

from log_lab import say

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPES = ROOT / "bench/src/compare/recipes"
PLACES = ["/usr/local/sbin", "/usr/sbin", "/usr/lib/rabbitmq/bin"]
FILE_BYTES = 16 << 20


def floor(directory, seconds):
    """Median and 99th percentile of write and sync, in ms."""
    path, took, position = directory / "floor", [], 0
    with open(path, "wb", buffering=0) as file:
        file.write(bytes(FILE_BYTES))
        os.fsync(file.fileno())
        end = time.monotonic() + seconds
        while time.monotonic() < end and position + 234 <= FILE_BYTES:
            begun = time.perf_counter()
            os.pwrite(file.fileno(), bytes(234), position)
            os.fdatasync(file.fileno())
            took.append(1000 * (time.perf_counter() - begun))
            position += 234
    path.unlink()
    took.sort()
    return [round(took[len(took) * part // 100], 3) for part in (50, 99)]


class Broker:
    """A recipe that was started, with an absent subscriber to all messages."""

    def __init__(self, options, name):
        self.recipe = tomllib.loads((RECIPES / f"{name}.toml").read_text())
        self.dir = pathlib.Path(options.dir) / name
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        program = self.recipe["program"]
        peers = os.environ.get("RINGLANE_PEERS", os.path.expanduser("~/.cache/ringlane/peers"))
        places = [options.target, f"{peers}/bin", *self.recipe.get("search", []), *PLACES]
        program = shutil.which(program, path=":".join(places)) or shutil.which(program)
        self.words = {"dir": self.dir, "program": program, "program_dir": os.path.dirname(program or ""), "cpu": 0}
        self.words |= {"port": options.port} | {f"port{n}": options.port + n for n in (1, 2, 3)}
        for file, content in self.recipe.get("files", {}).items():
            (self.dir / file).write_text(self.fill(content))
        cpus = "0,1" if self.recipe["program"] == "ringlane" else "0"
        command = ["taskset", "-c", cpus, "sh", "-c", "exec " + self.fill(self.recipe["command"])]
        environment = {key: self.fill(value) for key, value in self.recipe.get("environment", {}).items()}
        with open(self.dir / "out", "w") as out:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stdout=out, stderr=out, start_new_session=True
            )

    def fill(self, template):
        return re.sub(r"\{(\w+)\}", lambda word: str(self.words.get(word[1], word[0])), template)

    def wait(self):
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.words["port"]), 1).close()
                break
            except OSError:
                if time.monotonic() > until:
                    sys.exit(f"{self.dir.name} does not listen: {(self.dir / 'out').read_text()[-500:]}")
                time.sleep(0.1)
        time.sleep(self.recipe.get("warm_up_seconds", 1))
        session = ["mosquitto_sub", "-p", str(self.words["port"]), "-c", "-i", "absent", "-q", "1", "-t", "bench/#"]
        subprocess.run([*session, "-W", "1"], capture_output=True)

    def stop(self):
        for signal in (15, 9):
            try:
                os.killpg(self.process.pid, signal)
                self.process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        if "stop" in self.recipe:
            subprocess.run(["sh", "-c", self.fill(self.recipe["stop"])], capture_output=True)
        shutil.rmtree(self.dir, ignore_errors=True)


def measure(options, name, case):
    broker = Broker(options, name)
    try:
        broker.wait()
        before = floor(broker.dir, 0.5)
        report = broker.dir / "report.json"
        command = [f"{options.target}/ringlane-bench", "publish-ack", "-q", "1", "-s", "100", "--cpu", "1"]
        command += ["-p", str(options.port), "-d", str(options.seconds), "--json", str(report), *case.split()]
        run = subprocess.run(command, capture_output=True, text=True)
        figures = json.loads(report.read_text())
        say(
            case,
            broker=name,
            acknowledged_per_second=figures["figures"]["messages_per_second"],
            p50_ms=figures["aggregatedPublishLatency50pct"],
            p99_ms=figures["aggregatedPublishLatency99pct"],
            fdatasync_ms_p50_p99=[before, floor(broker.dir, 0.5)],
            status=run.returncode,
        )
    finally:
        broker.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser.add_argument("--case", action="append")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--dir", default="/var/tmp/ringlane-durable-acks")
    parser.add_argument("--port", type=int, default=18880)
    parser.add_argument("--target", default=str(target))
    default = ["ringlane-disk", "mosquitto-safest", "nats-sync", "rabbitmq-disk"]
    parser.add_argument("recipes", nargs="*", default=default)
    options = parser.parse_args()
    for number in range(options.rounds):
        for case in options.case or ["-c 1 -W 1", "-c 100 -W 1", "-c 1 -W 32"]:
            first = number % len(options.recipes)
            for name in options.recipes[first:] + options.recipes[:first]:
                measure(options, name, case)


if __name__ == "__main__":
    main()
