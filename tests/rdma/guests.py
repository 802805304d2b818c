"""Three guests with soft-RoCE devices that meet in a switch of the harness."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "guest"))
from switch import Switch  # noqa: E402  the path is set above

NODES = 3
PORT = 22200
#: Seconds that anything may take, times the factor: only a hang takes that long.
PATIENCE = 10


def say(text):
    """A line of the report."""
    print(f"rdma: {text}", flush=True)


class Failure(Exception):
    """Something was not as it has to be."""


def connect(path, seconds):
    """A unix stream to QEMU, once it listens."""
    end = time.monotonic() + seconds
    while True:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.connect(str(path))
            return stream
        except OSError:
            stream.close()
            if time.monotonic() > end:
                raise Failure(f"nothing listens at {path}") from None
            time.sleep(0.05)


class Guest:
    """A machine, and what it says."""

    def __init__(self, number, image, job, directory, switch):
        self.number = number
        self.directory = Path(directory)
        self.events = []
        self.seen = 0
        self.lines = []
        self._rest = b""
        control, monitor = (self.directory / f"{name}-{number}" for name in ("control", "monitor"))
        self.process = subprocess.Popen(self._command(image, job, control, monitor, switch),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=sys.stderr)
        self.control = connect(control, 30)
        self.control.setblocking(False)
        self.monitor = connect(monitor, 30).makefile("rwb")
        self.monitor.readline()
        self.qmp("qmp_capabilities")

    def _command(self, image, job, control, monitor, switch):
        kernel = ("console=ttyS0 quiet panic=-1 mitigations=off nowatchdog no_timer_check tsc=reliable "
                  f"net.ifnames=0 ringlane.node={self.number}")
        ports = (f"dgram,id=n0,local.type=unix,local.path={switch.guest_path(self.number)},"
                 f"remote.type=unix,remote.path={switch.switch_path(self.number)}")
        drive = "format=raw,if=virtio,readonly=on"
        return ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=256",
                "-cpu", "max", "-smp", "2", "-m", "512", "-nodefaults", "-no-user-config",
                "-display", "none", "-no-reboot",
                "-kernel", f"{image}/vmlinuz", "-initrd", f"{image}/initramfs.gz", "-append", kernel,
                "-drive", f"file={image}/root.img,{drive}", "-drive", f"file={job},{drive}",
                "-netdev", ports,
                "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:0{self.number}",
                "-serial", f"file:{self.directory}/console-{self.number}",
                "-serial", f"file:{self.directory}/status-{self.number}",
                "-chardev", f"socket,id=control,path={control},server=on,wait=off",
                "-serial", "chardev:control",
                "-qmp", f"unix:{monitor},server=on,wait=off"]

    def qmp(self, command):
        """A command of QEMU's monitor."""
        self.monitor.write(json.dumps({"execute": command}).encode() + b"\n")
        self.monitor.flush()
        while True:
            answer = json.loads(self.monitor.readline())
            if "return" in answer or "error" in answer:
                return answer

    def send(self, line):
        """A line for the guest's job or its node."""
        self.control.sendall(line.encode() + b"\n")

    def read(self):
        """Takes in what the guest has said."""
        try:
            while data := self.control.recv(65536):
                self._rest += data
        except (BlockingIOError, ConnectionError):
            pass
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            self.lines.append(text)
            if text.startswith("{"):
                try:
                    self.events.append(json.loads(text))
                except ValueError:
                    say(f"node {self.number} said: {text}")
            elif text.startswith("| "):
                say(f"node {self.number} {text}")

    def kill(self):
        """The host is lost, at once."""
        self.process.kill()
        self.process.wait()


class Cluster:
    """The guests, their switch, and the factor by which this machine is slow."""

    def __init__(self, image, job, directory):
        self.directory = Path(directory)
        self.switch = Switch(str(directory), NODES)
        self.switch.start()
        started = time.monotonic()
        self.guests = {}
        self.factor = 60
        try:
            for number in range(1, NODES + 1):
                self.guests[number] = Guest(number, image, job, directory, self.switch)
            for number in self.guests:
                booted = self.wait(number, "booted")
        except BaseException:
            self.stop()
            raise
        seconds = time.monotonic() - started
        # Three guests boot at once in some 5 s where nothing else runs.
        self.factor = min(16, max(2, round(seconds / 3)))
        say(f"{NODES} guests with kernel {booted['detail']} up after {seconds:.1f} s: "
            f"time-outs times {self.factor}")

    def wait(self, number, event, seconds=PATIENCE, **fields):
        """The next such event of a guest after those that were waited for."""
        guest = self.guests[number]
        end = time.monotonic() + seconds * self.factor
        while True:
            for other in self.guests.values():
                other.read()
            for position in range(guest.seen, len(guest.events)):
                found = guest.events[position]
                if found.get("event") == "broken":
                    raise Failure(f"node {number}: {found['detail']}")
                if found.get("event") == event and all(found.get(k) == v for k, v in fields.items()):
                    guest.seen = position + 1
                    return found
            if time.monotonic() > end or guest.process.poll() is not None:
                raise Failure(f"node {number} never said {event} {fields}; last: {guest.lines[-8:]}")
            time.sleep(0.02)

    def mark(self):
        """From here on `wait` looks at what is said after this moment."""
        for guest in self.guests.values():
            guest.read()
            guest.seen = len(guest.events)

    def ask(self, number, line, event, seconds=PATIENCE, **fields):
        """Sends a line and waits for an event that comes after it. What came in between can be waited for
        afterwards."""
        guest = self.guests[number]
        guest.read()
        before, guest.seen = guest.seen, len(guest.events)
        guest.send(line)
        try:
            return self.wait(number, event, seconds, **fields)
        finally:
            guest.seen = before

    def start_node(self, number):
        """Starts the node's process."""
        addresses = " ".join(f"10.77.0.{node}:{PORT}" for node in range(1, NODES + 1))
        ready = self.ask(number, f"start {number} {self.factor} {addresses}", "ready")
        say(f"node {number}: {ready['place']}")

    def status(self, number):
        """What a node says of itself."""
        return self.ask(number, "status", "status")

    def stop(self):
        """Ends everything."""
        for guest in self.guests.values():
            guest.kill()
        self.switch.stop()
