//! What a flow found out.

use crate::meter::Spent;
use crate::report::Sample;
use crate::swarm::Traffic;
use hdrhistogram::Histogram;

/// What happened.
#[derive(Clone, Debug)]
pub struct FlowOutcome {
    /// Messages published.
    pub sent: u64,
    /// Messages acknowledged to the publishers; 0 with QoS 0.
    pub acknowledged: u64,
    /// Publishes answered with an error reason code.
    pub rejected: u64,
    /// Acknowledgements of messages that waited for none.
    pub stray_acknowledgements: u64,
    /// Messages that should have arrived: each as often as it has listeners.
    pub expected: u64,
    /// Distinct messages that arrived.
    pub delivered: u64,
    /// Messages that never arrived.
    pub lost: u64,
    /// Messages that came more than once.
    pub duplicated: u64,
    /// Messages that came after a later one of their stream.
    pub reordered: u64,
    /// Messages whose bytes were not those that were sent.
    pub damaged: u64,
    /// Messages that came with another quality of service than was asked for.
    pub downgraded: u64,
    /// Connections that the broker ended.
    pub ended: u64,
    /// Times that nothing of a stream arrived for 200 ms and the credit of its lost QoS 0 messages
    /// was given back.
    pub rescues: u64,
    /// The longest time in seconds in which nothing arrived while something was on its way.
    pub silence_seconds_max: f64,
    /// Messages that arrived within the measured time; without listeners, those acknowledged.
    pub measured: u64,
    /// What the measured time cost.
    pub spent: Spent,
    /// Publish to delivery in nanoseconds, of the measured time. In an open loop it counts from the
    /// moment that the schedule says, and has every message that was due within the time.
    pub latency: Histogram<u64>,
    /// Publish to PUBACK or PUBCOMP, likewise.
    pub acknowledged_latency: Histogram<u64>,
    /// Publish to PUBREC, likewise.
    pub received_latency: Histogram<u64>,
    /// The window that was used, after the broker's Receive Maximum.
    pub window: u64,
    /// Messages delivered per listener, in the order of the plan.
    pub per_listener: Vec<u64>,
    /// The measured time in slices.
    pub timeline: Vec<Sample>,
    /// Reads and writes of the publishers within the measured time.
    pub publisher_traffic: Traffic,
    /// Reads and writes of the listeners within the measured time.
    pub listener_traffic: Traffic,
    /// Messages published within the measured time.
    pub measured_sent: u64,
    /// The part of the measured time in which the generator's thread had work to do.
    pub generator_busy: f64,
    /// Open loop only.
    pub open_loop: Option<OpenLoop>,
}

/// How well the schedule of an open loop was kept.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    /// Messages per second that were asked for.
    pub rate: f64,
    /// How much later than its schedule the generator turned to a message, in nanoseconds: its own
    /// part of the latency.
    pub lateness: Histogram<u64>,
    /// Messages that were due and had to wait: for acknowledgements of earlier ones, or for a
    /// socket that the broker did not read.
    pub held_back: u64,
    /// Messages that were due and never sent. Then the rate was not kept, and the latencies are
    /// those of the others.
    pub unsent: u64,
}

impl FlowOutcome {
    /// Whether every message arrived exactly once, whole and in order.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        let faults = [
            self.lost,
            self.duplicated,
            self.reordered,
            self.damaged,
            self.downgraded,
            self.ended,
            self.rejected,
            self.stray_acknowledgements,
            self.open_loop.as_ref().map_or(0, |open| open.unsent),
        ];
        faults.iter().all(|count| *count == 0)
    }

    /// Whether the generator had so little time to spare that the broker may be able to do more.
    #[must_use]
    pub fn is_generator_bound(&self) -> bool {
        self.generator_busy > GENERATOR_BUSY_MAX
    }
}

/// Above this part of the time the generator counts as the bottleneck.
const GENERATOR_BUSY_MAX: f64 = 0.95;
