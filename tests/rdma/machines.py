"""Three guests with soft-RoCE devices that meet in a switch of the harness.

Each has a second network card to the host alone (QEMU's user network): etcd runs on the host, and the
load of the tests comes from there. Each has a disk of its own that outlives it.
"""

import base64
import ctypes
import json
import mmap
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "guest"))
from switch import Switch  # noqa: E402  the path is set above

NODES = (1, 2, 3)
#: Seconds that anything may take, times the factor: only a hang takes that long.
PATIENCE = 10
#: What a guest listens on for clients, and for those who look at it.
MQTT_PORT, CONTROL_PORT = 1883, 18083
#: How a guest reaches the host.
HOST_ADDRESS = "10.0.2.2"
DISK_BYTES = 1 << 30


def say(text):
    """A line of the report."""
    print(f"rdma: {text}", flush=True)


class Failure(Exception):
    """Something was not as it has to be."""


def check(condition, text):
    """A thing that has to be so."""
    if not condition:
        raise Failure(text)


def free_port():
    """A port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ticks_per_millisecond():
    """How fast the processor's time stamp counter is, which an emulated one passes on.

    A guest that is not told measures it while it boots, and on a busy host is wrong by several times.
    """
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    before, began = read(), time.monotonic_ns()
    time.sleep(0.2)
    after, ended = read(), time.monotonic_ns()
    return round((after - before) * 1_000_000 / (ended - began))


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
        self.image, self.job, self.switch = image, job, switch
        self.disk = self.directory / f"disk-{number}"
        self.mqtt, self.control_plane = free_port(), free_port()
        self.process = None
        make_disk(self.disk)
        self.boot()

    def boot(self):
        """Starts the machine with the disk as it is."""
        self.events, self.seen, self.lines, self._rest = [], 0, [], b""
        control, monitor = (self.directory / f"{name}-{self.number}" for name in ("control", "monitor"))
        for path in (control, monitor):
            path.unlink(missing_ok=True)
        Path(self.switch.guest_path(self.number)).unlink(missing_ok=True)
        self.process = subprocess.Popen(self._command(control, monitor), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=sys.stderr)
        self.control = connect(control, 30)
        self.control.setblocking(False)
        self.monitor = connect(monitor, 30).makefile("rwb")
        self.monitor.readline()
        self.qmp("qmp_capabilities")

    def _command(self, control, monitor):
        number = self.number
        kernel = ("console=ttyS0 quiet panic=-1 mitigations=off nowatchdog no_timer_check tsc=reliable "
                  f"tsc_early_khz={ticks_per_millisecond()} net.ifnames=0 ringlane.node={number}")
        ports = (f"dgram,id=n0,local.type=unix,local.path={self.switch.guest_path(number)},"
                 f"remote.type=unix,remote.path={self.switch.switch_path(number)}")
        to_host = (f"user,id=n1,hostfwd=tcp:127.0.0.1:{self.mqtt}-:{MQTT_PORT},"
                   f"hostfwd=tcp:127.0.0.1:{self.control_plane}-:{CONTROL_PORT}")
        drive = "format=raw,if=virtio"
        return ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=256",
                "-cpu", "max", "-smp", "2", "-m", "640", "-nodefaults", "-no-user-config",
                "-display", "none", "-no-reboot",
                "-kernel", f"{self.image}/vmlinuz", "-initrd", f"{self.image}/initramfs.gz",
                "-append", kernel,
                "-drive", f"file={self.image}/root.img,{drive},readonly=on",
                "-drive", f"file={self.job},{drive},readonly=on",
                # What the guest has synced survives its end, which is all that is asked of it here.
                "-drive", f"file={self.disk},{drive},cache=unsafe",
                "-netdev", ports,
                "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:0{number}",
                "-netdev", to_host, "-device", "virtio-net-pci,netdev=n1,mac=52:54:00:77:01:01",
                "-serial", f"file:{self.directory}/console-{number}",
                "-serial", f"file:{self.directory}/status-{number}",
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
        """A line for the guest's job."""
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
            if text.startswith('{"event"'):
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

    def host_cpu(self):
        """CPU seconds that the host has spent on this machine: whatever runs in it, and its emulation."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    def console(self):
        """The last lines that the kernel has printed: why it ended, if it did."""
        text = (self.directory / f"console-{self.number}").read_text(errors="replace")
        return "\n".join(text.splitlines()[-40:])

    def is_alive(self):
        """Whether the machine runs, or stands still."""
        return self.process.poll() is None


def make_disk(path):
    """An empty ext4 on a sparse file."""
    with open(path, "wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", path],
                   check=True, stdout=subprocess.DEVNULL)


class Machines:
    """The guests, their switch, and the factor by which this machine is slow."""

    def __init__(self, image, job, directory):
        self.switch = Switch(str(directory), len(NODES))
        self.switch.start()
        started = time.monotonic()
        self.guests = {}
        self.factor = 60
        try:
            for number in NODES:
                self.guests[number] = Guest(number, image, job, directory, self.switch)
            for number in NODES:
                booted = self.wait(number, "booted")
        except BaseException:
            self.stop()
            raise
        seconds = time.monotonic() - started
        # Three guests boot at once in some 5 s where nothing else runs.
        self.factor = min(16, max(2, round(seconds / 3)))
        say(f"{len(NODES)} guests with kernel {booted['detail']} up after {seconds:.1f} s: "
            f"time-outs times {self.factor}")

    def wait(self, number, event, seconds=PATIENCE):
        """The next such event of a guest after those that were waited for."""
        guest = self.guests[number]
        end = time.monotonic() + seconds * self.factor
        while True:
            guest.read()
            for position in range(guest.seen, len(guest.events)):
                found = guest.events[position]
                guest.seen = position + 1
                check(found.get("event") != "broken", f"node {number}: {found.get('detail')}")
                if found.get("event") == event:
                    return found
            if time.monotonic() > end or not guest.is_alive():
                raise Failure(f"node {number} never said {event}; last: {guest.lines[-8:]}")
            time.sleep(0.02)

    def ask(self, number, line, event, seconds=PATIENCE):
        """Sends a line and waits for an event that comes after it."""
        guest = self.guests[number]
        guest.read()
        guest.seen = len(guest.events)
        guest.send(line)
        return self.wait(number, event, seconds)

    def lines(self, number, line, event):
        """What a guest prints before an event that comes after a line."""
        self.guests[number].read()
        before = len(self.guests[number].lines)
        self.ask(number, line, event)
        return [text[2:] for text in self.guests[number].lines[before:] if text.startswith("| ")]

    def do(self, number, command):
        """A command in the guest, which has to succeed."""
        code = self.ask(number, f"do {command}", "ran")["detail"]
        check(code == "0", f"node {number}: {command} ended with {code}")

    def write(self, number, name, text):
        """A file on the guest's disk."""
        encoded = base64.b64encode(text.encode()).decode()
        self.ask(number, f"write {name} {encoded}", "written")

    def boot_again(self, number):
        """Starts a machine that was lost, with its disk as it was."""
        self.guests[number].boot()
        self.wait(number, "booted")

    def stop(self):
        """Ends everything."""
        for guest in self.guests.values():
            guest.kill()
        self.switch.stop()
