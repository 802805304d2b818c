//! The engine of `throughput`, `end-to-end` and `publish-ack`: streams of stamped messages from
//! publishers to listeners, in a closed loop or on a schedule, every one of them checked for loss,
//! duplicates and order.

mod acks;
mod arrivals;
mod engine;
mod outcome;
mod plan;
mod pump;
mod recorder;
mod scan;
mod schedule;
mod stream;
mod timeline;

pub use outcome::{FlowOutcome, OpenLoop};
pub use plan::{FlowOptions, FlowPlan, Limit, ListenerPlan, Pace, PublisherPlan};

use crate::fleet::{self, Target};
use crate::ledger::Ledger;
use crate::swarm::Swarm;
use anyhow::Result;
use engine::Flow;

/// Connects everybody, runs the load, takes everybody down.
///
/// # Errors
/// If the plan is empty, a client cannot connect or subscribe, or the broker cannot be read.
pub fn run(target: &Target, plan: &FlowPlan, options: &FlowOptions) -> Result<FlowOutcome> {
    let mut swarm = Swarm::new()?;
    let mut flow = Flow::set_up(&mut swarm, target, plan, options)?;
    flow.load(&mut swarm)?;
    let outcome = flow.outcome();
    fleet::leave_all(&mut swarm, target.version, &flow.links())?;
    Ok(outcome)
}

impl Flow<'_> {
    fn outcome(&mut self) -> FlowOutcome {
        let mut lost = 0;
        let mut expected = 0;
        for listener in self.keepers() {
            let streams = &self.streams[listener.first..][..listener.ledgers.len()];
            for (ledger, stream) in listener.ledgers.iter().zip(streams) {
                lost += ledger.lost(stream.sent);
                expected += stream.sent;
            }
        }
        let sum = |of: fn(&Ledger) -> u64| -> u64 {
            self.keepers().flat_map(|listener| &listener.ledgers).map(of).sum()
        };
        let (delivered, duplicated) = (sum(Ledger::received), sum(Ledger::duplicated));
        let reordered = if self.shared { self.reordered } else { sum(Ledger::reordered) };
        let [publisher_traffic, listener_traffic] = self.traffic;
        let busy = self.spent.generator_cpu_seconds - self.spun_ns as f64 / 1e9;
        FlowOutcome {
            sent: self.streams.iter().map(|stream| stream.sent).sum(),
            acknowledged: self.streams.iter().map(|stream| stream.acks.done()).sum(),
            rejected: self.rejected,
            stray_acknowledgements: self.stray_acknowledgements,
            expected,
            delivered,
            lost,
            duplicated,
            reordered,
            damaged: self.damaged,
            downgraded: self.downgraded,
            ended: self.ended,
            rescues: self.rescues,
            silence_seconds_max: self.silence_ns_max as f64 / 1e9,
            measured: self.measured,
            spent: self.spent.clone(),
            latency: self.latency.histogram().clone(),
            acknowledged_latency: self.acknowledged.histogram().clone(),
            received_latency: self.received.histogram().clone(),
            window: self.window,
            per_listener: self.listeners.iter().map(|listener| listener.received).collect(),
            timeline: std::mem::take(&mut self.samples),
            publisher_traffic,
            listener_traffic,
            measured_sent: self.measured_sent,
            generator_busy: busy.max(0.0) / self.spent.seconds.max(f64::MIN_POSITIVE),
            open_loop: self.open_loop(),
        }
    }

    fn open_loop(&mut self) -> Option<OpenLoop> {
        let Pace::Rate(rate) = self.options.pace else { return None };
        let lateness = self.lateness.histogram().clone();
        Some(OpenLoop { rate, lateness, held_back: self.held_back, unsent: self.unsent })
    }
}
