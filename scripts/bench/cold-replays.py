#!/usr/bin/env python3
"""Holds live traffic beside cold replays against live traffic alone: the longest turn, and p99.

    scripts/bench/cold-replays.py [--messages 3000000] [--replays 20] [--iops 50] [--rounds 8] [--dir DIR]

Messages are stored, then live ones (QoS 1, level `memory`, an open loop at a fixed rate) are measured in interleaved
rounds: alone, and with replays of the stored ones that begin with the page cache dropped, while the broker's reads of
the device are held to so many a second by a control group. As root. Broker on CPU 0; load on CPU 1, before everything
else that runs there: threads that read and write for the broker, and the clients of the replays. Each window says
how long the core waited for its CPU, how late the load was (p99), and the steal time; those with steal are not judged.
`--dir` is on the device that is throttled. Exit status 1 if a bound is missed (the median p99 within 10 %, no longer turn
than without replays), or the machine was not quiet for three windows of each kind.
"""
import json
import os
import pathlib
import socket
import statistics
import subprocess
import threading

from log_lab import connect, drop_caches, longest, main, packet, receive, say, text, turns

BLKIO = pathlib.Path("/sys/fs/cgroup/blkio/ringlane-cold-replays")
UNIFIED = pathlib.Path("/sys/fs/cgroup/ringlane-cold-replays")
# Two in a hundred of 10 s on two CPUs.
STEAL_MAX_SECONDS = 0.4
QUIET_MIN = 3


class Throttle:
    """A control group whose reads of the device that a directory is on are bounded."""

    def __init__(self, directory, pid, iops):
        number = os.stat(directory).st_dev
        self.device, self.iops = f"{os.major(number)}:{os.minor(number)}", iops
        self.old = BLKIO.parent.is_dir()
        self.group = BLKIO if self.old else UNIFIED
        self.group.mkdir(exist_ok=True)
        (self.group / "cgroup.procs").write_text(str(pid))

    def set(self, on):
        if self.old:
            value = f"{self.device} {self.iops if on else 0}"
            (self.group / "blkio.throttle.read_iops_device").write_text(value)
        else:
            (self.group / "io.max").write_text(f"{self.device} riops={self.iops if on else 'max'}")


class Replay(threading.Thread):
    """A client that reads all of the log again and counts bytes."""

    def __init__(self, broker, number):
        super().__init__(daemon=True)
        self.connection, self.bytes = broker.wait(), 0
        connect(self.connection, f"replay-{number}")

    def run(self):
        self.connection.sendall(packet(0x82, b"\x00\x01" + text("$replay/earliest/cold/#") + b"\x00"))
        receive(self.connection, 5)
        # What is measured is the broker, not clients that take each other's CPU.
        os.sched_setaffinity(0, {1})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        buffer = bytearray(1 << 18)
        try:
            while count := self.connection.recv_into(buffer):
                self.bytes += count
        except OSError:
            return

    def end(self):
        self.connection.shutdown(socket.SHUT_RDWR)
        self.join()
        self.connection.close()


def waited(broker):
    """Seconds that the core was ready to run while its CPU was another's: no work of the broker's core."""
    tasks = pathlib.Path(f"/proc/{broker.process.pid}/task").iterdir()
    cores = [task for task in tasks if (task / "comm").read_text().startswith("ringlane-core")]
    return sum(int((core / "schedstat").read_text().split()[1]) for core in cores) / 1e9


def live(options, broker, seconds=10):
    """One window of live traffic: p99 in us, the turns, and how far the CPUs were there for it."""
    out, before, waited_before = broker.dir / "live.json", turns(broker), waited(broker)
    command = [options.bench, "end-to-end", "pairs", "-p", str(options.port), "-t", "live", "-q", "1", "-c", "20"]
    command += ["--rate", str(options.rate), "-d", str(seconds), "--cpu", "1", "--pid", str(broker.process.pid)]
    # Latency counts from the intended time: a load that waits for its CPU would measure what else runs there.
    command = ["nice", "-n", "-20", *command, "--json", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures = json.loads(out.read_text())["figures"]
    latency = next(value for name, value in figures.items() if name.endswith("latency_us"))
    turn, turn_999 = longest(before, turns(broker))
    facts = {"p50_us": latency["p50"], "p99_us": latency["p99"], "longest_turn_s": turn, "p999_turn_s": turn_999}
    late = figures["generator_lateness_us"]["p99"]
    waits = {"core_waited_s": round(waited(broker) - waited_before, 3), "load_late_p99_us": late}
    return facts | waits | {"steal_s": figures["steal_seconds"]}


def beside_replays(options, broker, throttle):
    drop_caches()
    # What the logs end with is in memory again, as it is where they are written all the time.
    live(options, broker, seconds=1)
    throttle.set(True)
    replays = [Replay(broker, number) for number in range(options.replays)]
    for replay in replays:
        replay.start()
    facts = live(options, broker)
    throttle.set(False)
    for replay in replays:
        replay.end()
    return facts | {"replayed_bytes": sum(replay.bytes for replay in replays)}


def measure(options, broker):
    throttle = Throttle(broker.dir, broker.process.pid, options.iops)
    command = [options.bench, "publish-ack", "-p", str(options.port), "-t", "cold", "-q", "1", "-s", "100", "-c", "100"]
    command += ["-W", "200", "-n", str(options.messages // 100), "--cpu", "1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    alone, beside = [], []
    for _ in range(options.rounds):
        alone.append(live(options, broker))
        say("alone", **alone[-1])
        beside.append(beside_replays(options, broker, throttle))
        say("beside", **beside[-1])
    return verdict(quiet(alone), quiet(beside))


def quiet(windows):
    """Those that the host left alone: p99 is ten times as high with a steal of 3 %, whatever runs."""
    return [window for window in windows if window["steal_s"] <= STEAL_MAX_SECONDS]


def verdict(alone, beside):
    if min(len(alone), len(beside)) < QUIET_MIN:
        say("verdict", quiet=[len(alone), len(beside)], why=f"fewer than {QUIET_MIN} quiet windows of a kind")
        return False
    p99 = [statistics.median(window["p99_us"] for window in windows) for windows in (alone, beside)]
    turn = [max(window["longest_turn_s"] for window in windows) for windows in (alone, beside)]
    facts = {"quiet": [len(alone), len(beside)], "p99_us": p99, "p99_ratio": p99[1] / p99[0]}
    say("verdict", **facts, longest_turn_alone_s=turn[0], longest_turn_beside_s=turn[1])
    return p99[1] <= 1.1 * p99[0] and turn[1] <= turn[0]


if __name__ == "__main__":
    main(__doc__, measure, 18860, "ringlane-cold-replays", messages=3_000_000, replays=20, iops=50, rounds=8, rate=5000)
