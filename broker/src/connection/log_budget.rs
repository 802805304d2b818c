//! Log lines that a hostile client can cause are bounded: a flood of bad packets must not become
//! a flood of lines.

use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// Lines per core and second about clients that misbehave.
const LINES_PER_SECOND: u32 = 20;

/// A budget that is filled up once a second.
#[derive(Debug, Default)]
pub(crate) struct LogBudget {
    since: Nanos,
    spent: u32,
    suppressed: u64,
}

impl LogBudget {
    /// Whether a line may be written now; `Some(n)` says how many were suppressed before it.
    pub(crate) fn take(&mut self, now: Nanos) -> Option<u64> {
        if now.since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.spent = 0;
        }
        if self.spent >= LINES_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.spent += 1;
        Some(core::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut budget = LogBudget::default();
        let start = Nanos::from_secs(5);
        let written = (0..100).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(written, LINES_PER_SECOND as usize);
        assert_eq!(budget.take(Nanos::from_secs(6)), Some(80));
        assert_eq!(budget.take(Nanos::from_secs(6)), Some(0));
    }
}
