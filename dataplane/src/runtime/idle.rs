//! What a core does when nothing happens: burn its CPU, sleep, or first one and then the other.

use crate::time::Nanos;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;

/// How a core waits; the operator's choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Never blocks: lowest latency, the CPU is always busy.
    Spin,
    /// Blocks after nothing has happened for `spin`.
    SpinThenPark {
        /// How long to look again and again before blocking.
        spin: Duration,
    },
    /// Blocks as soon as a turn did nothing.
    Park,
}

/// How long [`Idle::SpinThenPark`] spins if nothing else is said: about ten times what a sleep and
/// a wake-up cost, so that spinning is cheap against parking at the wrong moment.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(50);

impl Idle {
    /// Whether a core that has had nothing to do since `idle_since` may block at `now`, where
    /// something is expected before `awake_until`.
    #[must_use]
    pub fn may_park(self, idle_since: Nanos, now: Nanos, awake_until: Nanos) -> bool {
        match self {
            Self::Spin => false,
            Self::SpinThenPark { spin } => spin <= now.since(idle_since) && awake_until <= now,
            Self::Park => true,
        }
    }
}

impl Default for Idle {
    fn default() -> Self {
        Self::SpinThenPark { spin: SPIN_DEFAULT }
    }
}

/// The text named no idle strategy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseIdleError;

impl fmt::Display for ParseIdleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected one of: spin, spin-then-park, park")
    }
}

impl core::error::Error for ParseIdleError {}

impl FromStr for Idle {
    type Err = ParseIdleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "spin" => Ok(Self::Spin),
            "spin-then-park" => Ok(Self::default()),
            "park" => Ok(Self::Park),
            _ => Err(ParseIdleError),
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spin => "spin",
            Self::SpinThenPark { .. } => "spin-then-park",
            Self::Park => "park",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for name in ["spin", "spin-then-park", "park"] {
            assert_eq!(name.parse::<Idle>().map(|idle| idle.to_string()), Ok(name.to_owned()));
        }
        for wrong in ["", "Spin", "sleep", "park "] {
            assert_eq!(wrong.parse::<Idle>(), Err(ParseIdleError), "{wrong:?}");
        }
    }

    #[test]
    fn each_strategy_parks_when_it_says() {
        let now = Nanos::from_millis(5);
        let spin = Duration::from_millis(2);
        let table = [
            (Idle::Spin, Nanos(0), false),
            (Idle::Park, now, true),
            (Idle::SpinThenPark { spin }, Nanos::from_millis(4), false),
            (Idle::SpinThenPark { spin }, Nanos::from_millis(3), true),
        ];
        for (idle, since, expected) in table {
            let may_park = idle.may_park(since, now, now);
            assert_eq!(may_park, expected, "{idle:?} since {since:?}");
        }
        let soon = now + Duration::from_nanos(1);
        let idle = Idle::SpinThenPark { spin };
        assert!(!idle.may_park(Nanos(0), now, soon), "something is expected");
        assert!(Idle::Park.may_park(now, now, soon), "but this one never spins");
    }
}
