//! Sets up and takes down many clients at once: connect, subscribe, fence, leave.

use crate::link::LinkOptions;
use crate::login::Login;
use crate::swarm::{Closure, Event, Leave, LinkId, Swarm};
use anyhow::{Context, Result, bail, ensure};
use ringlane_mqtt::{Packet, QoS, ReasonCode, SubscribeFilter, Version, encode};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Where the clients go, and what they speak.
#[derive(Clone, Debug)]
pub struct Target {
    /// The broker.
    pub address: SocketAddr,
    /// The MQTT version of all clients.
    pub version: Version,
    /// Local addresses, taken in turn; empty is the kernel's choice. Each gives some 28,000 ports.
    pub sources: Vec<IpAddr>,
}

impl Target {
    /// A broker, with the kernel's choice of local addresses.
    #[must_use]
    pub fn new(address: SocketAddr, version: Version) -> Self {
        Self { address, version, sources: Vec::new() }
    }

    /// How client number `index` opens its socket.
    #[must_use]
    pub fn link_options(&self, index: usize) -> LinkOptions {
        let mut options = LinkOptions::mqtt(self.address, self.version);
        if !self.sources.is_empty() {
            options.source = Some(self.sources[index % self.sources.len()]);
        }
        options
    }
}

/// A client that is connected.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its socket.
    pub link: LinkId,
    /// Session Present of the CONNACK.
    pub session_present: bool,
    /// How many QoS 1 and 2 publishes the broker takes at once.
    pub receive_maximum: u16,
}

/// What became of a CONNECT.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Connected.
    Accepted(Member),
    /// A CONNACK with an error; before MQTT 5 the return code.
    Refused(ReasonCode),
    /// Closed without a CONNACK.
    Ended(Closure),
    /// What came was not MQTT.
    Malformed,
}

impl Answer {
    /// The client, if it was accepted.
    #[must_use]
    pub fn member(self) -> Option<Member> {
        match self {
            Self::Accepted(member) => Some(member),
            _ => None,
        }
    }
}

/// TCP connections and CONNECTs that are under way at once.
const PENDING_MAX: usize = 256;
/// How long a poll waits before deadlines are looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Connects a client per login and reports what became of each, in order.
///
/// # Errors
/// If a socket cannot be opened, or an answer is missing after `patience`.
pub fn try_connect_all(
    swarm: &mut Swarm,
    target: &Target,
    logins: &[Login],
    patience: Duration,
) -> Result<Vec<Answer>> {
    let deadline = Instant::now() + patience;
    let mut answers: Vec<Option<Answer>> = vec![None; logins.len()];
    let mut waiting: HashMap<LinkId, usize> = HashMap::new();
    let mut next = 0;
    while next < logins.len() || !waiting.is_empty() {
        while next < logins.len() && waiting.len() < PENDING_MAX {
            let link = open(swarm, target, next)?;
            if let Some(out) = swarm.out(link) {
                logins[next].encode(target.version, out);
            }
            waiting.insert(link, next);
            next += 1;
        }
        swarm.poll(GLANCE, &mut |_, id, event| {
            if let Some(index) = waiting.get(&id).copied()
                && let Some(answer) = answer_of(id, &event)
            {
                answers[index] = Some(answer);
                waiting.remove(&id);
            }
        })?;
        ensure!(
            Instant::now() < deadline || waiting.is_empty(),
            "{} of {} CONNECTs unanswered after {patience:?}",
            waiting.len() + logins.len() - next,
            logins.len(),
        );
    }
    Ok(answers.into_iter().flatten().collect())
}

fn open(swarm: &mut Swarm, target: &Target, index: usize) -> Result<LinkId> {
    let options = target.link_options(index);
    swarm.open(&options).with_context(|| {
        format!(
            "client {index} gets no socket to {} (descriptors: see `ulimit -n`; ports: give several \
             source addresses)",
            target.address
        )
    })
}

fn answer_of(link: LinkId, event: &Event<'_>) -> Option<Answer> {
    match event {
        Event::Packet(Packet::Connack(connack)) if connack.reason == ReasonCode::SUCCESS => {
            let receive_maximum = connack.properties.receive_maximum.unwrap_or(u16::MAX);
            let session_present = connack.session_present;
            Some(Answer::Accepted(Member { link, session_present, receive_maximum }))
        }
        Event::Packet(Packet::Connack(connack)) => Some(Answer::Refused(connack.reason)),
        Event::Closed(closure) => Some(Answer::Ended(*closure)),
        Event::Malformed(_) => Some(Answer::Malformed),
        _ => None,
    }
}

