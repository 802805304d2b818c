//! The links of a node to others, and what comes on them.

use super::{Core, Output, PARTITIONS, Time, address_of};
use crate::counters::Counter;
use crate::node::CLUSTER;
use core::time::Duration;
use ringlane_dataplane::batch::{Arrived, Foreign};
use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::link::lanes::{LaneEvent, Lanes};
use ringlane_dataplane::link::{LinkEvent, LinkId, Links};
use ringlane_dataplane::replication::hello::{DirectoryTag, Hello, RdmaEnd, Transports};
use ringlane_dataplane::replication::message::{Envelope, Message};
use ringlane_dataplane::replication::wire::{self, WireError};

/// How often a lane that is missing is dialed.
const DIAL_EVERY: Duration = Duration::from_millis(100);

/// How messages fare that arrive.
#[derive(Clone, Copy, Default, Debug)]
pub struct Weather {
    /// One in so many is lost; 0 for none.
    pub loss: u64,
    /// One in so many comes twice; 0 for none.
    pub repeat: u64,
    /// In one of so many that is long, a bit turns behind its head; 0 for none.
    pub corrupt: u64,
}

/// A message as it comes.
#[derive(Clone, Copy)]
pub(super) enum Came<'a> {
    Whole(&'a [u8]),
    Records(&'a [u8], &'a dyn Foreign),
}

impl<'a> Came<'a> {
    fn len(self) -> usize {
        match self {
            Self::Whole(message) => message.len(),
            Self::Records(head, body) => head.len() + body.len(),
        }
    }

    fn to_vec(self) -> Vec<u8> {
        match self {
            Self::Whole(message) => message.to_vec(),
            Self::Records(head, body) => body.behind(head),
        }
    }

    fn decode(self) -> Result<(Envelope, Arrived<'a>), WireError> {
        match self {
            Self::Whole(message) => {
                wire::decode(message).map(|(envelope, body)| (envelope, body.into()))
            }
            Self::Records(head, body) => wire::decode_records(head, body),
        }
    }
}

/// The lanes of a node to all others, which the broker's own code keeps up.
pub(super) fn lanes(node: NodeId, members: &[NodeId]) -> Lanes {
    let hello = Hello {
        cluster: CLUSTER,
        from: node,
        to: node,
        from_core: CoreId(0),
        to_core: CoreId(0),
        cores: 1,
        partitions: PARTITIONS as u32,
        message_bytes_max: 1 << 24,
        transports: Transports::TCP,
        directory: DirectoryTag::default(),
        rdma: RdmaEnd::default(),
    };
    let others = members.iter().filter(|member| **member != node);
    let others: Vec<_> = others.map(|member| (*member, address_of(*member))).collect();
    Lanes::new(hello, &others, DIAL_EVERY)
}

impl Core {
    /// Something has happened to a link.
    pub fn on_link(
        &mut self,
        links: &mut Links,
        event: LinkEvent<'_>,
        time: Time,
        weather: Weather,
    ) {
        match self.lanes.on_event(links, &event) {
            Some(LaneEvent::Up(lane)) => self.on_up(links, lane.peer, time),
            Some(LaneEvent::Down(lane)) => self.on_down(links, lane.peer, time),
            None => {}
        }
        match event {
            LinkEvent::Received { link, message } => {
                self.on_received(links, link, Came::Whole(message), time, weather);
            }
            LinkEvent::Records { link, head, body } => {
                self.on_received(links, link, Came::Records(head, body), time, weather);
            }
            LinkEvent::Room { link } => {
                if let Some(lane) = self.lanes.lane_of(link) {
                    self.with_all(time, links, |host, turn, around| {
                        host.with_replica(turn, around, |replica| replica.on_room(lane.peer));
                    });
                }
            }
            LinkEvent::Greeted { .. }
            | LinkEvent::Up { .. }
            | LinkEvent::Down { .. }
            | LinkEvent::Elsewhere { .. }
            | LinkEvent::TurnedAway { .. } => {}
        }
        self.do_asks(links, time);
    }

    fn on_up(&mut self, links: &mut Links, peer: NodeId, time: Time) {
        self.with_all(time, links, |host, turn, around| {
            host.with_replica(turn, around, |replica| replica.on_link_up(peer));
        });
        self.election.on_link_up(peer, time.now);
    }

    fn on_down(&mut self, links: &mut Links, peer: NodeId, time: Time) {
        self.with_all(time, links, |host, turn, around| {
            host.with_replica(turn, around, |replica| replica.on_link_down(peer));
        });
        self.election.on_link_down(peer, time.now);
    }

    pub(super) fn on_received(
        &mut self,
        links: &mut Links,
        link: LinkId,
        message: Came<'_>,
        time: Time,
        weather: Weather,
    ) {
        let Some(from) = self.lanes.lane_of(link).map(|lane| lane.peer) else { return };
        if weather.loss > 0 && self.random.one_in(weather.loss) {
            return self.outputs.push(Output::Count(Counter::Lost));
        }
        let is_long = message.len() > 300;
        let corrupt = is_long && weather.corrupt > 0 && self.random.one_in(weather.corrupt);
        let mut turned;
        let message = if corrupt {
            self.outputs.push(Output::Count(Counter::Corrupted));
            self.was_corrupted = true;
            turned = message.to_vec();
            let at = self.random.between(150, message.len() as u64 - 8) as usize;
            turned[at] ^= 1 << self.random.below(8);
            Came::Whole(&turned)
        } else {
            message
        };
        let (envelope, body) = match message.decode() {
            Err(_) if corrupt => return links.revoke(link),
            Ok(decoded) => decoded,
            Err(error) => return self.fail(format!("node {from} sent no message: {error}")),
        };
        let is_repeated = weather.repeat > 0
            && !matches!(envelope.message, Message::CheckpointPart(_))
            && self.random.one_in(weather.repeat);
        self.on_message(links, from, &envelope, body, time);
        if is_repeated {
            self.outputs.push(Output::Count(Counter::Repeated));
            self.on_message(links, from, &envelope, body, time);
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.outputs.push(Output::Failed(what));
    }

    pub(super) fn on_message(
        &mut self,
        links: &mut Links,
        from: NodeId,
        envelope: &Envelope,
        body: Arrived<'_>,
        time: Time,
    ) {
        match &envelope.message {
            Message::Heartbeat(_) | Message::TakeOver => {
                self.election.on_message(from, envelope, time.now);
            }
            _ => {
                let partition = envelope.partition.0 as usize;
                self.with_host(partition, time, links, |host, turn, around| {
                    host.on_message(from, envelope, body, turn, around);
                });
            }
        }
    }

    pub(super) fn say(&mut self, links: &mut Links, to: NodeId, message: &Envelope) {
        let mut head = Vec::new();
        message.encode(&mut head);
        if let Some(link) = self.lanes.link_of(to, message.partition) {
            // One that finds no room is not missed: there is other traffic.
            let _sent = links.send(link, &head, None);
        }
    }
}
