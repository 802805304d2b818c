//! How long a leader's log waits for more before its next round.
//!
//! A round costs each of the replicas a write, a sync and several messages, whatever is in it. Publishers that were just
//! answered, or are about to be, send their next messages within moments: a round that begins with the first of them
//! leaves the others to the next one. So it waits until as many records have come as were committed since the last round
//! began, but not for long, and not at all where few publish at a time or much has come already.

use super::progress::Progress;
use crate::ids::Offset;
use crate::time::Nanos;
use core::time::Duration;

/// With fewer records in a round nothing is waited for: a lone publisher has its round at once.
const RECORDS_MIN: u64 = 16;
/// A round of so many bytes is worth its cost.
const BYTES_ENOUGH: u64 = 512 * 1024;
/// Nothing waits for longer than this behind a round or behind the first commit after it, nor than so many rounds usually
/// take.
const WAIT_MAX: Duration = Duration::from_millis(3);
const WAIT_ROUNDS: u32 = 3;

/// What the next round waits for.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Up to where records were committed when this was last looked at.
    committed: Offset,
    /// Records that were committed since the last round began.
    released: u64,
    /// Records of the last round; 0 if nothing was committed before it, since then nobody waits for that.
    written: u64,
    until: Nanos,
    /// Commits that come one after the other prolong it no further.
    latest: Option<Nanos>,
}

impl Gather {
    /// A round begins with so many records.
    pub(super) fn on_begun(&mut self, records: u64) {
        self.written = if self.released > 0 { records } else { 0 };
        self.released = 0;
    }

    /// It is durable here: soon it will be with a majority.
    pub(super) fn on_ended(&mut self, now: Nanos, usual: Duration) {
        (self.until, self.latest) = (now + wait(usual), None);
    }

    /// Records are committed up to here.
    pub(super) fn on_committed(&mut self, now: Nanos, committed: Offset, usual: Duration) {
        if self.committed < committed {
            self.released += committed.0 - self.committed.0;
            self.committed = committed;
            let latest = *self.latest.get_or_insert(now + WAIT_MAX);
            self.until = (now + wait(usual)).min(latest);
        }
    }

    /// Whether a round that could begin now waits.
    pub(super) fn waits(&self, now: Nanos, progress: &Progress, queued_bytes: u64) -> bool {
        let queued = progress.accepted().0 - progress.submitted().0;
        let is_answered = progress.flushed() <= self.committed;
        let have_come = is_answered && self.released <= queued;
        now < self.until && self.may_wait(queued_bytes) && !have_come
    }

    /// Whether many publish at a time, and not much has come already.
    pub(super) fn may_wait(&self, queued_bytes: u64) -> bool {
        RECORDS_MIN <= self.released.max(self.written) && queued_bytes < BYTES_ENOUGH
    }

    /// Until when.
    pub(super) fn until(&self) -> Nanos {
        self.until
    }
}

/// For how long a round waits where rounds take so long.
fn wait(usual: Duration) -> Duration {
    (usual * WAIT_ROUNDS).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_micros(500);
    const BEGUN: Nanos = Nanos(1_000_000);

    /// A log in which a round of so many records was written and `committed` of them are committed, at `BEGUN`, and
    /// `queued` have come since.
    fn after(written: u64, committed: u64, queued: u64) -> (Gather, Progress) {
        let (mut gather, mut progress) = (Gather::default(), Progress::at(Offset(0), Offset(0)));
        progress.accept(Offset(0), Offset(written));
        gather.on_begun(written);
        progress.submit(Offset(written));
        progress.flush(Offset(written), Offset(0));
        gather.on_ended(BEGUN, USUAL);
        gather.on_committed(BEGUN, Offset(committed), USUAL);
        if queued > 0 {
            progress.accept(Offset(written), Offset(written + queued));
        }
        (gather, progress)
    }

    #[test]
    fn a_round_waits_for_those_who_were_answered_and_for_those_who_soon_will_be() {
        for (written, committed, queued, waits) in [
            (100, 100, 1, true),
            (100, 100, 99, true),
            (100, 100, 100, false),
            (100, 60, 100, true),
            (RECORDS_MIN, RECORDS_MIN, 1, true),
            (RECORDS_MIN - 1, RECORDS_MIN - 1, 1, false),
            (1, 0, 1, false),
            // What is answered without a majority comes back at once: nobody waits for a commit.
            (100, 0, 1, false),
        ] {
            let (gather, progress) = after(written, committed, queued);
            let case = (written, committed, queued);
            assert_eq!(gather.waits(BEGUN, &progress, 1000), waits, "{case:?}");
            assert!(!gather.waits(BEGUN, &progress, BYTES_ENOUGH), "{case:?}");
            assert!(!gather.waits(gather.until(), &progress, 1000), "{case:?}");
        }
    }

    #[test]
    fn nothing_waits_for_longer_than_some_rounds_take_nor_than_the_bound() {
        let (mut gather, _) = after(100, 100, 1);
        assert_eq!(gather.until(), BEGUN + USUAL * WAIT_ROUNDS);
        gather.on_committed(BEGUN + USUAL, Offset(100), USUAL);
        assert_eq!(gather.until(), BEGUN + USUAL * WAIT_ROUNDS, "nothing more was committed");
        gather.on_ended(BEGUN, WAIT_MAX * 2);
        assert_eq!(gather.until(), BEGUN + WAIT_MAX);
    }

    #[test]
    fn commits_one_after_the_other_prolong_it_within_the_bound() {
        let (mut gather, progress) = after(200, 100, 1);
        for step in 1..=80_u32 {
            let now = BEGUN + WAIT_MAX / 40 * step;
            gather.on_committed(now, Offset(100 + u64::from(step)), USUAL);
            let waits = gather.waits(now, &progress, 1000);
            assert_eq!(waits, now < BEGUN + WAIT_MAX, "step {step}");
        }
    }
}
