//! A storm of CONNECTs: how fast a broker takes clients in, and what each costs it.

use crate::arrivals::{ArrivalFigures, ArrivalOptions, Arrivals};
use crate::fleet::{self, Target};
use crate::limits;
use crate::meter::{Meter, Spent};
use crate::swarm::{Event, LinkId, Swarm};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// The storm.
#[derive(Clone, Debug)]
pub struct StormOptions {
    /// Clients.
    pub clients: u64,
    /// How they come.
    pub arrival: ArrivalOptions,
    /// How long they stay once all have come.
    pub keep: Duration,
    /// What is read of the broker.
    pub meter: Meter,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct StormOutcome {
    /// How the clients came.
    pub arrivals: ArrivalFigures,
    /// From the first socket to the last CONNACK.
    pub spent: Spent,
    /// Connections that ended though nobody wanted it.
    pub ended: u64,
}

const GLANCE: Duration = Duration::from_millis(10);

struct Storm<'a> {
    arrivals: Arrivals<'a>,
    links: Vec<LinkId>,
    ended: u64,
}

/// Connects all, keeps them, lets them leave with DISCONNECT.
///
/// # Errors
/// If a limit of this host is in the way, or the broker's process cannot be read.
pub fn run(target: &Target, options: &StormOptions) -> Result<StormOutcome> {
    ensure!(options.clients > 0, "a storm needs at least one client");
    limits::prepare(options.clients, &target.sources, options.meter.first())?;
    let mut swarm = Swarm::new()?;
    let arrivals = Arrivals::new(target, &options.arrival)?;
    let mut storm = Storm { arrivals, links: Vec::new(), ended: 0 };
    let before = options.meter.read()?;
    storm.arrivals.start_schedule(&mut swarm);
    while !storm.arrivals.is_done(options.clients) {
        storm.arrivals.start_due(&mut swarm, options.clients);
        let timeout = storm.arrivals.timeout(&swarm, options.clients);
        storm.turn(&mut swarm, timeout)?;
    }
    let spent = options.meter.read()?.since(&before);
    let end = Instant::now() + options.keep;
    while Instant::now() < end {
        storm.turn(&mut swarm, GLANCE)?;
    }
    fleet::leave_all(&mut swarm, target.version, &storm.links)?;
    let arrivals = storm.arrivals.figures().clone();
    Ok(StormOutcome { arrivals, spent, ended: storm.ended })
}

impl Storm<'_> {
    fn turn(&mut self, swarm: &mut Swarm, timeout: Duration) -> Result<()> {
        swarm.poll(timeout, &mut |swarm, link, event| self.on_event(swarm, link, &event))?;
        Ok(())
    }

    fn on_event(&mut self, swarm: &mut Swarm, link: LinkId, event: &Event<'_>) {
        if self.arrivals.is_pending(link) {
            let client = self.arrivals.on_event(swarm, link, event);
            self.links.extend(client.map(|client| client.link));
        } else if matches!(event, Event::Closed(_) | Event::Malformed(_)) {
            self.ended += 1;
        }
    }
}
