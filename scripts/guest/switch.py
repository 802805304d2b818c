"""A small Ethernet switch in user space: one unix datagram socket per port, for guests of QEMU.

Each guest sends its frames to a socket of the switch and receives them at its own (`-netdev dgram`).
The switch learns addresses, floods what it does not know, and drops what the test says: a set of
(from, to) pairs of ports, so that a way can be cut in one direction only.

It is a thread of the harness. What a guest does not take at once is dropped, as a switch does it.
"""

import os
import selectors
import socket
import threading

FRAME_BYTES_MAX = 65536
BUFFER_BYTES = 4 << 20


class Switch(threading.Thread):
    """Ports are numbered from 1, as the nodes are."""

    def __init__(self, directory, ports):
        super().__init__(daemon=True)
        self.directory = directory
        self.ports = range(1, ports + 1)
        self.cut = set()
        self.frames = 0
        self.dropped = 0
        self._learned = {}
        self._ended = False
        self._sockets = {port: self._bind(self.switch_path(port)) for port in self.ports}

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
        ready = selectors.DefaultSelector()
        for port, bound in self._sockets.items():
            ready.register(bound, selectors.EVENT_READ, port)
        while not self._ended:
            for key, _ in ready.select(timeout=0.2):
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
            if (port, to) in self.cut:
                self.dropped += 1
                continue
            try:
                self._sockets[port].sendto(frame, self.guest_path(to))
            except OSError:
                self.dropped += 1

    def cut_one_way(self, source, target):
        """From now on nothing gets from `source` to `target`; the other way goes on."""
        self.cut = self.cut | {(source, target)}

    def cut_both_ways(self, one, other):
        """Nothing gets through between the two."""
        self.cut = self.cut | {(one, other), (other, one)}

    def heal(self):
        """Everything gets through."""
        self.cut = set()

    def stop(self):
        """Ends the thread."""
        self._ended = True
        self.join()
        for bound in self._sockets.values():
            bound.close()
