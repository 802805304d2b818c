#!/usr/bin/env python3
"""Fills the log of one broker with very many messages and holds the end against the beginning.

    scripts/bench/long-log.py [--messages 100000000] [--size 100] [--rate 200000] [--rounds 5] [--seconds 5] [--dir DIR] [--port 18850]

Publishers of `ringlane-bench publish-ack` store messages with QoS 1 at `local_disk`. Then a second broker is started, on the
same core and with an empty log, and windows of a fixed rate go to the one and to the other in turn, so that a machine that is slower for a while is so for both. Beside each window
a lone writer times write and fdatasync on the same file system. Then the broker with the long log is killed (SIGKILL), started
again and timed to its first PUBACK; the log is read again from its middle and from its beginning by `$replay` with QoS 0, and with
`dd` from the same files, both with the page cache dropped (as root).

Broker on CPU 0, load on CPU 1; `--dir` is on the file system that is to be measured (never tmpfs). Needs
some 180 bytes of disk per message of 100 bytes. Prints one JSON line per step. Exit status 1 if a bound is missed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

from log_lab import Broker, connect, drop_caches, main, packet, receive, say, segments, text

PUBLISHERS = 100
# Messages stored between two looks at the clock, and messages that are read again.
BULK = 20_000_000
REPLAYED = 10_000_000


class Prober(threading.Thread):
    """Writes 4 KiB and syncs, twenty times a second."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.path, self.times, self.stopped = directory / "probe", [], False

    def run(self):
        file = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.pwrite(file, bytes(1 << 20), 0)
        os.fsync(file)
        while not self.stopped:
            begun = time.monotonic()
            os.pwrite(file, os.urandom(4096), 0)
            os.fdatasync(file)
            self.times.append(time.monotonic() - begun)
            time.sleep(0.05)
        os.close(file)

    def percentile(self, part):
        times = sorted(self.times)
        return times[min(len(times) - 1, int(len(times) * part))] * 1e3


def store(options, broker, load):
    """Has the publishers store messages, as many as `load` says; facts of that time."""
    out = broker.dir / "window.json"
    command = [options.bench, "publish-ack", "-p", str(broker.port), "-q", "1", "-s", str(options.size)]
    command += ["-c", str(PUBLISHERS), "--cpu", "1", "--patience", "60", *load]
    command += ["--pid", str(broker.process.pid), "--json", str(out)]
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    facts = {"seconds": round(time.monotonic() - begun, 1)}
    return facts | window(json.loads(out.read_text())) | {"memory_bytes": broker.memory()}


