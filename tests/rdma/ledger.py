"""The ledger of acknowledged writes (`ringlane-bench ledger`) beside the scenarios: clients with sessions and QoS 2, which the
faults of the scenarios strike.

    ledger.py SOCKET strike|heal      what the ledger calls in each cycle: it waits until the harness has done so
"""

import socket
import subprocess
import sys
from pathlib import Path

from machines import Failure, check, say

#: What is said back when a fault has come, or gone.
DONE = b"done"


class Ledger:
    """One run, a cycle for each fault."""

    def __init__(self, program, directory, ports, cycles, factor):
        self.calls = directory / "ledger.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.calls))
        self.listener.listen(1)
        self.listener.settimeout(0.5)
        self.call = None
        self.output = directory / "ledger.txt"
        at = ",".join(f"127.0.0.1:{port}" for port in ports)
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [program, "ledger", "--at", at, "--strike", self._command("strike"), "--heal", self._command("heal"),
                 "-n", str(cycles), "--seed", "5", "--patience", str(30 * factor), "--silence", str(2 * factor),
                 "--will-wait", str(3 * factor)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def _command(self, word):
        return f"'{sys.executable}' '{Path(__file__).resolve()}' '{self.calls}' {word}"

    def wait_call(self, word):
        """Waits until the ledger wants a fault to come, or to go."""
        while self.process.poll() is None:
            try:
                self.call, _ = self.listener.accept()
            except TimeoutError:
                continue
            asked = self.call.recv(64).decode()
            check(asked == word, f"the ledger wants {asked}, not {word}")
            return
        raise Failure(f"the ledger ended with {self.process.returncode}:\n{self.output.read_text()}")

    def answer(self):
        """It is so."""
        self.call.sendall(DONE)
        self.call.close()
        self.call = None

    def wait_end(self, seconds):
        """The last reckoning: nothing was found."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"the ledger did not end in {seconds:.0f} s") from None
        text = self.output.read_text()
        check(code == 0, f"the ledger ended with {code}:\n{text}")
        for line in text.splitlines():
            say(f"ledger | {line}")

    def stop(self):
        """Ends it before its time."""
        self.process.kill()
        self.process.wait()
        self.listener.close()


def main():
    """Calls the harness; exit status 0 if it has done what it was asked."""
    path, word = sys.argv[1:3]
    with socket.socket(socket.AF_UNIX) as call:
        call.connect(path)
        call.sendall(word.encode())
        return 0 if call.recv(64) == DONE else 1


if __name__ == "__main__":
    sys.exit(main())
