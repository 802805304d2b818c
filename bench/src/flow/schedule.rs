//! The schedule of an open loop: when each message is meant to be sent.

/// Batches at a fixed interval, from one stream after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    start_ns: u64,
    period_ns: f64,
    streams: u64,
    batch: u64,
    /// The next batch that is not due yet.
    next: u64,
}

impl Schedule {
    /// `rate` messages per second in all, in batches of `batch`, beginning at `start_ns`.
    pub(super) fn new(start_ns: u64, rate: f64, streams: usize, batch: u64) -> Self {
        let period_ns = 1e9 * batch as f64 / rate;
        Self { start_ns, period_ns, streams: streams as u64, batch, next: 0 }
    }

    /// When the next batch is due.
    pub(super) fn next_ns(&self) -> u64 {
        self.at(self.next)
    }

    /// The next batch that is due by `now_ns`: its stream, and when it was due.
    pub(super) fn take(&mut self, now_ns: u64) -> Option<(usize, u64)> {
        let due_ns = self.next_ns();
        if due_ns > now_ns {
            return None;
        }
        let stream = self.next % self.streams;
        self.next += 1;
        Some((usize::try_from(stream).unwrap_or_default(), due_ns))
    }

    /// Leaves out the time up to `now_ns`: what would have been due by then is due from then on.
    pub(super) fn skip_to(&mut self, now_ns: u64) {
        self.start_ns += now_ns.saturating_sub(self.next_ns());
    }

    /// When a message of a stream is meant to be sent.
    pub(super) fn intended_ns(&self, stream: usize, sequence: u64) -> u64 {
        self.at(sequence / self.batch * self.streams + stream as u64)
    }

    fn at(&self, batch: u64) -> u64 {
        // 53 bits of a float hold a year in nanoseconds to within 4 ns.
        self.start_ns + (batch as f64 * self.period_ns) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_come_in_turn_at_a_fixed_interval() {
        let mut schedule = Schedule::new(1000, 4e6, 3, 2);
        assert_eq!(schedule.take(999), None);
        assert_eq!(schedule.take(1499), Some((0, 1000)));
        assert_eq!(schedule.take(1499), None);
        assert_eq!(schedule.next_ns(), 1500);
        let due: Vec<_> = std::iter::from_fn(|| schedule.take(3000)).collect();
        assert_eq!(due, [(1, 1500), (2, 2000), (0, 2500), (1, 3000)]);
    }

    #[test]
    fn a_pause_moves_all_that_follows() {
        let mut schedule = Schedule::new(0, 1e6, 1, 1);
        assert_eq!(schedule.take(0), Some((0, 0)));
        schedule.skip_to(50_500);
        assert_eq!(schedule.take(51_499), Some((0, 50_500)));
        assert_eq!(schedule.take(51_499), None);
        assert_eq!(schedule.intended_ns(0, 2), 51_500);
        schedule.skip_to(7);
        assert_eq!(schedule.next_ns(), 51_500);
    }

    #[test]
    fn a_message_knows_when_it_was_due() {
        let mut schedule = Schedule::new(7, 123_456.0, 5, 3);
        let mut sent = [0; 5];
        while let Some((stream, due_ns)) = schedule.take(1_000_000_000) {
            for _ in 0..3 {
                assert_eq!(schedule.intended_ns(stream, sent[stream]), due_ns);
                sent[stream] += 1;
            }
        }
        let total: u64 = sent.iter().sum();
        assert!((123_450..=123_460).contains(&total), "{total}");
    }
}
