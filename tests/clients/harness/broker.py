"""A broker process: started on free ports in a temporary directory, stopped by SIGTERM.

The broker is `target/release/ringlane` unless RINGLANE_TEST_BROKER names another program. If that
program is called `mosquitto`, the suite checks itself against the broker that most users know; what
only Ringlane offers is then skipped.
"""

import os
import random
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .deadline import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[3]
HOST = "127.0.0.1"
#: Below the ephemeral range, so that no outgoing connection of a test takes a port in between.
PORTS = range(20000, 32000)


def broker_program():
    """The program under test."""
    default = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "ringlane"
    return os.environ.get("RINGLANE_TEST_BROKER", str(default))


def is_ringlane():
    """False while the suite checks itself against Mosquitto."""
    return Path(broker_program()).name != "mosquitto"


def free_port(taken):
    """A TCP port on which nothing listens and that is not in `taken`."""
    for _ in range(1000):
        port = random.choice(PORTS)
        with socket.socket() as probe:
            if port not in taken and probe.connect_ex((HOST, port)) != 0:
                return port
    raise AssertionError("no free port")


def toml_value(value):
    """`value` as TOML text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)


def ringlane_config(broker, overrides):
    """The configuration file of one Ringlane broker: dotted keys, one per line."""
    keys = {
        "listeners.tcp.bind": f"{HOST}:{broker.port}",
        "listeners.websocket.bind": f"{HOST}:{broker.websocket_port}",
        "control.bind": f"{HOST}:{broker.control_port}",
        "sys.interval": 1,
    }
    keys.update(overrides)
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in keys.items())


#: Ringlane's keys that Mosquitto has under another name.
MOSQUITTO_KEYS = {
    "mqtt.max_packet_size": "max_packet_size",
    "mqtt.max_keep_alive": "max_keepalive",
    "mqtt.max_inflight_messages": "max_inflight_messages",
    "mqtt.topic_alias_maximum": "max_topic_alias",
}


def mosquitto_config(broker, overrides):
    """The same as a Mosquitto configuration."""
    lines = [
        "user root",
        "allow_anonymous true",
        "sys_interval 1",
        "max_queued_messages 0",
        "max_inflight_messages 1024",
        *(f"{MOSQUITTO_KEYS[key]} {value}" for key, value in overrides.items() if "alias" not in key),
        f"listener {broker.port} {HOST}",
        *(f"{MOSQUITTO_KEYS[key]} {value}" for key, value in overrides.items() if "alias" in key),
        f"listener {broker.websocket_port} {HOST}",
        "protocol websockets",
    ]
    return "\n".join(lines) + "\n"


class Broker:
    """One broker process. `overrides` maps dotted configuration keys to values."""

    def __init__(self, directory, transport="auto", cores="0", overrides=None):
        self.directory = Path(directory)
        self.transport = transport
        self.cores = cores
        self.port = free_port(())
        self.websocket_port = free_port((self.port,))
        self.control_port = free_port((self.port, self.websocket_port))
        self.log_path = self.directory / "broker.log"
        self.config_path = self.directory / "broker.conf"
        writer = ringlane_config if is_ringlane() else mosquitto_config
        self.config_path.write_text(writer(self, overrides or {}), encoding="utf-8")
        self.process = None

    def command(self):
        """The command line that starts it."""
        if not is_ringlane():
            return [broker_program(), "-c", str(self.config_path)]
        return [
            broker_program(), "serve",
            "-c", str(self.config_path),
            "--data-dir", str(self.directory / "data"),
            "--transport", self.transport,
            "--cores", self.cores,
        ]

    def start(self):
        """Starts the process and waits until it serves."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self.serves, f"the broker is ready\n{self.log()}", PATIENCE, 0.02)
        return self

    def serves(self):
        """Whether it accepts clients now; fails at once when the process has ended."""
        if self.process.poll() is not None:
            raise AssertionError(f"the broker ended with {self.process.returncode}\n{self.log()}")
        if is_ringlane():
            return self.control("/readyz")[0] == 200
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def control(self, path):
        """Status and text of a control-plane page; status 0 if nothing answers."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.control_port}{path}", timeout=PATIENCE) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name):
        """The sum over all cores of one metric."""
        status, text = self.control("/metrics")
        assert status == 200
        samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        values = [float(value) for sample, value in samples if sample.split("{")[0] == name]
        assert values, f"no metric {name}"
        return sum(values)

    def stop(self):
        """Ends it by SIGTERM, and asserts that it drains and exits with 0."""
        if self.process is None:
            return
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the broker did not stop on SIGTERM\n{self.log()}") from None
        assert code == 0, f"the broker's exit code is {code}\n{self.log()}"

    def log(self):
        """The end of what it logged."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-40:])