def bulk(options, broker, messages):
    each = str(messages // PUBLISHERS)
    return {"messages": messages} | store(options, broker, ["-W", "200", "-n", each, "--warm-up", "0"])


def probed(options, broker):
    """A window of the fixed rate, beside somebody who syncs."""
    prober = Prober(broker.dir)
    prober.start()
    facts = store(options, broker, ["--rate", str(options.rate), "-d", str(options.seconds)])
    prober.stopped = True
    prober.join()
    return facts | {"fdatasync_p50_ms": prober.percentile(0.5), "fdatasync_p99_ms": prober.percentile(0.99)}


def window(document):
    """What the load tool says of a window, in us, ms and messages per second."""
    figures, puback = document["figures"], document["figures"]["puback_latency_us"]
    return {
        "cpu_us_per_message": figures["broker_cpu_us_per_message"],
        "messages_per_second": figures["messages_per_second"],
        "puback_p50_ms": puback["p50"] / 1e3,
        "puback_p99_ms": puback["p99"] / 1e3,
        "held": all(check["held"] for check in document["checks"]),
    }


def first_acknowledgement(broker):
    begun = time.monotonic()
    broker.start()
    connection = broker.wait()
    connect(connection, "first")
    connection.sendall(packet(0x32, text("first") + b"\x00\x01" + b"x"))
    receive(connection, 4)
    connection.close()
    return time.monotonic() - begun


def replay(broker, begin, bytes_wanted):
    """Reads stored messages again; seconds to the first, and bytes per second."""
    connection = broker.wait()
    connect(connection, f"reader-{begin}")
    begun = time.monotonic()
    connection.sendall(packet(0x82, b"\x00\x01" + text(f"$replay/{begin}/#") + b"\x00"))
    receive(connection, 5)
    first, count, buffer = None, 0, bytearray(1 << 20)
    while count < bytes_wanted:
        more = connection.recv_into(buffer)
        if not more:
            sys.exit("the broker closed the connection")
        first = first or time.monotonic() - begun
        count += more
    took = time.monotonic() - begun
    connection.close()
    return first, count / took


def dd(files, bytes_wanted):
    begun, count = time.monotonic(), 0
    for file in files:
        if bytes_wanted <= count:
            break
        subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=1M", "status=none"], check=True)
        count += file.stat().st_size
    return count / (time.monotonic() - begun)


def fill(options, broker):
    """Memory of the broker when there is little in its log and when there is much; whether nothing was lost."""
    rest, memory, held = options.messages, [], True
    while rest > 0:
        part = min(rest, BULK)
        facts = bulk(options, broker, part)
        say("bulk", **facts)
        memory.append(facts["memory_bytes"])
        held &= facts["held"]
        rest -= part
    return memory, held


def beside(options, broker):
    """Medians of the long log and of an empty one: CPU per message, and p99 over that of fdatasync."""
    empty = Broker(argparse.Namespace(**vars(options) | {"port": options.port + 10, "dir": str(broker.dir / "empty")}))
    figures = {"long": [], "empty": []}
    try:
        empty.start()
        empty.wait().close()
        for round in range(options.rounds):
            order = [("empty", empty), ("long", broker)]
            for name, one in order[:: 1 if round % 2 else -1]:
                facts = probed(options, one)
                say(name, **facts)
                if not facts["held"]:
                    sys.exit("a message was lost")
                figures[name].append((facts["cpu_us_per_message"], facts["puback_p99_ms"] / facts["fdatasync_p99_ms"]))
    finally:
        if empty.process:
            empty.kill()
    return {name: [statistics.median(column) for column in zip(*rows)] for name, rows in figures.items()}


def read_again(options, broker):
    """Seconds to the first message from the middle of one partition."""
    drop_caches()
    middle = options.messages // 8
    seconds = replay(broker, f"p0@{middle}", 1)[0]
    say("middle", seconds_to_first_message=seconds)
    drop_caches()
    wanted = min(options.messages, REPLAYED) * options.size
    first, rate = replay(broker, "earliest", wanted)
    drop_caches()
    read = dd(segments(broker), wanted)
    say("replay", seconds_to_first_message=first, payload_bytes_per_second=rate, dd_bytes_per_second=read, share=rate / read)
    return seconds


def measure(options, broker):
    """Whether every bound was held."""
    memory, held = fill(options, broker)
    files = segments(broker)
    say("log", files=len(files), bytes=sum(file.stat().st_size for file in files))
    medians = beside(options, broker)
    broker.kill()
    drop_caches()
    restart = first_acknowledgement(broker)
    say("restart", seconds_to_first_puback=restart, memory_bytes=broker.memory())
    middle = read_again(options, broker)
    cpu, latency = (medians["long"][n] / medians["empty"][n] for n in (0, 1))
    bounds = {
        "no message lost": held,
        "CPU per message within 10 %": cpu <= 1.1,
        "p99 over that of fdatasync within 25 %": latency <= 1.25,
        "memory flat (10 %, 4 MiB)": memory[-1] <= 1.1 * memory[0] + (4 << 20),
        "PUBACK 5 s after a restart": restart <= 5,
        "the middle in 100 ms": middle <= 0.1,
    }
    missed = [bound for bound, kept in bounds.items() if not kept]
    say("verdict", cpu_ratio=cpu, latency_ratio=latency, medians=medians, memory_bytes=memory, missed=missed)
    return not missed


if __name__ == "__main__":
    main(__doc__, measure, 18850, "ringlane-long-log", messages=100_000_000, size=100, rate=200_000, rounds=5, seconds=5)
