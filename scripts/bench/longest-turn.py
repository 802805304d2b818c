#!/usr/bin/env python3
"""How long the turns of a core are while segments roll: a fixed rate of QoS 1 at `local_disk`.

    scripts/bench/longest-turn.py [--rate 100000] [--seconds 60] [--dir DIR] [--port 18870]

Publishers on an open loop, nobody subscribes. Prints the upper bounds of the 99.9th percentile and of the longest turn
(`ringlane_core_turn_seconds`), segments made meanwhile and the steal time of the machine. Broker on CPU 0, load on CPU 1.
Exit status 1 if p99.9 is above 1 ms or a turn above 10 ms.
"""
import json
import subprocess

from log_lab import longest, main, say, segments, turns


def measure(options, broker):
    out, before, made = broker.dir / "window.json", turns(broker), len(segments(broker))
    command = [options.bench, "publish-ack", "-p", str(options.port), "-q", "1", "-s", "100", "-c", "100", "--cpu", "1"]
    command += ["--rate", str(options.rate), "-d", str(options.seconds), "--pid", str(broker.process.pid)]
    subprocess.run([*command, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(out.read_text())["figures"]
    turn, turn_999 = longest(before, turns(broker))
    say(
        "turns",
        messages_per_second=figures["messages_per_second"],
        segments_made=len(segments(broker)) - made,
        steal_seconds=figures["steal_seconds"],
        p999_s=turn_999,
        longest_s=turn,
    )
    return turn_999 <= 1.1e-3 and turn <= 10e-3


if __name__ == "__main__":
    main(__doc__, measure, 18870, "ringlane-longest-turn", rate=100_000, seconds=60)
