//! The measured time in slices of 250 ms: what was delivered in each, what it cost the broker.

use super::recorder::Recorder;
use crate::process::CpuSampler;
use crate::report::Sample;

/// Length of a slice in nanoseconds.
const SLICE_NS: u64 = 250_000_000;

/// Slices, the last one still growing.
#[derive(Debug)]
pub(super) struct Timeline {
    samples: Vec<Sample>,
    slice: Recorder,
    start_ns: u64,
    end_ns: u64,
    messages: u64,
    cpu: Option<CpuSampler>,
    cpu_seconds: f64,
}

impl Timeline {
    /// Begins at `start_ns`.
    pub(super) fn new(start_ns: u64, mut cpu: Option<CpuSampler>) -> Self {
        let cpu_seconds = cpu.as_mut().map_or(0.0, CpuSampler::seconds);
        let end_ns = start_ns + SLICE_NS;
        let (samples, slice) = (Vec::new(), Recorder::new());
        Self { samples, slice, start_ns, end_ns, messages: 0, cpu, cpu_seconds }
    }

    /// Enters a message.
    #[inline]
    pub(super) fn record(&mut self, latency_ns: u64) {
        self.messages += 1;
        self.slice.record(latency_ns);
    }

    /// Ends the slice if its time is over.
    #[inline]
    pub(super) fn look(&mut self, now_ns: u64) {
        if now_ns >= self.end_ns {
            self.cut(now_ns);
        }
    }

    /// The slices, ended at `now_ns`; a last one of less than half its length is left out.
    pub(super) fn finish(mut self, now_ns: u64) -> Vec<Sample> {
        if now_ns + SLICE_NS / 2 >= self.end_ns {
            self.cut(now_ns);
        }
        self.samples
    }

    fn cut(&mut self, now_ns: u64) {
        let cpu_before = self.cpu_seconds;
        if let Some(cpu) = &mut self.cpu {
            self.cpu_seconds = cpu.seconds();
        }
        let histogram = self.slice.histogram();
        let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        self.samples.push(Sample {
            at_seconds: now_ns.saturating_sub(self.start_ns) as f64 / 1e9,
            messages: self.messages,
            cpu_seconds: self.cpu.is_some().then_some(self.cpu_seconds - cpu_before),
            p50_us: micros(0.5),
            p99_us: micros(0.99),
        });
        self.slice.reset();
        self.messages = 0;
        while self.end_ns <= now_ns {
            self.end_ns += SLICE_NS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_each_other_and_count_what_came_in_them() {
        let mut timeline = Timeline::new(1_000_000_000, None);
        timeline.record(1000);
        timeline.look(1_249_999_999);
        timeline.record(3000);
        timeline.look(1_260_000_000);
        timeline.record(5000);
        timeline.look(1_490_000_000);
        timeline.look(1_500_000_000);
        let samples = timeline.finish(1_510_000_000);
        let seen: Vec<_> = samples.iter().map(|s| (s.at_seconds, s.messages)).collect();
        assert_eq!(seen, [(0.26, 2), (0.5, 1)]);
        assert!((samples[0].p99_us - 3.0).abs() < 0.01, "{samples:?}");
        assert_eq!(samples[0].cpu_seconds, None);
    }
}
