"""A small Ethernet switch in user space: one unix datagram socket per port, for guests of QEMU.

Each guest sends its frames to a socket of the switch and receives them at its own (`-netdev dgram`).
The switch learns addresses, floods what it does not know, and drops what the test says: a set of
(from, to) pairs of ports, so that a way can be cut in one direction only, for all or for RoCE alone.

It is a thread of the harness. What a guest does not take at once waits, up to a bound, as in a switch: a
kernel queues 10 datagrams for a unix socket, and a burst of a queue pair is 128 packets.
"""

import collections
import os
import selectors
import socket
import threading

FRAME_BYTES_MAX = 65536
BUFFER_BYTES = 4 << 20
#: Frames that wait for a guest at most; further ones are dropped.
WAITING_MAX = 4096
IPV4, UDP, ROCE_PORT = b"\x08\x00", b"\x11", (4791).to_bytes(2, "big")


def is_roce(frame):
    """Whether it is a packet of RoCE v2: UDP over IPv4, without options, to its port."""
    return frame[12:14] == IPV4 and frame[23:24] == UDP and frame[36:38] == ROCE_PORT


class Switch(threading.Thread):
    """Ports are numbered from 1, as the nodes are."""

    def __init__(self, directory, ports):
        super().__init__(daemon=True)
        self.directory = directory
        self.ports = range(1, ports + 1)
        self.cut = set()
        self.roce_cut = set()
        self.frames = 0
        self.dropped = 0
        self._learned = {}
        self._ended = False
        self._sockets = {port: self._bind(self.switch_path(port)) for port in self.ports}
        self._outputs = {}
        self._waiting = {port: collections.deque() for port in self.ports}
        self._ready = selectors.DefaultSelector()

    def switch_path(self, port):
        """Where the guest of this port sends to."""
        return os.path.join(self.directory, f"switch-{port}")

    def guest_path(self, port):
        """Where the guest of this port receives; QEMU binds it."""
        return os.path.join(self.directory, f"guest-{port}")

    @staticmethod
    def _bind(path):
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            bound.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        bound.bind(path)
        return bound

    def run(self):
        """Forwards until `stop`."""
        for port, bound in self._sockets.items():
            self._ready.register(bound, selectors.EVENT_READ, port)
        while not self._ended:
            for key, events in self._ready.select(timeout=0.2):
                if events & selectors.EVENT_WRITE:
                    self._push_on(key.data)
                else:
                    self._drain(key.fileobj, key.data)

    def _drain(self, bound, port):
        for _ in range(64):
            try:
                frame = bound.recv(FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            self._forward(port, frame)

    def _forward(self, port, frame):
        target, source = frame[:6], frame[6:12]
        self._learned[source] = port
        self.frames += 1
        known = self._learned.get(target)
        for to in [known] if known else self.ports:
            if to == port:
                continue
            if (port, to) in self.cut or ((port, to) in self.roce_cut and is_roce(frame)):
                self.dropped += 1
                continue
            self._send(to, frame)

    def _send(self, port, frame):
        waiting = self._waiting[port]
        if len(waiting) == WAITING_MAX or not self._output(port):
            self.dropped += 1
            return
        waiting.append(frame)
        if len(waiting) == 1:
            self._push_on(port)

    def _output(self, port):
        """A socket that is connected to the guest, so that the kernel says when it takes more."""
        if port not in self._outputs:
            output = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            output.setblocking(False)
            output.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            try:
                output.connect(self.guest_path(port))
            except OSError:
                output.close()
                return None
            self._outputs[port] = output
        return self._outputs[port]

    def _push_on(self, port):
        """Sends what waits, and listens for room if not all of it went."""
        output, waiting = self._outputs[port], self._waiting[port]
        watched = output in self._ready.get_map()
        try:
            while waiting:
                output.send(waiting[0])
                waiting.popleft()
        except BlockingIOError:
            if not watched:
                self._ready.register(output, selectors.EVENT_WRITE, port)
            return
        except OSError:
            # The guest is gone. One that boots again listens at a socket of its own.
            self.dropped += len(waiting)
            waiting.clear()
            del self._outputs[port]
        if watched:
            self._ready.unregister(output)
        if self._outputs.get(port) is not output:
            output.close()

    def cut_one_way(self, source, target):
        """From now on nothing gets from `source` to `target`; the other way goes on."""
        self.cut = self.cut | {(source, target)}

    def cut_roce(self, one, other):
        """No RoCE gets through between the two; all else does."""
        self.roce_cut = self.roce_cut | {(one, other), (other, one)}

    def heal(self):
        """Everything gets through."""
        self.cut, self.roce_cut = set(), set()

    def stop(self):
        """Ends the thread."""
        self._ended = True
        self.join()
        for used in [*self._sockets.values(), *self._outputs.values()]:
            used.close()
