"""Puts state in place that a takeover has to carry: sessions with subscriptions, and log."""
import selectors
import socket
import struct
import time

from log_lab import packet, say, text

AT_ONCE = 100
BLOCK = 60_000
FILLERS = 64
WINDOW = 16
PATIENCE = 30.0


class Arrival:
    """One session that is made: CONNECT and SUBSCRIBE, DISCONNECT once both are answered, and gone when the node has closed.

    It is the node that closes: a client that does has its port taken for a minute, and soon there is none left.
    """

    def __init__(self, address, number, options):
        self.number, self.answer, self.has_left = number, b"", False
        first = number * options.subscriptions
        filters = (f"fleet/{index % options.filters}/state" for index in range(first, first + options.subscriptions))
        connect = packet(0x10, text("MQTT") + b"\x04\x00\x00\x00" + text(f"fleet-{number}"))
        subscribe = packet(0x82, b"\x00\x01" + b"".join(text(name) + b"\x01" for name in filters))
        # CONNACK, and a SUBACK with a byte for each filter.
        self.wanted = 4 + len(packet(0x90, bytes(2 + options.subscriptions)))
        self.connection = socket.create_connection(address, PATIENCE)
        self.connection.sendall(connect + subscribe)

    def is_done(self):
        more = self.connection.recv(4096)
        if not more and not self.has_left:
            raise ConnectionResetError
        self.answer += more
        if len(self.answer) == self.wanted and not self.has_left:
            self.has_left = True
            self.connection.sendall(b"\xe0\x00")
        return not more


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


def make_log(cluster, options):
    """Publishes messages that nobody wants, until each node has enough of log. Clients enough for all partitions to get a share."""
    begun, wanted = time.monotonic(), options.log_gb * 1e9
    while (held := min(cluster.log_bytes(node) for node in range(3))) < wanted:
        rounds = int((wanted - held) / (FILLERS * WINDOW * BLOCK)) + 1
        try:
            publish(cluster.address(cluster.wait()), rounds)
        except OSError:
            # Another node leads.
            continue
        cluster.wait()
    say("log", bytes=[cluster.log_bytes(node) for node in range(3)], seconds=round(time.monotonic() - begun, 1))


def publish(address, rounds):
    links = []
    for number in range(FILLERS):
        link = socket.create_connection(address, PATIENCE)
        link.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(f"filler-{number}")))
        receive(link, 4)
        links.append(link)
    blocks = [b"".join(message(f"filler/{number}", at + 1) for at in range(WINDOW)) for number in range(FILLERS)]
    # Some at once: what a core may have in memory of its clients is bounded.
    for _ in range(rounds):
        for first in range(0, FILLERS, 4):
            for number in range(first, first + 4):
                links[number].sendall(blocks[number])
            for number in range(first, first + 4):
                receive(links[number], WINDOW * 4)
    for link in links:
        link.close()


def message(topic, identifier):
    return packet(0x32, text(topic) + struct.pack(">H", identifier) + bytes(BLOCK))


def receive(link, count):
    while count:
        more = link.recv(count)
        if not more:
            raise ConnectionResetError
        count -= len(more)


def fill(cluster, options):
    """Does each part of it once for a directory."""
    if options.sessions:
        once(cluster, "sessions", f"{options.sessions} {options.subscriptions} {options.filters}", lambda: make_sessions(cluster, options))
    if options.log_gb:
        make_log(cluster, options)


def once(cluster, name, wanted, make):
    note = cluster.dir / f"filled-{name}"
    if not note.exists() or note.read_text() != wanted:
        make()
        note.write_text(wanted)
