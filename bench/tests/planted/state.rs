//! Sessions, messages and wills of the planted broker, and what its bugs do to them.

use super::Bug;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{ConnackProperties, Publish, QoS, ReasonCode, Version, topic};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Shutdown, TcpStream};

const V5: Version = Version::V5;

#[derive(Clone)]
pub(super) struct Will {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: QoS,
}

/// A message on its way to a subscriber.
#[derive(Clone)]
struct Outgoing {
    packet_id: u16,
    message: Will,
    is_released: bool,
    /// It was published when nothing was acknowledged any more.
    is_unacknowledged: bool,
    life: u32,
}

#[derive(Default)]
struct Session {
    filters: BTreeMap<String, QoS>,
    ended_filters: BTreeMap<String, QoS>,
    outgoing: Vec<Outgoing>,
    finished: Vec<Outgoing>,
    incoming: BTreeSet<u16>,
    last_packet_id: u16,
    socket: Option<TcpStream>,
    connection: u64,
    persists: bool,
    will: Option<Will>,
}

pub(super) struct State {
    bug: Bug,
    is_open: bool,
    pub(super) is_mute: bool,
    life: u32,
    connections: u64,
    deliveries: u64,
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, Vec<u8>>,
}

impl State {
    pub(super) fn new(bug: Bug) -> Self {
        Self {
            bug,
            is_open: false,
            is_mute: false,
            life: 0,
            connections: 0,
            deliveries: 0,
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
        }
    }

    /// Opens, and sends the wills of those who were there when it ended.
    pub(super) fn start(&mut self) {
        self.is_open = true;
        self.is_mute = false;
        self.life += 1;
        let names: Vec<String> = self.sessions.keys().cloned().collect();
        for name in names {
            self.send_will(&name);
        }
        self.sessions.retain(|_, session| session.persists);
    }

    pub(super) fn crash(&mut self) {
        self.is_open = false;
        for session in self.sessions.values_mut() {
            if let Some(socket) = session.socket.take() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            session.connection = 0;
        }
        match self.bug {
            Bug::ForgetSession => {
                let name = self.sessions.keys().find(|name| name.contains("-sub-0")).cloned();
                name.and_then(|name| self.sessions.remove(&name));
            }
            bug => self.sessions.values_mut().for_each(|session| session.suffer(bug, self.life)),
        }
    }

    pub(super) fn connect(
        &mut self,
        name: &str,
        is_clean: bool,
        persists: bool,
        will: Option<Will>,
        socket: TcpStream,
    ) -> Option<u64> {
        if !self.is_open {
            return None;
        }
        if is_clean {
            self.sessions.remove(name);
        }
        let is_present = self.sessions.contains_key(name);
        self.connections += 1;
        let session = self.sessions.entry(name.to_owned()).or_default();
        session.connection = self.connections;
        (session.persists, session.will, session.socket) = (persists, will, Some(socket));
        let mut out = Vec::new();
        encode::connack(
            &mut out,
            V5,
            is_present,
            ReasonCode::SUCCESS,
            &ConnackProperties::default(),
        );
        for next in &session.outgoing {
            if next.is_released {
                encode::pubrel(&mut out, V5, next.packet_id, ReasonCode::SUCCESS, None);
            } else {
                write_publish(&mut out, &next.message, next.packet_id, true, false);
            }
        }
        self.send(name, &out);
        Some(self.connections)
    }

    pub(super) fn is_current(&self, name: &str, connection: u64) -> bool {
        self.sessions.get(name).is_some_and(|session| session.connection == connection)
    }

    pub(super) fn send(&mut self, name: &str, bytes: &[u8]) {
        let socket = self.sessions.get_mut(name).and_then(|session| session.socket.as_mut());
        if let Some(socket) = socket.filter(|_| !self.is_mute) {
            // Who is gone will be heard of by the thread that reads.
            let _ = socket.write_all(bytes);
        }
    }

