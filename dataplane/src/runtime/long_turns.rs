//! What a long turn was made of: work of its own, a wait for the CPU, or sleep.
//!
//! The clock alone cannot tell. A host that gave the CPU to another machine, or a kernel that gave it
//! to another thread, makes a turn long that did little; so the thread's CPU time is asked for, every
//! millisecond and at the end of a long turn, and never for a short one.

use crate::time::Nanos;
use core::time::Duration;

/// Turns from this length on are looked into.
pub const LONG_TURN: Duration = Duration::from_millis(5);
/// How old the reading before a turn may be: by so much the CPU time of a long turn may be overstated.
const FRESH: Duration = Duration::from_millis(1);

/// What the kernel says of the thread of a core; both only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThreadUsage {
    /// CPU time.
    pub cpu: Duration,
    /// Times that it gave up the CPU by itself, asleep.
    pub sleeps: u64,
}

/// What a long turn used, at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Used {
    pub(super) cpu: Duration,
    /// Times that it slept, as far as that is known.
    pub(super) sleeps: u64,
}

/// The last reading.
#[derive(Debug, Default)]
pub(super) struct LongTurns {
    read: Option<ThreadUsage>,
    at: Nanos,
    /// Whether the core has parked since, which is sleep too.
    has_parked: bool,
}

impl LongTurns {
    /// The core parked.
    pub(super) fn on_park(&mut self) {
        self.has_parked = true;
    }

    /// Before the work of a turn: takes a reading if the last one is too old.
    pub(super) fn begin(&mut self, now: Nanos, usage: impl FnOnce() -> Option<ThreadUsage>) {
        if self.read.is_none() || FRESH <= now.since(self.at) {
            *self = Self { read: usage(), at: now, has_parked: false };
        }
    }

    /// Behind a turn that took so long: what it used, if it was a long one and that is known.
    pub(super) fn end(
        &self,
        took: Duration,
        usage: impl FnOnce() -> Option<ThreadUsage>,
    ) -> Option<Used> {
        if took < LONG_TURN {
            return None;
        }
        let (before, after) = (self.read?, usage()?);
        let slept = after.sleeps.saturating_sub(before.sleeps);
        let sleeps = if self.has_parked { 0 } else { slept };
        Some(Used { cpu: after.cpu.saturating_sub(before.cpu).min(took), sleeps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn usage(cpu_ms: u64, sleeps: u64) -> Option<ThreadUsage> {
        Some(ThreadUsage { cpu: Duration::from_millis(cpu_ms), sleeps })
    }

    #[test]
    fn a_long_turn_is_held_against_the_reading_before_it() {
        let mut turns = LongTurns::default();
        turns.begin(Nanos::from_millis(10), || usage(100, 7));
        turns.begin(Nanos::from_millis(10), || panic!("it was read just now"));
        let took = Duration::from_millis(30);
        let used = Used { cpu: Duration::from_millis(2), sleeps: 1 };
        assert_eq!(turns.end(took, || usage(102, 8)), Some(used));
        let used = Used { cpu: took, sleeps: 0 };
        assert_eq!(turns.end(took, || usage(190, 7)), Some(used), "no more than it took");
        turns.on_park();
        assert_eq!(turns.end(took, || usage(130, 9)), Some(used), "it may have slept before");
        turns.begin(Nanos::from_millis(40), || usage(130, 9));
        assert_eq!(turns.end(took, || usage(160, 9)), Some(used));
    }

    #[test]
    fn a_short_turn_costs_nothing_and_what_is_not_known_is_not_guessed() {
        let mut turns = LongTurns::default();
        assert_eq!(turns.end(LONG_TURN, || usage(1, 1)), None, "nothing was read before");
        turns.begin(Nanos(0), || usage(0, 0));
        let short = LONG_TURN - Duration::from_nanos(1);
        assert_eq!(turns.end(short, || panic!("it is short")), None);
        assert_eq!(turns.end(LONG_TURN, || None), None);
    }
}
