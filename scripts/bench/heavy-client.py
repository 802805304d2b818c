#!/usr/bin/env python3
"""Holds clients of one core against themselves while a client of the other core makes 90 % of the load.

    scripts/bench/heavy-client.py [--rate 1000] [--share 90] [--seconds 5] [--rounds 5] [--dir DIR] [--port 22600]

The broker has two cores. Pairs whose sessions are on one of them pass messages at a fixed rate (QoS 1, level
`memory`); in every other window one client of the other core publishes as much as makes its share of all messages, to a
topic that nobody wants. Prints the 50th and 99th percentile of both kinds of window, and the ratio of their medians. The
load shares the two CPUs with the broker: only the ratio of interleaved windows says something on a small machine.
Exit status 1 if the 99th percentile beside the heavy client is more than 1.5 times the one without.
"""
import json
import selectors
import socket
import statistics
import struct
import subprocess
import time

from log_lab import connect, main, packet, receive, say, text

PAIRS = 8
BOUND = 1.5


def core_of(options, broker, name):
    """The core that has the session of a connected client."""
    command = [options.binary, "ctl", "--data-dir", str(broker.dir / "data"), "--json", "sessions", "show", name]
    rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return json.loads(rows[0])["core"]


def client(options, broker, prefix, core):
    """A client of a core, and its name: names are tried until one belongs there."""
    for number in range(1000):
        name, connection = f"{prefix}-{number}", broker.wait()
        connect(connection, name)
        if core_of(options, broker, name) == core:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection, name
        connection.close()
    raise SystemExit(f"no name of core {core} was found")


def publish(topic, identifier, payload):
    return packet(0x32, text(topic) + struct.pack(">H", identifier) + payload)


def cut(buffer):
    """The whole packets at the front of a buffer, taken out of it."""
    while len(buffer) >= 2:
        length, shift, at = 0, 0, 1
        while at < len(buffer):
            digit = buffer[at]
            length, shift, at = length | (digit & 127) << shift, shift + 7, at + 1
            if digit < 128:
                break
        else:
            return
        if len(buffer) < at + length:
            return
        yield buffer[0], bytes(buffer[at : at + length])
        del buffer[: at + length]


class Load:
    """The pairs of one core, and the heavy client of the other."""

    def __init__(self, options, broker):
        self.options, self.selector, self.samples = options, selectors.DefaultSelector(), []
        self.heavy, _ = client(options, broker, "heavy", 1)
        self.publishers = []
        for pair in range(PAIRS):
            subscriber, _ = client(options, broker, f"subscriber-{pair}", 0)
            subscriber.sendall(packet(0x82, b"\x00\x01" + text(f"live/{pair}") + b"\x01"))
            receive(subscriber, 5)
            publisher, _ = client(options, broker, f"publisher-{pair}", 0)
            self.publishers.append(publisher)
            self.watch(subscriber, self.on_message)
            self.watch(publisher, lambda *_: None)
        self.watch(self.heavy, lambda *_: None)

    def watch(self, connection, on_packet):
        connection.setblocking(False)
        self.selector.register(connection, selectors.EVENT_READ, (bytearray(), on_packet))

    def on_message(self, connection, kind, body):
        if kind >> 4 != 3:
            return
        topic = struct.unpack(">H", body[:2])[0]
        identifier, sent = body[2 + topic : 4 + topic], struct.unpack(">d", body[4 + topic : 12 + topic])[0]
        self.samples.append(time.monotonic() - sent)
        connection.sendall(b"\x40\x02" + identifier)

    def read(self, patience):
        for key, _ in self.selector.select(patience):
            buffer, on_packet = key.data
            more = key.fileobj.recv(1 << 16)
            if not more:
                raise SystemExit("the broker closed a connection")
            buffer += more
            for kind, body in cut(buffer):
                on_packet(key.fileobj, kind, body)

    def window(self, heavy_rate):
        """Latencies of the pairs, in seconds, while the heavy client publishes so many messages a second."""
        self.samples = []
        start, sent, heavy_sent, identifier = time.monotonic(), 0, 0, 0
        while (now := time.monotonic() - start) < self.options.seconds:
            while sent < now * self.options.rate:
                identifier = identifier % 60_000 + 1
                message = publish(f"live/{sent % PAIRS}", identifier, struct.pack(">d", time.monotonic()))
                self.publishers[sent % PAIRS].sendall(message)
                sent += 1
            due = int(now * heavy_rate) - heavy_sent
            if due > 0:
                burst = (publish("live/nobody", n % 60_000 + 1, bytes(64)) for n in range(heavy_sent, heavy_sent + due))
                self.heavy.setblocking(True)
                self.heavy.sendall(b"".join(burst))
                self.heavy.setblocking(False)
                heavy_sent += due
            self.read(0.0005)
        self.read(0.2)
        return sorted(self.samples)


def percentiles(samples):
    at = lambda part: samples[min(len(samples) - 1, int(len(samples) * part))] * 1e6
    return {"messages": len(samples), "p50_us": at(0.5), "p99_us": at(0.99)}


def measure(options, broker):
    load = Load(options, broker)
    heavy_rate = options.rate * options.share / (100 - options.share)
    p99 = {0: [], heavy_rate: []}
    load.window(heavy_rate)
    for round_ in range(options.rounds):
        for rate in p99:
            found = percentiles(load.window(rate))
            p99[rate].append(found["p99_us"])
            say("window", round=round_, heavy_rate=rate, **found)
    alone, beside = (statistics.median(values) for values in p99.values())
    say("ratio", p99_alone_us=alone, p99_beside_us=beside, ratio=beside / alone)
    return beside <= BOUND * alone


if __name__ == "__main__":
    main(__doc__, measure, 22600, "ringlane-heavy-client", cores="0,1", rate=1000, share=90, seconds=5, rounds=5)