    pub(super) fn publish(&mut self, name: &str, publish: &Publish<'_>) {
        let packet_id = publish.packet_id;
        let incoming = &mut self.sessions.get_mut(name).unwrap().incoming;
        let is_new = publish.qos != QoS::ExactlyOnce || incoming.insert(packet_id);
        if is_new {
            let message = Will {
                topic: publish.topic.to_owned(),
                payload: publish.payload.to_vec(),
                qos: publish.qos,
            };
            if publish.retain && !(self.bug == Bug::StaleRetained && self.life > 1) {
                self.retained.insert(message.topic.clone(), message.payload.clone());
            }
            self.route(&message, false);
        }
        let mut out = Vec::new();
        match publish.qos {
            QoS::ExactlyOnce => encode::pubrec(&mut out, V5, packet_id, ReasonCode::SUCCESS, None),
            _ => encode::puback(&mut out, V5, packet_id, ReasonCode::SUCCESS, None),
        }
        if !(self.bug == Bug::Stuck && self.life > 1) {
            self.send(name, &out);
        }
    }

    /// A publisher's PUBREL.
    pub(super) fn release(&mut self, name: &str, packet_id: u16) {
        self.sessions.get_mut(name).unwrap().incoming.remove(&packet_id);
        let mut out = Vec::new();
        encode::pubcomp(&mut out, V5, packet_id, ReasonCode::SUCCESS, None);
        self.send(name, &out);
    }

    /// A subscriber's PUBREC.
    pub(super) fn received(&mut self, name: &str, packet_id: u16) {
        let session = self.sessions.get_mut(name).unwrap();
        for next in session.outgoing.iter_mut().filter(|next| next.packet_id == packet_id) {
            next.is_released = true;
        }
        let mut out = Vec::new();
        encode::pubrel(&mut out, V5, packet_id, ReasonCode::SUCCESS, None);
        self.send(name, &out);
    }

    /// A subscriber's PUBACK or PUBCOMP.
    pub(super) fn finish(&mut self, name: &str, packet_id: u16) {
        let session = self.sessions.get_mut(name).unwrap();
        let place = session.outgoing.iter().position(|next| next.packet_id == packet_id);
        if let Some(place) = place {
            let done = session.outgoing.remove(place);
            session.finished.push(done);
        }
    }

    pub(super) fn subscribe(&mut self, name: &str, filters: Vec<(String, QoS)>, suback: &[u8]) {
        self.send(name, suback);
        let mut out = Vec::new();
        for (filter, _) in &filters {
            let found = self.retained.iter().filter(|(name, _)| topic::matches(filter, name));
            for (name, payload) in found.filter(|(_, payload)| !payload.is_empty()) {
                let (topic, payload) = (name.clone(), payload.clone());
                let message = Will { topic, payload, qos: QoS::AtMostOnce };
                write_publish(&mut out, &message, 0, false, true);
            }
        }
        self.send(name, &out);
        self.sessions.get_mut(name).unwrap().filters.extend(filters);
    }

    pub(super) fn unsubscribe(&mut self, name: &str, filters: &[String], unsuback: &[u8]) {
        let session = self.sessions.get_mut(name).unwrap();
        for filter in filters {
            let ended = session.filters.remove_entry(filter);
            session.ended_filters.extend(ended);
        }
        self.send(name, unsuback);
    }

    pub(super) fn disconnect(&mut self, name: &str) {
        if self.bug == Bug::WillAfterDisconnect {
            self.send_will(name);
        }
        self.sessions.get_mut(name).unwrap().will = None;
    }

    pub(super) fn on_closed(&mut self, name: &str, connection: u64) {
        if !self.is_open || !self.is_current(name, connection) {
            return;
        }
        self.send_will(name);
        let session = self.sessions.get_mut(name).unwrap();
        (session.socket, session.connection) = (None, 0);
        if !session.persists {
            self.sessions.remove(name);
        }
    }

