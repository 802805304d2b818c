"""Runs a broker for a test in another language: `python3 -m harness.serve`.

Prints one line of JSON with the ports once the broker serves, and stops it when standard input
ends. The exit status is that of the broker's own end: 0 only if it drained and exited with 0.
RINGLANE_TEST_TRANSPORT and RINGLANE_TEST_CORES choose transport and cores; each argument KEY=VALUE
is a configuration key with a TOML value.
"""

import json
import os
import sys
import tempfile

from .broker import Broker


def main():
    """Starts, announces, waits, stops."""
    overrides = {key: json.loads(value) for key, value in (argument.split("=", 1) for argument in sys.argv[1:])}
    with tempfile.TemporaryDirectory(prefix="ringlane-") as directory:
        broker = Broker(
            directory, os.environ.get("RINGLANE_TEST_TRANSPORT", "auto"),
            os.environ.get("RINGLANE_TEST_CORES", "0"), overrides)
        broker.start()
        ports = {"tcp": broker.port, "websocket": broker.websocket_port, "control": broker.control_port}
        print(json.dumps(ports), flush=True)
        sys.stdin.read()
        broker.stop()


if __name__ == "__main__":
    main()
