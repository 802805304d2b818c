#!/usr/bin/env python3
"""How long the turns of a core are while segments roll: a fixed rate of QoS 1 at `local_disk`.

    scripts/bench/longest-turn.py [--rate 100000] [--seconds 60] [--dir DIR] [--port 18870]

Publishers on an open loop, nobody subscribes. Prints the upper bounds of the 99.9th percentile and of the longest turn
(`ringlane_core_turn_seconds`), segments made meanwhile and the steal time of the machine. Broker on CPU 0, load on CPU 1.
Exit status 1 if p99.9 is above 1 ms or a turn above 10 ms.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

from log_lab import Broker, longest, say, turns

ROOT = pathlib.Path(__file__).resolve().parents[2]


def segments(broker):
    return len(list((broker.dir / "data").glob("partitions/*/*.log")))


def measure(options, broker):
    broker.start()
    broker.wait().close()
    out, before, made = broker.dir / "window.json", turns(broker), segments(broker)
    command = [options.bench, "publish-ack", "-p", str(options.port), "-q", "1", "-s", "100", "-c", "100", "--cpu", "1"]
    command += ["--rate", str(options.rate), "-d", str(options.seconds), "--pid", str(broker.process.pid)]
    subprocess.run([*command, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(out.read_text())["figures"]
    turn, turn_999 = longest(before, turns(broker))
    say(
        "turns",
        messages_per_second=figures["messages_per_second"],
        segments_made=segments(broker) - made,
        steal_seconds=figures["steal_seconds"],
        p999_s=turn_999,
        longest_s=turn,
    )
    return turn_999 <= 1.1e-3 and turn <= 10e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser.add_argument("--rate", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--dir", default="/var/tmp/ringlane-longest-turn")
    parser.add_argument("--port", type=int, default=18870)
    parser.add_argument("--binary", default=str(target / "ringlane"))
    parser.add_argument("--bench", default=str(target / "ringlane-bench"))
    options = parser.parse_args()
    shutil.rmtree(options.dir, ignore_errors=True)
    os.makedirs(options.dir)
    broker = Broker(options)
    try:
        held = measure(options, broker)
    finally:
        if broker.process:
            broker.kill()
        shutil.rmtree(options.dir, ignore_errors=True)
    sys.exit(not held)


if __name__ == "__main__":
    main()
