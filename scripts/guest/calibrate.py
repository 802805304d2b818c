"""How slow this machine is: prints the seconds that a fixed piece of work takes.

run.sh measures the host with it, job.sh the guest; the ratio scales the time-outs of the tests. The
work is of the kind that the suite does: Python byte code, system calls, and a hand-over between two
threads and back for each of a thousand small messages on a TCP connection.
"""

import socket
import threading
import time

MESSAGES = 1000
LOOPS = 300_000


def echo(listener):
    """Sends back what the one connection brings."""
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(256):
            connection.sendall(data)


def main():
    """One measurement."""
    started = time.monotonic()
    total = 0
    for number in range(LOOPS):
        total += number * number & 255
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        with socket.create_connection(listener.getsockname()) as connection:
            for _ in range(MESSAGES):
                connection.sendall(b"ping")
                connection.recv(256)
    print(f"{time.monotonic() - started:.4f}")


if __name__ == "__main__":
    main()