    fn send_will(&mut self, name: &str) {
        let Some(will) = self.sessions.get_mut(name).and_then(|session| session.will.take()) else {
            return;
        };
        if self.bug != Bug::WillMissing {
            self.route(&will, true);
        }
        if self.bug == Bug::WillTwice {
            self.route(&will, true);
        }
    }

    /// To every subscriber. Wills are left out of what is damaged or doubled: their own check would find
    /// that, too.
    fn route(&mut self, message: &Will, is_will: bool) {
        let names: Vec<String> = self.sessions.keys().cloned().collect();
        for name in names {
            let session = self.sessions.get_mut(&name).unwrap();
            let matching =
                session.filters.iter().filter(|(it, _)| topic::matches(it, &message.topic));
            let Some(granted) = matching.map(|(_, qos)| *qos).max() else { continue };
            session.last_packet_id = session.last_packet_id.checked_add(1).unwrap_or(1);
            let packet_id = session.last_packet_id;
            let mut message = Will { qos: message.qos.min(granted), ..message.clone() };
            self.deliveries += u64::from(!is_will);
            let is_sixtieth = !is_will && self.deliveries.is_multiple_of(60);
            let is_chosen = is_sixtieth && !message.payload.is_empty();
            if self.bug == Bug::Damage && is_chosen {
                *message.payload.last_mut().unwrap() ^= 1;
            }
            let mut out = Vec::new();
            write_publish(&mut out, &message, packet_id, false, false);
            if self.bug == Bug::Double && is_chosen && message.qos == QoS::AtLeastOnce {
                out.extend_from_within(..);
            }
            let (is_unacknowledged, life) = (self.is_mute, self.life);
            let is_released = false;
            session.outgoing.push(Outgoing {
                packet_id,
                message,
                is_released,
                is_unacknowledged,
                life,
            });
            self.send(&name, &out);
        }
    }
}

impl Session {
    /// What a crash does to a session.
    fn suffer(&mut self, bug: Bug, life: u32) {
        match bug {
            Bug::AckBeforeKeep => {
                let is_loss = |next: &Outgoing| !next.is_released && !next.is_unacknowledged;
                if let Some(place) = self.outgoing.iter().rposition(is_loss) {
                    self.outgoing.remove(place);
                }
            }
            Bug::ForgetPacketIds => self.incoming.clear(),
            Bug::Reorder => self.outgoing.reverse(),
            Bug::ReleaseAgain => {
                let is_qos_2 = |next: &&Outgoing| next.message.qos == QoS::ExactlyOnce;
                if let Some(done) = self.finished.iter().rev().find(is_qos_2).cloned() {
                    self.outgoing.insert(0, Outgoing { is_released: false, ..done });
                }
            }
            Bug::ForgetSubscriptions => {
                self.filters.clear();
                self.outgoing.clear();
            }
            Bug::ForgetInFlight => self.outgoing.retain(|next| !next.is_released),
            Bug::Resurrect if life > 3 => {
                let is_old =
                    |next: &&Outgoing| next.life == 1 && next.message.qos == QoS::AtLeastOnce;
                self.outgoing.extend(self.finished.iter().find(is_old).cloned());
            }
            Bug::BringBackFilter => self.filters.append(&mut self.ended_filters),
            _ => {}
        }
    }
}

fn write_publish(out: &mut Vec<u8>, message: &Will, packet_id: u16, dup: bool, retain: bool) {
    let head = PublishHead {
        version: V5,
        dup,
        qos: message.qos,
        retain,
        topic: &message.topic,
        topic_alias: None,
        packet_id,
        message_expiry_secs: None,
        subscription_ids: &[],
        forwarded: &[],
        payload_bytes: message.payload.len(),
    };
    encode::publish_head(out, &head);
    out.extend_from_slice(&message.payload);
}
