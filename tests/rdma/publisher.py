"""Publishers that keep a book: what was acknowledged, whatever happens to nodes and links."""

import selectors
import socket
import threading
import time

from machines import Failure

#: Bytes of a message's payload: a number and filling.
PAYLOAD_BYTES = 256
CONNECT = b"\x00\x04MQTT\x04\x02\x00\x00"
PUBACK = 4


def remaining(length):
    """The length of a packet as MQTT writes it."""
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)


def packet(first, body):
    """A packet of MQTT 3.1.1."""
    return bytes([first]) + remaining(len(body)) + body


def text(value):
    """A string as MQTT writes it."""
    return len(value).to_bytes(2, "big") + value.encode()


class Lost(Exception):
    """The connection is over."""


class Publisher(threading.Thread):
    """One client: QoS 1, a window, the next node when one ends or does not answer.

    With a rate it begins no more messages a second than that.
    """

    def __init__(self, name, ports, window, patience, rate=None):
        super().__init__(daemon=True)
        self.client = name
        self.topic = f"ledger/{name}"
        self.ports = ports
        self.window = window
        self.patience = patience
        self.rate = rate
        self.next_at = 0.0
        #: Publishes up to this number; none: until it is told one.
        self.until = None
        self.sent = 0
        self.acknowledged = set()
        self.unacknowledged = {}
        self.connections = 0
        self.longest_gap = 0.0
        self._end = threading.Event()
        self._stream = None
        self._target = 0

    def payload(self, number):
        """What the message with a number carries."""
        return f"{self.client}/{number:08d}/".ljust(PAYLOAD_BYTES, "x")

    def is_done(self):
        """Whether all that was to be published was acknowledged."""
        return self.until is not None and self.sent >= self.until and not self.unacknowledged

    def finish(self, seconds):
        """Publishes nothing new, and waits until everything was acknowledged."""
        if self.until is None or self.until > self.sent:
            self.until = self.sent
        self.wait(seconds)

    def wait(self, seconds):
        """Waits until it is done."""
        end = time.monotonic() + seconds
        while not self.is_done():
            if time.monotonic() > end:
                raise Failure(f"{self.client}: {len(self.unacknowledged)} of {self.sent} messages were not "
                              f"acknowledged in {seconds:.0f} s")
            time.sleep(0.05)

    def stop(self):
        """Ends the thread."""
        self._end.set()
        self.join()

    def run(self):
        """Until it is stopped."""
        while not self._end.is_set():
            try:
                self._connect()
                self._serve()
            except (Lost, OSError):
                self._target += 1
                self._end.wait(0.2)
            finally:
                if self._stream:
                    self._stream.close()
                    self._stream = None

    def _connect(self):
        port = self.ports[self._target % len(self.ports)]
        self._stream = socket.create_connection(("127.0.0.1", port), timeout=self.patience)
        self._stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream.sendall(packet(0x10, CONNECT + text(self.client)))
        answer = b""
        while len(answer) < 4:
            data = self._stream.recv(4 - len(answer))
            if not data:
                raise Lost
            answer += data
        if answer[3] != 0:
            raise Lost
        self.connections += 1
        self._stream.setblocking(False)

    def _serve(self):
        # What was not acknowledged goes out once more, in its order.
        output = bytearray(b"".join(self._encode(number, 0x3A) for number in self.unacknowledged.values()))
        received, heard_at = bytearray(), time.monotonic()
        with selectors.DefaultSelector() as ready:
            ready.register(self._stream, selectors.EVENT_READ)
            while not self._end.is_set():
                self._fill(output)
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if output else 0)
                ready.modify(self._stream, wanted)
                for _, events in ready.select(timeout=0.1):
                    if events & selectors.EVENT_WRITE:
                        del output[:self._stream.send(output[:65536])]
                    if events & selectors.EVENT_READ:
                        self._receive(received)
                        now = time.monotonic()
                        self.longest_gap = max(self.longest_gap, now - heard_at)
                        heard_at = now
                if not self.unacknowledged:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > self.patience:
                    raise Lost

    def _fill(self, output):
        limit = self.until if self.until is not None else self.sent + self.window
        while self.sent < limit and len(self.unacknowledged) < self.window:
            if self.rate:
                now = time.monotonic()
                if now < self.next_at:
                    return
                self.next_at = max(self.next_at + 1 / self.rate, now - 1)
            number, self.sent = self.sent, self.sent + 1
            self.unacknowledged[number % 65535 + 1] = number
            output += self._encode(number, 0x32)

    def _encode(self, number, first):
        identifier = (number % 65535 + 1).to_bytes(2, "big")
        return packet(first, text(self.topic) + identifier + self.payload(number).encode())

    def _receive(self, received):
        data = self._stream.recv(65536)
        if not data:
            raise Lost
        received += data
        while len(received) >= 4 and received[0] >> 4 == PUBACK:
            number = self.unacknowledged.pop(int.from_bytes(received[2:4], "big"), None)
            del received[:4]
            if number is not None:
                self.acknowledged.add(number)
        if received and received[0] >> 4 != PUBACK:
            raise Lost


class Load:
    """Some publishers, so that several partitions have something to do."""

    def __init__(self, name, count, ports, window, patience, rate=None):
        self.publishers = [Publisher(f"{name}-{index}", ports, window, patience, rate) for index in range(count)]
        for publisher in self.publishers:
            publisher.start()

    def publish(self, count, seconds):
        """So many more of all publishers together, until they were acknowledged."""
        each = count // len(self.publishers)
        for publisher in self.publishers:
            publisher.until = publisher.sent + each
        for publisher in self.publishers:
            publisher.wait(seconds)

    def acknowledged(self):
        """How many were."""
        return sum(len(publisher.acknowledged) for publisher in self.publishers)

    def wait_more(self, count, seconds):
        """Until so many more were acknowledged: the cluster gets on."""
        goal, end = self.acknowledged() + count, time.monotonic() + seconds
        while self.acknowledged() < goal:
            if time.monotonic() > end:
                raise Failure(f"{goal - self.acknowledged()} of {count} messages more were not acknowledged "
                              f"in {seconds:.0f} s")
            time.sleep(0.05)

    def finish(self, seconds):
        """Nothing new; everything that was sent is acknowledged; then they end."""
        for publisher in self.publishers:
            publisher.finish(seconds)
        for publisher in self.publishers:
            publisher.stop()
