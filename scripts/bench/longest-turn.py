#!/usr/bin/env python3
"""How long the turns of a core are while segments roll: a fixed rate of QoS 1 at `local_disk`.

    scripts/bench/longest-turn.py [--rate 100000] [--seconds 60] [--dir DIR] [--port 18870]

Publishers on an open loop, nobody subscribes. Prints the upper bounds of the 99.9th percentile and of the longest turn
(`ringlane_core_turn_seconds`), segments made meanwhile and the steal time of the machine. Of turns that took 5 ms and
longer it prints how many there were and the upper bound of the CPU time of each (`ringlane_core_long_turn_cpu_seconds`):
the rest of them the core's thread had no CPU, unless it slept, which is counted. Broker on CPU 0, load on CPU 1.
Exit status 1 if p99.9 is above 1 ms, or a turn above 10 ms that had the CPU for as long or slept.
"""
import json
import subprocess

from log_lab import counter, longest, main, say, segments, turns

LONG, SLEEPS = "core_long_turn_cpu_seconds", "core_long_turn_sleeps_total"


def measure(options, broker):
    out, before, made = broker.dir / "window.json", turns(broker), len(segments(broker))
    cpu, sleeps = turns(broker, LONG), counter(broker, SLEEPS)
    command = [options.bench, "publish-ack", "-p", str(options.port), "-q", "1", "-s", "100", "-c", "100", "--cpu", "1"]
    command += ["--rate", str(options.rate), "-d", str(options.seconds), "--pid", str(broker.process.pid)]
    subprocess.run([*command, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(out.read_text())["figures"]
    turn, turn_999 = longest(before, turns(broker))
    cpu_after, slept = turns(broker, LONG), counter(broker, SLEEPS) - sleeps
    long_turns = max(cpu_after.values()) - max(cpu.values())
    own = longest(cpu, cpu_after)[0] if long_turns else 0
    say(
        "turns",
        messages_per_second=figures["messages_per_second"],
        segments_made=len(segments(broker)) - made,
        steal_seconds=figures["steal_seconds"],
        p999_s=turn_999,
        longest_s=turn,
        turns_of_5_ms=long_turns,
        longest_cpu_of_them_s=own,
        sleeps_in_them=slept,
    )
    return turn_999 <= 1.1e-3 and (turn <= 10e-3 or (own <= 10e-3 and slept == 0))


if __name__ == "__main__":
    main(__doc__, measure, 18870, "ringlane-longest-turn", rate=100_000, seconds=60)
