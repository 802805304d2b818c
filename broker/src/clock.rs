//! The wall clock, as the cores see it.
//!
//! A core's time is that of `CLOCK_MONOTONIC`, which never jumps. What is written down, and read
//! after a restart, needs the time of day: the control thread keeps the difference of the two
//! clocks up to date, and a core adds it, without a system call. Records are ordered by offset,
//! never by this.

use ringlane_dataplane::time::Nanos;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The difference between the time of day and a core's time, shared by all threads.
#[derive(Clone, Debug, Default)]
pub struct WallClock(Arc<AtomicI64>);

impl WallClock {
    /// A clock that is right now.
    #[must_use]
    pub fn of_host() -> Self {
        let clock = Self::default();
        clock.refresh();
        clock
    }

    /// Takes the difference again: after a step of the time of day, records carry the new one.
    pub fn refresh(&self) {
        self.0.store(difference_ms(), Ordering::Relaxed);
    }

    /// The time of day at a core's time, in milliseconds since 1970; 0 before that.
    #[must_use]
    pub fn unix_ms(&self, now: Nanos) -> u64 {
        let monotonic = i64::try_from(now.0 / 1_000_000).unwrap_or(i64::MAX);
        let unix = monotonic.saturating_add(self.0.load(Ordering::Relaxed));
        u64::try_from(unix).unwrap_or(0)
    }
}

/// The time of day where no core is asked, in milliseconds since 1970.
pub(crate) fn unix_ms_now() -> u64 {
    u64::try_from(millis(ClockId::Realtime)).unwrap_or(0)
}

/// The time of day less a core's time. The thread may be made to wait between the two readings, which
/// would be taken for a step of the clock: the readings that lie nearest to each other count.
fn difference_ms() -> i64 {
    let readings = [(); 4].map(|()| {
        let before = millis(ClockId::Monotonic);
        let wall = millis(ClockId::Realtime);
        (millis(ClockId::Monotonic) - before, wall - before)
    });
    readings.into_iter().min().map_or(0, |(_, difference)| difference)
}

fn millis(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn it_is_the_time_of_day() {
        let clock = WallClock::of_host();
        let now = clock_gettime(ClockId::Monotonic);
        let now = Nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64);
        let expected = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(clock.unix_ms(now).abs_diff(expected) < 60_000);
    }

    #[test]
    fn a_clock_before_1970_is_at_its_beginning() {
        let clock = WallClock::default();
        clock.0.store(-1_000_000, Ordering::Relaxed);
        assert_eq!(clock.unix_ms(Nanos::from_secs(1)), 0);
        assert_eq!(clock.unix_ms(Nanos::from_secs(1001)), 1000);
    }
}
