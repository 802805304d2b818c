"""Waiting with a bound. Every bound of the suite is scaled by one factor, for slow machines."""

import os
import time

#: An emulated guest sets this to how much slower it is than the machine the bounds were chosen on.
TIME_FACTOR = float(os.environ.get("RINGLANE_TEST_TIME_FACTOR", "1"))

#: How long something that must happen may take, in seconds, before the test fails.
PATIENCE = 10.0 * TIME_FACTOR


def wait_until(condition, what, seconds=PATIENCE, interval=0.01):
    """Returns the first true value of `condition()`, or fails naming `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(interval)
