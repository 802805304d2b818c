//! Rounds of many connections that connect, subscribe, receive one message and leave: what does a
//! broker keep of clients that are gone?

use crate::fleet::{self, Target};
use crate::login::Login;
use crate::payload::{PAYLOAD_BYTES_MIN, PublishTemplate, Stamp};
use crate::process::Process;
use crate::swarm::{Event, Leave, LinkId, Swarm};
use anyhow::{Result, bail, ensure};
use ringlane_mqtt::{Packet, QoS};
use std::time::{Duration, Instant};

/// The rounds.
#[derive(Clone, Debug)]
pub struct ChurnOptions {
    /// Connections of a round, all open at once.
    pub connections: usize,
    /// Rounds, the warm-up ones included.
    pub rounds: usize,
    /// Rounds before the memory to compare with is read.
    pub warm_up_rounds: usize,
    /// Quality of service.
    pub qos: QoS,
    /// What client identifiers and topics begin with.
    pub prefix: String,
    /// The broker's process.
    pub process: Option<Process>,
    /// How long each step may take.
    pub patience: Duration,
}

/// What is read of the broker between rounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footprint {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Descriptors.
    pub descriptors: u64,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct ChurnOutcome {
    /// Before the first round, and after each; empty without a process.
    pub footprints: Vec<Footprint>,
    /// Connections made in all.
    pub connections: u64,
    /// Messages received in all.
    pub messages: u64,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl ChurnOutcome {
    /// The footprint after the warm-up and the one at the end.
    #[must_use]
    pub fn compared(&self, warm_up_rounds: usize) -> Option<(Footprint, Footprint)> {
        Some((*self.footprints.get(warm_up_rounds)?, *self.footprints.last()?))
    }
}

/// How long the broker has to notice that everybody left.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(10);

/// Runs the rounds.
///
/// # Errors
/// If a client cannot connect or subscribe, a message does not come, or the process is gone.
pub fn run(target: &Target, options: &ChurnOptions) -> Result<ChurnOutcome> {
    ensure!(options.warm_up_rounds < options.rounds, "no round is left after the warm-up");
    let started = Instant::now();
    let mut swarm = Swarm::new()?;
    let feeder_login = [Login::clean(format!("{}-feeder", options.prefix))];
    let feeder = fleet::connect_all(&mut swarm, target, &feeder_login, options.patience)?[0].link;
    let resting = options.process.map(Process::descriptors).transpose()?;
    let mut outcome =
        ChurnOutcome { footprints: Vec::new(), connections: 0, messages: 0, seconds: 0.0 };
    outcome.footprints.extend(footprint(options, resting)?);
    for round in 0..options.rounds {
        let links = arrive(&mut swarm, target, options, round)?;
        feed(&mut swarm, target, options, feeder, &links)?;
        leave(&mut swarm, target, &links)?;
        outcome.connections += links.len() as u64;
        outcome.messages += links.len() as u64;
        outcome.footprints.extend(footprint(options, resting)?);
    }
    fleet::leave_all(&mut swarm, target.version, &[feeder])?;
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(outcome)
}

fn arrive(
    swarm: &mut Swarm,
    target: &Target,
    options: &ChurnOptions,
    round: usize,
) -> Result<Vec<LinkId>> {
    // Half of the identifiers return in the next round, half are new.
    let name = |index: usize| match index % 2 {
        0 => format!("{}-{index}", options.prefix),
        _ => format!("{}-{round}-{index}", options.prefix),
    };
    let logins: Vec<Login> =
        (0..options.connections).map(|index| Login::clean(name(index))).collect();
    let members = fleet::connect_all(swarm, target, &logins, options.patience)?;
    let topics: Vec<String> = (0..options.connections).map(|index| topic(options, index)).collect();
    let requests: Vec<(LinkId, &str, QoS)> = members
        .iter()
        .zip(&topics)
        .map(|(member, topic)| (member.link, topic.as_str(), options.qos))
        .collect();
    fleet::subscribe_all(swarm, target.version, &requests, options.patience)?;
    Ok(members.into_iter().map(|member| member.link).collect())
}

fn topic(options: &ChurnOptions, index: usize) -> String {
    format!("{}/{index}/inbox", options.prefix)
}

/// Publishes one message to each, in order, with a window, until each has its own.
fn feed(
    swarm: &mut Swarm,
    target: &Target,
    options: &ChurnOptions,
    feeder: LinkId,
    links: &[LinkId],
) -> Result<()> {
    const WINDOW: usize = 500;
    let mut place = vec![usize::MAX; swarm.slots()];
    for (index, link) in links.iter().enumerate() {
        place[link.index()] = index;
    }
    let mut has = vec![false; links.len()];
    let (mut sent, mut received) = (0, 0);
    let mut failure = None;
    let deadline = Instant::now() + options.patience;
    while received < links.len() {
        while sent < links.len() && sent < received + WINDOW {
            let template = PublishTemplate::new(
                target.version,
                options.qos,
                &topic(options, sent),
                PAYLOAD_BYTES_MIN,
            );
            let packet_id = swarm.link_mut(feeder).map_or(0, |link| link.take_packet_id());
            let Some(out) = swarm.out(feeder) else { bail!("the publisher lost its connection") };
            template.write(out, packet_id, Stamp { stream: 0, sequence: sent as u64, sent_ns: 0 });
            sent += 1;
        }
        swarm.poll(GLANCE, &mut |_, id, event| match event {
            Event::Packet(Packet::Publish(publish)) => {
                let index = place.get(id.index()).copied().unwrap_or(usize::MAX);
                let stamp = Stamp::read(publish.payload);
                if stamp.is_some_and(|stamp| stamp.sequence == index as u64) && !has[index] {
                    has[index] = true;
                    received += 1;
                } else {
                    failure = Some(format!("client {index} received {stamp:?}"));
                }
            }
            Event::Closed(closure) => failure = Some(format!("a connection ended: {closure:?}")),
            Event::Malformed(error) => failure = Some(error.to_string()),
            _ => {}
        })?;
        if let Some(failure) = failure {
            bail!(failure);
        }
        ensure!(
            Instant::now() < deadline || received == links.len(),
            "{} of {} messages missing",
            links.len() - received,
            links.len()
        );
    }
    Ok(())
}

/// A third leaves with DISCONNECT, a third with FIN alone, a third with a reset.
fn leave(swarm: &mut Swarm, target: &Target, links: &[LinkId]) -> Result<()> {
    let politely: Vec<LinkId> = links.iter().step_by(3).copied().collect();
    fleet::leave_all(swarm, target.version, &politely)?;
    for (index, link) in links.iter().enumerate() {
        match index % 3 {
            1 => swarm.close(*link, Leave::Finish),
            2 => swarm.close(*link, Leave::Reset),
            _ => {}
        }
    }
    Ok(())
}

/// Reads the footprint once the descriptors are as many as at rest, or do not become so in time.
fn footprint(options: &ChurnOptions, resting: Option<u64>) -> Result<Option<Footprint>> {
    let (Some(process), Some(resting)) = (options.process, resting) else { return Ok(None) };
    let deadline = Instant::now() + LEAVE_PATIENCE;
    loop {
        let descriptors = process.descriptors()?;
        if descriptors <= resting || Instant::now() >= deadline {
            return Ok(Some(Footprint { resident_bytes: process.resident_bytes()?, descriptors }));
        }
        std::thread::sleep(GLANCE);
    }
}
