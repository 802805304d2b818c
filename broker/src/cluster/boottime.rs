//! The clock that leases are counted on: it goes on while the host sleeps.

use ringlane_dataplane::time::Nanos;
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` (clock_gettime(2)): monotonic, and not stopped by a suspend.
#[must_use]
pub fn boottime() -> Nanos {
    let time = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    Nanos(secs * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}
