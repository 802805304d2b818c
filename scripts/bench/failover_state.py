"""Puts state in place that a takeover has to carry: sessions with subscriptions, and log."""
import selectors
import socket
import struct
import time

from log_lab import packet, say, text

AT_ONCE = 100
BLOCK = 60_000
PATIENCE = 30.0


class Arrival:
    """One session that is made: CONNECT, SUBSCRIBE, and away once both are answered."""

    def __init__(self, address, number, options):
        self.number, self.answer = number, b""
        first = number * options.subscriptions
        filters = (f"fleet/{index % options.filters}/state" for index in range(first, first + options.subscriptions))
        connect = packet(0x10, text("MQTT") + b"\x04\x00\x00\x00" + text(f"fleet-{number}"))
        subscribe = packet(0x82, b"\x00\x01" + b"".join(text(name) + b"\x01" for name in filters))
        # CONNACK, and a SUBACK with a byte for each filter.
        self.wanted = 4 + 4 + options.subscriptions
        self.connection = socket.create_connection(address, PATIENCE)
        self.connection.sendall(connect + subscribe)

    def is_done(self):
        more = self.connection.recv(4096)
        if not more:
            raise ConnectionResetError
        self.answer += more
        if len(self.answer) < self.wanted:
            return False
        self.connection.sendall(b"\xe0\x00")
        return True


def make_sessions(cluster, options):
    begun, left, again = time.monotonic(), iter(range(options.sessions)), []
    selector, done = selectors.DefaultSelector(), 0
    leader = cluster.wait()
    while done < options.sessions:
        while len(selector.get_map()) < AT_ONCE and (number := again.pop() if again else next(left, None)) is not None:
            try:
                arrival = Arrival(cluster.address(leader), number, options)
            except OSError:
                again.append(number)
                leader = cluster.wait()
                continue
            selector.register(arrival.connection, selectors.EVENT_READ, arrival)
        ready = selector.select(PATIENCE)
        if not ready:
            raise TimeoutError("sessions are not answered")
        for key, _ in ready:
            try:
                if not key.data.is_done():
                    continue
                done += 1
            except OSError:
                # Another node may lead meanwhile.
                again.append(key.data.number)
            selector.unregister(key.fileobj)
            key.data.connection.close()
    say("sessions", sessions=options.sessions, subscriptions=options.sessions * options.subscriptions, seconds=round(time.monotonic() - begun, 1))


def make_log(cluster, leader, options):
    """Publishes messages that nobody wants, 16 at a time, by four clients in turn."""
    begun, blocks = time.monotonic(), int(options.log_gb * 1e9 / BLOCK)
    links = []
    for number in range(4):
        link = socket.create_connection(cluster.address(leader), PATIENCE)
        link.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(f"filler-{number}")))
        receive(link, 4)
        links.append(link)
    for first in range(0, blocks, 64):
        for index, link in enumerate(links):
            link.sendall(b"".join(
                packet(0x32, text(f"filler/{index}") + struct.pack(">H", at + 1) + bytes(BLOCK)) for at in range(16)
            ))
        for link in links:
            receive(link, 16 * 4)
    say("log", gb=options.log_gb, seconds=round(time.monotonic() - begun, 1))


def receive(link, count):
    while count:
        more = link.recv(count)
        if not more:
            raise ConnectionResetError
        count -= len(more)


def fill(cluster, options):
    """Does it once for a directory."""
    wanted = f"{options.sessions} {options.subscriptions} {options.filters} {options.log_gb}"
    note = cluster.dir / "filled"
    if note.exists() and note.read_text() == wanted:
        return
    if options.sessions:
        make_sessions(cluster, options)
    if options.log_gb:
        make_log(cluster, cluster.wait(), options)
    note.write_text(wanted)
