//! A shared-subscription group under load: how it shares, what a stalled member costs the others,
//! and whether anything is lost when members go.

use crate::fleet::{self, Member, Target};
use crate::login::Login;
use crate::payload::{PublishTemplate, Stamp, is_intact};
use crate::swarm::{Event, Leave, LinkId, Swarm};
use anyhow::{Result, ensure};
use ringlane_mqtt::{Packet, QoS, Version};
use std::time::Duration;

/// What is wrong with a stalled member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stall {
    /// It reads, and acknowledges nothing.
    NoAcknowledgement,
    /// It reads nothing at all.
    NoRead,
}

/// The group and its load.
#[derive(Clone, Debug)]
pub struct SharedOptions {
    /// Client identifiers of the members.
    pub members: Vec<String>,
    /// Client identifiers of the publishers.
    pub publishers: Vec<String>,
    /// Group name.
    pub group: String,
    /// Topic prefix; publisher n publishes to `PREFIX/n`, the filter is `PREFIX/#`.
    pub topic: String,
    /// Quality of service.
    pub qos: QoS,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Messages of each publisher.
    pub messages: u64,
    /// Publishes per publisher that no active member has received, at most, besides what stalled
    /// members hold in all. With more than the members' windows take, a group shares by speed, not evenly.
    pub window: u64,
    /// Receive Maximum of the members; MQTT 5 only, the broker's own bound before.
    pub receive_maximum: u16,
    /// The first this many members stall.
    pub stalled: usize,
    /// How they do.
    pub stall: Stall,
    /// The last this many members are cut off once half of the messages have arrived.
    pub killed: usize,
    /// How long nothing may arrive before the run is over.
    pub patience: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct SharedOutcome {
    /// Messages published.
    pub sent: u64,
    /// Messages acknowledged to the publishers.
    pub acknowledged: u64,
    /// Messages that no member received and acknowledged.
    pub lost: u64,
    /// Messages received more than once.
    pub duplicated: u64,
    /// Messages whose bytes were not those that were sent.
    pub damaged: u64,
    /// Connections that the broker ended.
    pub ended: u64,
    /// First deliveries per member, in order, before any member was cut off or left.
    pub per_member: Vec<u64>,
    /// The active member with the fewest messages, as a part of the mean of active members.
    pub fairness: f64,
    /// The part of all messages that active members received while the others stalled.
    pub active_part: f64,
}

struct Group<'a> {
    options: &'a SharedOptions,
    version: Version,
    members: Vec<LinkId>,
    publishers: Vec<LinkId>,
    roles: Vec<Option<Role>>,
    templates: Vec<PublishTemplate>,
    sent: Vec<u64>,
    acknowledged: Vec<u64>,
    received: Vec<Received>,
    per_member: Vec<u64>,
    gone: bool,
    duplicated: u64,
    damaged: u64,
    ended: u64,
    arrived_ns: u64,
    send_window: u64,
}

#[derive(Clone, Copy)]
enum Role {
    Publisher(usize),
    Member(usize),
}

/// The messages of one stream that were received by a member that acknowledges.
#[derive(Default)]
struct Received {
    bits: Vec<u64>,
    count: u64,
}

impl Received {
    /// Enters a message; says whether it is new.
    fn insert(&mut self, sequence: u64) -> bool {
        let word = (sequence / 64) as usize;
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        let bit = 1 << (sequence % 64);
        let fresh = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        self.count += u64::from(fresh);
        fresh
    }
}

const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

/// Connects the group, runs the load, takes it down.
///
/// # Errors
/// If a client cannot connect or subscribe, or the options contradict each other.
pub fn run(target: &Target, options: &SharedOptions) -> Result<SharedOutcome> {
    ensure!(
        options.stalled + options.killed < options.members.len(),
        "at least one member must stay and work"
    );
    let mut swarm = Swarm::new()?;
    let mut group = Group::set_up(&mut swarm, target, options)?;
    group.load(&mut swarm)?;
    let per_member = group.per_member.clone();
    group.dismiss(&mut swarm, 0..options.stalled);
    group.settle(&mut swarm)?;
    Ok(group.outcome(per_member))
}

