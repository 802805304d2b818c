//! The marks of a log, and that they only ever move forward and in their order.
//!
//! All are exclusive: `watermark <= flushed <= submitted <= accepted`.

use crate::ids::Offset;

/// How far a log has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    accepted: Offset,
    submitted: Offset,
    flushed: Offset,
    watermark: Offset,
}

impl Progress {
    /// A log that ends at `next`, all of it flushed, and that says so up to `watermark`.
    ///
    /// # Panics
    /// If the watermark is behind the end.
    #[must_use]
    pub fn at(next: Offset, watermark: Offset) -> Self {
        assert!(watermark <= next, "nothing behind the end of a log is durable");
        Self { accepted: next, submitted: next, flushed: next, watermark }
    }

    /// Up to here records are in memory.
    #[must_use]
    pub fn accepted(&self) -> Offset {
        self.accepted
    }

    /// Up to here records have been handed to the disk.
    #[must_use]
    pub fn submitted(&self) -> Offset {
        self.submitted
    }

    /// Up to here records are durable on this node.
    #[must_use]
    pub fn flushed(&self) -> Offset {
        self.flushed
    }

    /// Up to here the log itself says, durably, that records are durable.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.watermark
    }

    /// Records `from..to` are in memory.
    pub(super) fn accept(&mut self, from: Offset, to: Offset) {
        assert_eq!(from, self.accepted, "records are accepted without a gap");
        assert!(from < to, "a batch has records");
        self.accepted = to;
    }

    /// Records up to `to` are handed to the disk.
    pub(super) fn submit(&mut self, to: Offset) {
        assert!(self.submitted <= to, "what was handed over stays so");
        assert!(to <= self.accepted, "only what was accepted is handed over");
        self.submitted = to;
    }

    /// Records up to `to` are durable, and batches that say so of those up to `watermark`.
    pub(super) fn flush(&mut self, to: Offset, watermark: Offset) {
        assert!(self.flushed <= to, "what is durable stays so");
        assert!(to <= self.submitted, "only what was handed over is durable");
        assert!(self.watermark <= watermark, "what was said to be durable stays so");
        assert!(watermark <= self.flushed, "a batch names what was durable before it");
        self.flushed = to;
        self.watermark = watermark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_follow_each_other() {
        let mut progress = Progress::at(Offset(5), Offset(3));
        progress.accept(Offset(5), Offset(9));
        progress.submit(Offset(7));
        progress.flush(Offset(7), Offset(5));
        let marks = [progress.accepted(), progress.submitted(), progress.flushed()];
        assert_eq!(marks, [Offset(9), Offset(7), Offset(7)]);
        assert_eq!(progress.watermark(), Offset(5));
    }

    #[test]
    #[should_panic(expected = "handed over is durable")]
    fn nothing_is_durable_before_it_was_handed_over() {
        let mut progress = Progress::at(Offset(0), Offset(0));
        progress.accept(Offset(0), Offset(2));
        progress.submit(Offset(1));
        progress.flush(Offset(2), Offset(0));
    }

    #[test]
    #[should_panic(expected = "without a gap")]
    fn no_offset_is_left_out() {
        Progress::at(Offset(0), Offset(0)).accept(Offset(1), Offset(2));
    }
}