/// Connects a client per login.
///
/// # Errors
/// As [`try_connect_all`], and if one is refused.
pub fn connect_all(
    swarm: &mut Swarm,
    target: &Target,
    logins: &[Login],
    patience: Duration,
) -> Result<Vec<Member>> {
    let answers = try_connect_all(swarm, target, logins, patience)?;
    let mut members = Vec::with_capacity(answers.len());
    for (answer, login) in answers.into_iter().zip(logins) {
        match answer {
            Answer::Accepted(member) => members.push(member),
            other => bail!("client {:?} was not accepted: {other:?}", login.client_id),
        }
    }
    Ok(members)
}

/// Appends a SUBSCRIBE packet with plain options.
pub fn write_subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    filters: &[(&str, QoS)],
) {
    let filters: Vec<SubscribeFilter<'_>> = filters
        .iter()
        .map(|(filter, qos)| SubscribeFilter {
            filter,
            qos: *qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        })
        .collect();
    encode::subscribe(out, version, packet_id, None, &filters);
}

/// Subscribes each link to one filter and waits for all answers. Messages that come meanwhile go
/// to nobody.
///
/// # Errors
/// If a filter is refused, a link ends, or an answer is missing after `patience`.
pub fn subscribe_all(
    swarm: &mut Swarm,
    version: Version,
    requests: &[(LinkId, &str, QoS)],
    patience: Duration,
) -> Result<()> {
    for (link, filter, qos) in requests {
        let packet_id = swarm.link_mut(*link).map_or(1, crate::link::Link::take_packet_id);
        if let Some(out) = swarm.out(*link) {
            write_subscribe(out, version, packet_id, &[(filter, *qos)]);
        }
    }
    let mut failure = None;
    await_each(swarm, requests.len(), patience, "SUBACK", &mut |event| match event {
        Event::Packet(Packet::Suback(suback)) => {
            if suback.reasons.iter().any(|reason| *reason >= 0x80) {
                failure = Some(format!("a filter was refused: {:02x?}", suback.reasons));
            }
            true
        }
        _ => false,
    })?;
    failure.map_or(Ok(()), |failure| bail!(failure))
}

/// Sends PINGREQ on each link and waits for every answer: all that was sent before has then been
/// handled, and all that the broker wrote before has been read.
///
/// # Errors
/// If a link ends, or an answer is missing after `patience`.
pub fn fence(swarm: &mut Swarm, links: &[LinkId], patience: Duration) -> Result<()> {
    for link in links {
        if let Some(out) = swarm.out(*link) {
            encode::pingreq(out);
        }
    }
    await_each(swarm, links.len(), patience, "PINGRESP", &mut |event| {
        matches!(event, Event::Packet(Packet::Pingresp))
    })
}

/// Polls until `is_answer` said yes `count` times.
fn await_each(
    swarm: &mut Swarm,
    count: usize,
    patience: Duration,
    what: &str,
    is_answer: &mut dyn FnMut(&Event<'_>) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut answered = 0;
    let mut ended = None;
    while answered < count {
        swarm.poll(GLANCE, &mut |_, _, event| {
            if is_answer(&event) {
                answered += 1;
            } else if let Event::Closed(closure) = event {
                ended = Some(closure);
            }
        })?;
        if let Some(closure) = ended {
            bail!("a connection ended ({closure:?}) while waiting for {what}");
        }
        ensure!(
            Instant::now() < deadline || answered == count,
            "{} of {count} {what} missing after {patience:?}",
            count - answered
        );
    }
    Ok(())
}

/// Sends DISCONNECT on each link and ends it.
///
/// # Errors
/// Only what leaves the swarm unusable.
pub fn leave_all(swarm: &mut Swarm, version: Version, links: &[LinkId]) -> Result<()> {
    for link in links {
        if let Some(out) = swarm.out(*link) {
            encode::disconnect(out, version, ReasonCode::NORMAL_DISCONNECTION, None, None, None);
        }
    }
    swarm.poll(Duration::ZERO, &mut |_, _, _| {})?;
    for link in links {
        swarm.close(*link, Leave::Finish);
    }
    Ok(())
}
