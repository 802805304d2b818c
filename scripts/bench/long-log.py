#!/usr/bin/env python3
"""Fills the log of one broker with very many messages and holds the end against the beginning.

    scripts/bench/long-log.py [--messages 100000000] [--size 100] [--dir DIR] [--port 18850]

Publishers of `ringlane-bench publish-ack` store messages with QoS 1 at `local_disk`: a first window, the bulk, a
last window. Beside each window a lone writer times write and fdatasync on the same file system. Then the
broker is killed (SIGKILL), started again and timed to its first PUBACK; the log is read again from its middle and from its
beginning by `$replay` with QoS 0, and with `dd` from the same files, both with the page cache dropped (as root).

Broker on CPU 0, load on CPU 1; `--dir` is on the file system that is to be measured (never tmpfs). Needs
some 180 bytes of disk per message of 100 bytes. Prints one JSON line per step. Exit status 1 if a bound is missed.
"""
import json
import os
import subprocess
import sys
import threading
import time

from log_lab import connect, drop_caches, main, packet, receive, say, segments, text

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


def store(options, broker, messages, probe):
    """Stores messages; facts of the window."""
    prober = Prober(broker.dir)
    if probe:
        prober.start()
    out = broker.dir / "window.json"
    command = [options.bench, "publish-ack", "-p", str(options.port), "-q", "1", "-s", str(options.size)]
    command += ["-c", str(PUBLISHERS), "-W", "200", "-n", str(messages // PUBLISHERS), "--cpu", "1", "--patience", "60"]
    command += ["--warm-up", "0", "--pid", str(broker.process.pid), "--json", str(out)]
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    facts = {"messages": messages, "seconds": round(time.monotonic() - begun, 1)}
    if probe:
        prober.stopped = True
        prober.join()
        facts |= {"fdatasync_p50_ms": prober.percentile(0.5), "fdatasync_p99_ms": prober.percentile(0.99)}
    return facts | window(json.loads(out.read_text())) | {"memory_bytes": broker.memory()}


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
    """The facts of the first and of the last window."""
    begin = store(options, broker, options.window, True)
    say("begin", **begin)
    rest = options.messages - 2 * options.window
    while rest > 0:
        part = min(rest, BULK)
        say("bulk", **store(options, broker, part, False))
        rest -= part
    end = store(options, broker, options.window, True)
    say("end", **end)
    return begin, end


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
    begin, end = fill(options, broker)
    files = segments(broker)
    say("log", files=len(files), bytes=sum(file.stat().st_size for file in files))
    broker.kill()
    drop_caches()
    restart = first_acknowledgement(broker)
    say("restart", seconds_to_first_puback=restart, memory_bytes=broker.memory())
    middle = read_again(options, broker)
    latency = [window["puback_p99_ms"] / window["fdatasync_p99_ms"] for window in (begin, end)]
    bounds = {
        "no message lost": begin["held"] and end["held"],
        "CPU per message within 10 %": end["cpu_us_per_message"] <= 1.1 * begin["cpu_us_per_message"],
        "p99 over that of fdatasync within 25 %": latency[1] <= 1.25 * latency[0],
        "memory flat (10 %, 4 MiB)": end["memory_bytes"] <= 1.1 * begin["memory_bytes"] + (4 << 20),
        "PUBACK 5 s after a restart": restart <= 5,
        "the middle in 100 ms": middle <= 0.1,
    }
    missed = [bound for bound, held in bounds.items() if not held]
    say("verdict", p99_over_fdatasync=latency, missed=missed)
    return not missed


if __name__ == "__main__":
    main(__doc__, measure, 18850, "ringlane-long-log", messages=100_000_000, window=5_000_000, size=100)
