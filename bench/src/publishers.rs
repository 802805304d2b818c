//! The same rate of messages from ever more publishers: does a message cost more because many send?

use crate::fleet::{self, Target};
use crate::probe::{Faults, Probe, ProbeOptions, ProbePlan, Run, Window};
use crate::swarm::Swarm;
use anyhow::Result;

/// The crowds and the flow.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// What client identifiers begin with.
    pub prefix: String,
    /// What topics begin with; each publisher has one of its own.
    pub topic: String,
    /// How many publishers there are, one measurement after the other.
    pub publishers: Vec<usize>,
    /// Not measured, before each window; two messages of each publisher follow that.
    pub warm_up: Run,
    /// The flow.
    pub probe: ProbeOptions,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct PublisherOutcome {
    /// A window for each number of publishers.
    pub windows: Vec<(usize, Window)>,
    /// Faults of all.
    pub faults: Faults,
}

/// Messages that each publisher sends before its crowd is measured.
const WARM_UP_EACH: u64 = 2;

/// Runs the whole, each crowd alone.
///
/// # Errors
/// If a client cannot connect, a message does not come, or the broker's process cannot be read.
pub fn run(target: &Target, options: &PublisherOptions) -> Result<PublisherOutcome> {
    let mut outcome = PublisherOutcome { windows: Vec::new(), faults: Faults::default() };
    for count in &options.publishers {
        let mut swarm = Swarm::new()?;
        let plan = ProbePlan {
            prefix: format!("{}-{count}", options.prefix),
            topics: (0..*count).map(|n| format!("{}/{n:07}/value", options.topic)).collect(),
            publishers: *count,
            filter: format!("{}/+/value", options.topic),
            listeners: 1,
        };
        let mut probe = Probe::set_up(&mut swarm, target, &plan, &options.probe)?;
        probe.flow(&mut swarm, options.warm_up)?;
        // What a broker does once for a client is no cost of a message.
        probe.flow(&mut swarm, Run::Messages(WARM_UP_EACH * *count as u64))?;
        let window = probe.measure(&mut swarm, &format!("{count}-publishers"))?;
        outcome.windows.push((*count, window));
        outcome.faults.out_of_sequence += probe.faults().out_of_sequence;
        outcome.faults.damaged += probe.faults().damaged;
        fleet::leave_all(&mut swarm, target.version, &probe.links())?;
    }
    Ok(outcome)
}