impl<'a> Group<'a> {
    fn set_up(swarm: &mut Swarm, target: &Target, options: &'a SharedOptions) -> Result<Self> {
        let member_login = |id: &String| Login {
            receive_maximum: Some(options.receive_maximum),
            ..Login::clean(id)
        };
        let logins: Vec<Login> = options.members.iter().map(member_login).collect();
        let members = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
        let filter = format!("$share/{}/{}/#", options.group, options.topic);
        let requests: Vec<(LinkId, &str, QoS)> =
            members.iter().map(|member| (member.link, filter.as_str(), options.qos)).collect();
        fleet::subscribe_all(swarm, target.version, &requests, CONNECT_PATIENCE)?;
        for member in &members[..options.stalled] {
            match options.stall {
                Stall::NoRead => swarm.pause(member.link, true),
                Stall::NoAcknowledgement => {
                    if let Some(link) = swarm.link_mut(member.link) {
                        link.acknowledge = false;
                    }
                }
            }
        }
        let logins: Vec<Login> = options.publishers.iter().map(Login::clean).collect();
        let publishers = fleet::connect_all(swarm, target, &logins, CONNECT_PATIENCE)?;
        let receive_maximum = publishers.iter().map(|member| member.receive_maximum).min();
        let links = |members: &[Member]| members.iter().map(|member| member.link).collect();
        let count = publishers.len();
        let mut group = Self {
            options,
            version: target.version,
            members: links(&members),
            publishers: links(&publishers),
            roles: vec![None; swarm.slots()],
            templates: (0..count)
                .map(|index| {
                    let topic = format!("{}/{index}", options.topic);
                    PublishTemplate::new(target.version, options.qos, &topic, options.payload_bytes)
                })
                .collect(),
            sent: vec![0; count],
            acknowledged: vec![0; count],
            received: (0..count).map(|_| Received::default()).collect(),
            per_member: vec![0; members.len()],
            gone: false,
            duplicated: 0,
            damaged: 0,
            ended: 0,
            arrived_ns: swarm.read_clock(),
            send_window: options.window.min(u64::from(receive_maximum.unwrap_or(u16::MAX))),
        };
        for (index, link) in group.members.iter().enumerate() {
            group.roles[link.index()] = Some(Role::Member(index));
        }
        for (index, link) in group.publishers.iter().enumerate() {
            group.roles[link.index()] = Some(Role::Publisher(index));
        }
        Ok(group)
    }

    /// Publishes everything, and cuts members off on the way.
    fn load(&mut self, swarm: &mut Swarm) -> Result<()> {
        let total = self.options.messages * self.publishers.len() as u64;
        let mut to_kill = self.options.killed > 0;
        // What stalled members hold never arrives before they go.
        let held_max = match self.options.stalled {
            0 => 0,
            count => count as u64 * self.held_by_a_stalled_member(),
        };
        while self.ended == 0 && !self.is_silent(swarm) {
            self.pump(swarm, held_max);
            self.turn(swarm)?;
            let received = self.received_in_all();
            if to_kill && received >= total / 2 {
                let from = self.members.len() - self.options.killed;
                self.dismiss(swarm, from..self.members.len());
                to_kill = false;
            }
            let acknowledged: u64 = self.acknowledged.iter().sum();
            let is_sent = self.sent.iter().sum::<u64>() == total;
            let is_acknowledged = self.options.qos == QoS::AtMostOnce || acknowledged == total;
            if is_sent && is_acknowledged && received + held_max >= total {
                break;
            }
        }
        Ok(())
    }

    /// What one member may keep from the others while it stays: its Receive Maximum, or a little
    /// that the broker queues for it ahead of time; before MQTT 5, what brokers commonly have in
    /// flight to any client.
    fn held_by_a_stalled_member(&self) -> u64 {
        const QUEUED_AHEAD: u64 = 64;
        if self.version.is_v5() {
            u64::from(self.options.receive_maximum).max(QUEUED_AHEAD)
        } else {
            1024
        }
    }

    /// Waits until every message is with a member that works.
    fn settle(&mut self, swarm: &mut Swarm) -> Result<()> {
        self.arrived_ns = swarm.read_clock();
        let total: u64 = self.sent.iter().sum();
        while self.received_in_all() < total && !self.is_silent(swarm) {
            self.turn(swarm)?;
        }
        // One more turn shows duplicates that follow.
        self.turn(swarm)
    }

