//! Subscriptions by the hundred thousand, and what a publish costs among them: those that do not
//! match, and those that do.

use crate::fleet::{self, Target};
use crate::login::Login;
use crate::meter::Spent;
use crate::probe::{Faults, Probe, ProbeOptions, ProbePlan, Run, Window};
use crate::process::Process;
use crate::swarm::{Event, LinkId, Swarm};
use anyhow::{Context, Result, bail, ensure};
use ringlane_mqtt::{Packet, QoS};
use std::time::{Duration, Instant};

/// The surroundings and the probe.
#[derive(Clone, Debug)]
pub struct WildcardOptions {
    /// What client identifiers begin with.
    pub prefix: String,
    /// What topics and filters begin with.
    pub topic: String,
    /// Subscriptions without wildcards, when all are there.
    pub exact: u64,
    /// Subscriptions with wildcards, when all are there.
    pub wildcard: u64,
    /// How many subscriptions there are at each measurement, ascending; the last is all.
    pub steps: Vec<u64>,
    /// Connections that hold them.
    pub holders: usize,
    /// How many listeners match, measured one after the other at each step.
    pub matching: Vec<usize>,
    /// Publishers.
    pub publishers: usize,
    /// Topics that are published to in turn: more than a broker's caches hold, if these are not
    /// what is to be measured.
    pub topics: usize,
    /// Not measured, before each window.
    pub warm_up: Run,
    /// The flow.
    pub probe: ProbeOptions,
}

/// A window among so many subscriptions.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Listeners that matched.
    pub matching: usize,
    /// What it was like.
    pub window: Window,
}

/// What was there at one step.
#[derive(Clone, Debug)]
pub struct StepFigures {
    /// Subscriptions that do not match.
    pub subscriptions: u64,
    /// Resident memory of the broker in bytes, as growth since before the first of them.
    pub broker_bytes: Option<u64>,
    /// What the new ones cost until their SUBACK, and how many they were.
    pub subscribing: (u64, Spent),
    /// The windows.
    pub measured: Vec<Measured>,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct WildcardOutcome {
    /// The steps.
    pub steps: Vec<StepFigures>,
    /// Faults of all probes.
    pub faults: Faults,
    /// Messages that came to a subscription that does not match.
    pub misdelivered: u64,
}

/// Filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 50;
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

struct Holder {
    link: LinkId,
    /// Filters to subscribe to, by their numbers.
    waiting: Vec<u64>,
    is_asking: bool,
}

/// Runs the whole.
///
/// # Errors
/// If a filter is refused, a message does not come, a connection ends, or the broker's process
/// cannot be read.
pub fn run(target: &Target, options: &WildcardOptions) -> Result<WildcardOutcome> {
    let all = options.exact + options.wildcard;
    ensure!(options.steps.is_sorted() && options.steps.last() == Some(&all), "wrong steps");
    ensure!(options.holders > 0, "somebody must hold the subscriptions");
    let mut swarm = Swarm::new()?;
    let mut crowd = Crowd::connect(&mut swarm, target, options)?;
    let resident = || {
        let process = options.probe.meter.first();
        process.map(Process::resident_bytes).transpose().context("memory of the broker")
    };
    let before = resident()?;
    let mut faults = Faults::default();
    let mut steps = Vec::with_capacity(options.steps.len());
    for goal in &options.steps {
        let subscribing = crowd.grow(&mut swarm, target, *goal)?;
        let broker_bytes = resident()?.zip(before).map(|(now, then)| now.saturating_sub(then));
        let mut measured = Vec::with_capacity(options.matching.len());
        for matching in &options.matching {
            let window = probe(target, options, *matching, *goal, &mut faults)?;
            measured.push(Measured { matching: *matching, window });
        }
        steps.push(StepFigures { subscriptions: *goal, broker_bytes, subscribing, measured });
    }
    crowd.look(&mut swarm)?;
    ensure!(!crowd.ended, "a connection that held subscriptions ended");
    let links: Vec<LinkId> = crowd.holders.iter().map(|holder| holder.link).collect();
    fleet::leave_all(&mut swarm, target.version, &links)?;
    Ok(WildcardOutcome { steps, faults, misdelivered: crowd.misdelivered })
}

/// One window of a flow of its own.
fn probe(
    target: &Target,
    options: &WildcardOptions,
    matching: usize,
    subscriptions: u64,
    faults: &mut Faults,
) -> Result<Window> {
    let mut swarm = Swarm::new()?;
    let plan = ProbePlan {
        prefix: format!("{}-probe", options.prefix),
        topics: (0..options.topics).map(|n| format!("{}/d/p{n:06}/value", options.topic)).collect(),
        publishers: options.publishers,
        filter: format!("{}/d/+/value", options.topic),
        listeners: matching,
    };
    let mut probe = Probe::set_up(&mut swarm, target, &plan, &options.probe)?;
    probe.flow(&mut swarm, options.warm_up)?;
    let window = probe.measure(&mut swarm, &format!("{subscriptions}-subscriptions-{matching}"))?;
    let seen = probe.faults();
    faults.out_of_sequence += seen.out_of_sequence;
    faults.damaged += seen.damaged;
    fleet::leave_all(&mut swarm, target.version, &probe.links())?;
    Ok(window)
}

/// The filter with a number. None matches a topic of the probe, and all share its first level.
fn filter(options: &WildcardOptions, number: u64) -> String {
    let (topic, all) = (&options.topic, options.exact + options.wildcard);
    let wildcards_below =
        |number: u64| (u128::from(number) * u128::from(options.wildcard)) / u128::from(all);
    if wildcards_below(number + 1) == wildcards_below(number) {
        return format!("{topic}/d/{number:07}/value");
    }
    match wildcards_below(number) % 3 {
        0 => format!("{topic}/d/{number:07}/+"),
        1 => format!("{topic}/d/{number:07}/#"),
        _ => format!("{topic}/+/{number:07}/value"),
    }
}

/// The connections that hold the subscriptions.
struct Crowd<'a> {
    options: &'a WildcardOptions,
    holders: Vec<Holder>,
    /// The holder of a socket, by the position of the link.
    places: Vec<usize>,
    subscribed: u64,
    misdelivered: u64,
    refused: Option<Vec<u8>>,
    ended: bool,
}

