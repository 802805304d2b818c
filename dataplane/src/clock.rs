//! A clock that goes wrong, for tests and for simulation: set at another time, and too fast or too slow.

use crate::random::Random;
use crate::time::Nanos;

/// The time of day at which all runs begin.
const UNIX_MS: u64 = 1_800_000_000_000;
/// Parts in a million.
const WHOLE: u64 = 1_000_000;
/// Parts in a million by which a clock is too fast or too slow, at most.
const DRIFT_MAX: u64 = 500;
/// How far apart clocks are set, at most, in nanoseconds.
const OFFSET_MAX: u64 = 1_000_000_000_000;

/// A clock that goes wrong by a part in two thousand at most, and was set at another time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset: u64,
    /// Parts in a million that it is too fast, plus a million.
    rate: u64,
}

impl Clock {
    /// One that shows the time of the run.
    pub const EXACT: Self = Self { offset: 0, rate: WHOLE };

    /// One that goes wrong, as the seed has it.
    pub fn drawn(random: &mut Random) -> Self {
        let rate = random.between(WHOLE - DRIFT_MAX, WHOLE + DRIFT_MAX);
        Self { offset: random.below(OFFSET_MAX), rate }
    }

    /// What it shows at a time of the run.
    #[must_use]
    pub fn at(&self, time: Nanos) -> Nanos {
        Nanos(self.offset + (u128::from(time.0) * u128::from(self.rate) / u128::from(WHOLE)) as u64)
    }

    /// The first time of the run at which it shows at least `local`.
    #[must_use]
    pub fn when(&self, local: Nanos) -> Nanos {
        if local == Nanos::NEVER {
            return local;
        }
        let since = u128::from(local.0.saturating_sub(self.offset));
        Nanos((since * u128::from(WHOLE)).div_ceil(u128::from(self.rate)) as u64)
    }

    /// The time of day.
    #[must_use]
    pub fn unix_ms(&self, time: Nanos) -> u64 {
        UNIX_MS + self.at(time).0 / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_a_time_first_when_it_says() {
        let mut random = Random::new(1);
        for _ in 0..1000 {
            let clock = Clock::drawn(&mut random);
            let local = clock.at(Nanos(random.below(1 << 40)));
            let first = clock.when(local);
            assert!(clock.at(first) >= local);
            assert!(first.0 == 0 || clock.at(Nanos(first.0 - 1)) < local);
        }
        assert_eq!(Clock::EXACT.at(Nanos(7)), Nanos(7));
        assert_eq!(Clock::EXACT.when(Nanos::NEVER), Nanos::NEVER);
    }
}
