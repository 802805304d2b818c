#!/usr/bin/env python3
"""How much the log grows because of many absent sessions that want everything, against one such session.

    scripts/bench/absent-on-all.py [--messages 1000000] [--sessions 1000] [--bytes 100] [--dir DIR] [--port 18890]

Persistent sessions subscribe to `#` and leave; then messages of QoS 1 are published to 1,000 topics from 50 connections, and
the bytes of all batches in the log are counted, those of the preallocated zeros left out. Once with one session, once
with many, each on a data directory of its own. Prints bytes per message of both, and their ratio. Exit status 1 if it is above 1.15.
"""
import shutil
import socket
import struct
import time

from log_lab import connect, main, packet, receive, say, segments, text

CONNECTIONS, WINDOW, TOPICS = 50, 200, 1000


def absent(broker, count):
    for number in range(count):
        connection = broker.wait()
        body = text("MQTT") + b"\x04\x00\x00\x3c" + text(f"absent-{number}")
        connection.sendall(packet(0x10, body))
        receive(connection, 4)
        connection.sendall(packet(0x82, b"\x00\x01" + text("#") + b"\x01"))
        receive(connection, 5)
        connection.sendall(b"\xe0\x00")
        connection.close()


def publish(broker, messages, payload_bytes):
    """Publishes in windows, round over all connections; every message is acknowledged."""
    connections = [broker.wait() for _ in range(CONNECTIONS)]
    for number, connection in enumerate(connections):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connect(connection, f"publisher-{number}")
    payload, sent = b"x" * payload_bytes, 0
    while sent < messages:
        asked = []
        for connection in connections:
            count = min(WINDOW, messages - sent)
            burst = b"".join(
                packet(0x32, text(f"t/{(sent + n) % TOPICS}") + struct.pack(">H", 1 + n) + payload) for n in range(count)
            )
            connection.sendall(burst)
            asked.append((connection, count))
            sent += count
        for connection, count in asked:
            receive(connection, 4 * count)
    for connection in connections:
        connection.close()


def written(broker):
    """Bytes of batches in the log (docs/formats/log.md)."""
    total = 0
    for path in segments(broker):
        data, at = path.read_bytes(), 4096
        while at + 64 <= len(data) and data[at : at + 4] == b"RLAB":
            body = struct.unpack_from("<I", data, at + 8)[0]
            at += 64 + (body + 7) // 8 * 8
        total += at - 4096
    return total


def run(options, broker, sessions):
    broker.kill()
    shutil.rmtree(broker.dir / "data", ignore_errors=True)
    broker.start()
    broker.wait().close()
    absent(broker, sessions)
    time.sleep(2)
    before, began = written(broker), time.monotonic()
    publish(broker, options.messages, options.bytes)
    took = time.monotonic() - began
    # What was matched last is said within a second.
    time.sleep(3)
    grown = written(broker) - before
    say("grown", sessions=sessions, bytes_per_message=grown / options.messages, seconds=round(took, 1), memory=broker.memory())
    return grown


def measure(options, broker):
    one = run(options, broker, 1)
    many = run(options, broker, options.sessions)
    say("ratio", sessions=options.sessions, messages=options.messages, ratio=many / one)
    return many <= 1.15 * one


if __name__ == "__main__":
    main(__doc__, measure, 18890, "ringlane-absent-on-all", messages=1_000_000, sessions=1000, bytes=100)