impl<'a> Crowd<'a> {
    fn connect(swarm: &mut Swarm, target: &Target, options: &'a WildcardOptions) -> Result<Self> {
        let logins: Vec<Login> = (0..options.holders)
            .map(|index| Login::clean(format!("{}-holder-{index}", options.prefix)))
            .collect();
        let members = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
        let mut places = vec![usize::MAX; swarm.slots()];
        for (index, member) in members.iter().enumerate() {
            places[member.link.index()] = index;
        }
        let holder = |link| Holder { link, waiting: Vec::new(), is_asking: false };
        let holders = members.iter().map(|member| holder(member.link)).collect();
        let (subscribed, misdelivered, refused, ended) = (0, 0, None, false);
        Ok(Self { options, holders, places, subscribed, misdelivered, refused, ended })
    }

    /// Subscribes until there are `goal`; returns how many are new and what they cost.
    fn grow(&mut self, swarm: &mut Swarm, target: &Target, goal: u64) -> Result<(u64, Spent)> {
        let first = self.subscribed;
        let count = self.holders.len() as u64;
        for number in first..goal {
            let holder = usize::try_from(number % count).unwrap_or(0);
            self.holders[holder].waiting.push(number);
        }
        let before = self.options.probe.meter.read()?;
        (0..self.holders.len()).for_each(|index| self.ask(swarm, target, index));
        let patience = self.options.probe.patience;
        let (mut known, mut moved) = (self.subscribed, Instant::now());
        while self.subscribed < goal {
            let answered = self.look(swarm)?;
            answered.into_iter().for_each(|index| self.ask(swarm, target, index));
            if self.subscribed > known {
                (known, moved) = (self.subscribed, Instant::now());
            }
            if let Some(reasons) = &self.refused {
                bail!("the broker refused filters: {reasons:02x?} (its limit per client?)");
            }
            ensure!(!self.ended, "a connection that holds subscriptions ended");
            ensure!(moved.elapsed() < patience, "{} filters unanswered", goal - self.subscribed);
        }
        Ok((goal - first, self.options.probe.meter.read()?.since(&before)))
    }

    /// Sends the next SUBSCRIBE of a holder, if it has one to send and none unanswered.
    fn ask(&mut self, swarm: &mut Swarm, target: &Target, index: usize) {
        let options = self.options;
        let holder = &mut self.holders[index];
        if holder.is_asking || holder.waiting.is_empty() {
            return;
        }
        let rest = holder.waiting.len().saturating_sub(FILTERS_PER_PACKET);
        let names: Vec<String> =
            holder.waiting.drain(rest..).map(|number| filter(options, number)).collect();
        let filters: Vec<(&str, QoS)> =
            names.iter().map(|name| (name.as_str(), QoS::AtMostOnce)).collect();
        let packet_id = swarm.link_mut(holder.link).map_or(1, |link| link.take_packet_id());
        if let Some(out) = swarm.out(holder.link) {
            fleet::write_subscribe(out, target.version, packet_id, &filters);
            holder.is_asking = true;
        }
    }

    /// One poll; returns the holders that got an answer.
    fn look(&mut self, swarm: &mut Swarm) -> Result<Vec<usize>> {
        let mut answered = Vec::new();
        swarm.poll(GLANCE, &mut |_, link, event| match event {
            Event::Packet(Packet::Suback(suback)) => {
                let index = self.places[link.index()];
                self.holders[index].is_asking = false;
                self.subscribed += suback.reasons.len() as u64;
                if suback.reasons.iter().any(|reason| *reason >= 0x80) {
                    self.refused = Some(suback.reasons.to_vec());
                }
                answered.push(index);
            }
            Event::Packet(Packet::Publish(_)) => self.misdelivered += 1,
            Event::Closed(_) | Event::Malformed(_) => self.ended = true,
            _ => {}
        })?;
        Ok(answered)
    }
}