    fn turn(&mut self, swarm: &mut Swarm) -> Result<()> {
        swarm.poll(GLANCE, &mut |swarm, id, event| self.on_event(swarm, id, &event))?;
        Ok(())
    }

    fn is_silent(&self, swarm: &Swarm) -> bool {
        let silence = Duration::from_nanos(swarm.now_ns().saturating_sub(self.arrived_ns));
        silence > self.options.patience
    }

    fn received_in_all(&self) -> u64 {
        self.received.iter().map(|received| received.count).sum()
    }

    fn pump(&mut self, swarm: &mut Swarm, held_max: u64) {
        let now_ns = swarm.read_clock();
        let publishers = self.publishers.len();
        let bound = self.options.window * publishers as u64 + held_max;
        let mut undelivered = self.sent.iter().sum::<u64>() - self.received_in_all();
        for index in 0..publishers {
            loop {
                let sent = self.sent[index];
                let unacknowledged = match self.options.qos {
                    QoS::AtMostOnce => 0,
                    _ => sent - self.acknowledged[index],
                };
                if sent == self.options.messages
                    || unacknowledged >= self.send_window
                    || undelivered >= bound
                {
                    break;
                }
                let link = self.publishers[index];
                let packet_id = swarm.link_mut(link).map_or(0, |link| link.take_packet_id());
                let Some(out) = swarm.out(link) else { break };
                let stamp = Stamp { stream: index as u32, sequence: sent, sent_ns: now_ns };
                self.templates[index].write(out, packet_id, stamp);
                self.sent[index] += 1;
                undelivered += 1;
            }
        }
    }

    /// Cuts members off without a word.
    fn dismiss(&mut self, swarm: &mut Swarm, which: std::ops::Range<usize>) {
        self.gone |= !which.is_empty();
        for link in &self.members[which] {
            self.roles[link.index()] = None;
            swarm.close(*link, Leave::Reset);
        }
    }

    fn on_event(&mut self, swarm: &mut Swarm, id: LinkId, event: &Event<'_>) {
        let Some(role) = self.roles[id.index()] else { return };
        match (event, role) {
            (Event::Packet(Packet::Publish(publish)), Role::Member(member)) => {
                self.arrived_ns = swarm.now_ns();
                self.on_publish(member, publish.payload);
            }
            (Event::Packet(Packet::Puback(_) | Packet::Pubcomp(_)), Role::Publisher(index)) => {
                self.arrived_ns = swarm.now_ns();
                self.acknowledged[index] += 1;
            }
            (Event::Closed(_) | Event::Malformed(_) | Event::Packet(Packet::Disconnect(_)), _) => {
                self.ended += 1;
            }
            _ => {}
        }
    }

    fn on_publish(&mut self, member: usize, payload: &[u8]) {
        let stamp = Stamp::read(payload).filter(|stamp| {
            is_intact(payload, self.options.payload_bytes)
                && (stamp.stream as usize) < self.received.len()
        });
        let Some(stamp) = stamp else {
            self.damaged += 1;
            return;
        };
        if !self.gone {
            self.per_member[member] += 1;
        }
        if member < self.options.stalled {
            return;
        }
        if !self.received[stamp.stream as usize].insert(stamp.sequence) {
            self.duplicated += 1;
        }
    }

    fn outcome(&self, per_member: Vec<u64>) -> SharedOutcome {
        let sent: u64 = self.sent.iter().sum();
        let active = &per_member[self.options.stalled..];
        let active_sum: u64 = active.iter().sum();
        let all: u64 = per_member.iter().sum();
        let mean = active_sum as f64 / active.len() as f64;
        let fewest = active.iter().min().copied().unwrap_or_default();
        SharedOutcome {
            sent,
            acknowledged: self.acknowledged.iter().sum(),
            lost: sent - self.received_in_all(),
            duplicated: self.duplicated,
            damaged: self.damaged,
            ended: self.ended,
            fairness: if mean > 0.0 { fewest as f64 / mean } else { 0.0 },
            active_part: if all > 0 { active_sum as f64 / all as f64 } else { 0.0 },
            per_member,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_new_once() {
        let mut received = Received::default();
        assert!(received.insert(0));
        assert!(received.insert(200));
        assert!(!received.insert(200));
        assert!(received.insert(63));
        assert_eq!(received.count, 3);
    }
}
