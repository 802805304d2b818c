//! What a core counts about its own loop: written by one thread, read by any.

use core::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer. Adding is a plain load and a plain store, never a locked instruction;
/// two writers would lose counts, and nothing worse.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`, wrapping.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away, wrapping; for counters that are used as gauges.
    pub fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Buckets of a [`Log2Histogram`]: enough for 2^39 ns, about nine minutes; the last takes the rest.
pub const HISTOGRAM_BUCKETS: usize = 40;

/// A histogram whose bucket `i` counts values below 2^i and not below 2^(i-1); bucket 0 counts zeros.
#[derive(Debug)]
pub struct Log2Histogram {
    buckets: [Counter; HISTOGRAM_BUCKETS],
    sum: Counter,
}

impl Default for Log2Histogram {
    fn default() -> Self {
        Self { buckets: [const { Counter::new() }; HISTOGRAM_BUCKETS], sum: Counter::new() }
    }
}

impl Log2Histogram {
    /// Counts one value.
    pub fn record(&self, value: u64) {
        let bits = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bits.min(HISTOGRAM_BUCKETS - 1)].add(1);
        self.sum.add(value);
    }

    /// The counts by bucket, each read on its own.
    #[must_use]
    pub fn counts(&self) -> [u64; HISTOGRAM_BUCKETS] {
        core::array::from_fn(|index| self.buckets[index].get())
    }

    /// The sum of all values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// The largest value that bucket `index` counts; `None` for the last, which has no limit.
    #[must_use]
    pub fn bucket_max(index: usize) -> Option<u64> {
        (index + 1 < HISTOGRAM_BUCKETS).then(|| (1u64 << index) - 1)
    }
}

/// The counters of one core's loop; all only grow.
///
/// Aligned so that no two cores write to the same cache line (or pair of lines that is fetched
/// together).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreStats {
    /// Turns.
    pub turns: Counter,
    /// Turns in which anything happened.
    pub busy_turns: Counter,
    /// Times that the core blocked.
    pub parks: Counter,
    /// Sleeping peers that this core woke.
    pub wakes_sent: Counter,
    /// Mails put into outboxes.
    pub mails_sent: Counter,
    /// Mails taken from inboxes.
    pub mails_received: Counter,
    /// Timers that fired.
    pub timers_fired: Counter,
    /// Commands to the disk that ended.
    pub disk_events: Counter,
    /// Events that the socket driver reported.
    pub net_events: Counter,
    /// Events of links to other nodes.
    pub link_events: Counter,
    /// Nanoseconds of busy turns, waiting excluded.
    pub busy_ns: Counter,
    /// Nanoseconds of turns in which nothing happened, and of waiting.
    pub idle_ns: Counter,
    /// How long busy turns took, in nanoseconds, waiting excluded.
    pub turn_ns: Log2Histogram,
    /// CPU time of busy turns that took [`LONG_TURN`](super::long_turns::LONG_TURN) and longer, in
    /// nanoseconds. The rest of such a turn its thread had no CPU, or slept.
    pub long_turn_cpu_ns: Log2Histogram,
    /// Times that the thread slept in those.
    pub long_turn_sleeps: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_counts() {
        let counter = Counter::new();
        counter.add(3);
        counter.add(4);
        assert_eq!(counter.get(), 7);
        counter.sub(2);
        assert_eq!(counter.get(), 5);
        counter.set(1);
        assert_eq!(counter.get(), 1);
    }

    #[test]
    fn values_fall_into_the_bucket_that_names_them() {
        for (value, bucket) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11)] {
            let histogram = Log2Histogram::default();
            histogram.record(value);
            let counts = histogram.counts();
            assert_eq!(counts[bucket], 1, "{value}");
            assert_eq!(counts.iter().sum::<u64>(), 1);
            assert!(value <= Log2Histogram::bucket_max(bucket).expect("not the last"));
            assert!(bucket == 0 || value > Log2Histogram::bucket_max(bucket - 1).expect("bounded"));
        }
    }

    #[test]
    fn the_last_bucket_takes_everything_large() {
        let histogram = Log2Histogram::default();
        histogram.record(u64::MAX);
        histogram.record(1 << 39);
        assert_eq!(histogram.counts()[HISTOGRAM_BUCKETS - 1], 2);
        assert_eq!(Log2Histogram::bucket_max(HISTOGRAM_BUCKETS - 1), None);
    }
}
