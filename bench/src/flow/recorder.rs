//! Latencies into a histogram. Messages that were sent and received together have the same one, so
//! runs of equal values are entered at once.

use crate::report::latency_histogram;
use hdrhistogram::Histogram;

/// A histogram with a run of equal values before it.
#[derive(Debug)]
pub(super) struct Recorder {
    histogram: Histogram<u64>,
    value_ns: u64,
    count: u64,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self { histogram: latency_histogram(), value_ns: 0, count: 0 }
    }

    /// Enters a value.
    #[inline]
    pub(super) fn record(&mut self, value_ns: u64) {
        if value_ns != self.value_ns {
            self.settle();
            self.value_ns = value_ns;
        }
        self.count += 1;
    }

    /// Everything so far.
    pub(super) fn histogram(&mut self) -> &Histogram<u64> {
        self.settle();
        &self.histogram
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        self.count = 0;
        self.histogram.reset();
    }

    fn settle(&mut self) {
        if self.count > 0 {
            self.histogram.saturating_record_n(self.value_ns, self.count);
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_count_as_often_as_they_are_long() {
        let mut recorder = Recorder::new();
        [5000, 5000, 5000, 90_000, 5000].into_iter().for_each(|value| recorder.record(value));
        assert_eq!(recorder.histogram().len(), 5);
        assert_eq!(recorder.histogram().count_at(90_000), 1);
        recorder.reset();
        assert_eq!(recorder.histogram().len(), 0);
    }
}
