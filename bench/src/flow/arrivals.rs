//! What comes back: messages at listeners, acknowledgements at publishers.

use super::engine::{Flow, Phase, Role};
use super::scan::{AckKind, Scanner, Seen, write_ack};
use crate::ledger::{Arrival, Ledger};
use crate::payload::{Stamp, is_intact};
use crate::swarm::{Event, Leave, LinkId, Swarm};
use ringlane_mqtt::{Packet, QoS, RawPacket, decode};
use std::mem;

/// A subscriber.
pub(super) struct Listener {
    pub(super) link: LinkId,
    /// The first of its streams.
    pub(super) first: usize,
    /// One per stream. Members of a shared group use those of the first member.
    pub(super) ledgers: Vec<Ledger>,
    /// Members of a shared group: one past the last message of each stream that this one got.
    pub(super) own_next: Vec<u64>,
    pub(super) received: u64,
}

impl Flow<'_> {
    pub(super) fn on_event(&mut self, swarm: &mut Swarm, id: LinkId, event: &Event<'_>) {
        let Some(role) = self.roles.get(id.index()).copied().flatten() else { return };
        match event {
            Event::Packets(bytes) => self.on_packets(swarm, id, role, bytes),
            Event::Closed(_) | Event::Malformed(_) => self.ended += 1,
            _ => {}
        }
    }

    fn on_packets(&mut self, swarm: &mut Swarm, id: LinkId, role: Role, bytes: &[u8]) {
        let now_ns = swarm.now_ns();
        let mut answers = mem::take(&mut self.answers);
        for seen in Scanner::new(bytes, self.version.is_v5()) {
            match (seen, role) {
                (Seen::Publish { qos, packet_id, payload }, Role::Listener(listener)) => {
                    match qos {
                        QoS::AtMostOnce => {}
                        QoS::AtLeastOnce => write_ack(&mut answers, AckKind::Puback, packet_id),
                        QoS::ExactlyOnce => write_ack(&mut answers, AckKind::Pubrec, packet_id),
                    }
                    self.downgraded += u64::from(qos != self.options.qos);
                    self.on_publish(listener, payload, now_ns);
                }
                (Seen::Ack { kind: AckKind::Pubrel, packet_id, .. }, _) => {
                    write_ack(&mut answers, AckKind::Pubcomp, packet_id);
                }
                (Seen::Ack { kind, packet_id, failed }, Role::Publisher(index)) => {
                    self.on_ack(index, kind, packet_id, failed, now_ns);
                    if kind == AckKind::Pubrec && !failed {
                        write_ack(&mut answers, AckKind::Pubrel, packet_id);
                    }
                }
                (Seen::Other(raw), _) => self.on_other(swarm, id, raw),
                (Seen::Malformed | Seen::Publish { .. } | Seen::Ack { .. }, _) => {
                    self.end(swarm, id);
                }
            }
        }
        if !answers.is_empty() {
            swarm.send(id, &answers);
            answers.clear();
        }
        self.answers = answers;
    }

    /// DISCONNECT ends the connection, PINGRESP means nothing here, and no more can come.
    fn on_other(&mut self, swarm: &mut Swarm, id: LinkId, raw: RawPacket<'_>) {
        if !matches!(decode(self.version, raw), Ok(Packet::Pingresp)) {
            self.end(swarm, id);
        }
    }

    fn end(&mut self, swarm: &mut Swarm, id: LinkId) {
        if swarm.link(id).is_some() {
            self.ended += 1;
            swarm.close(id, Leave::Finish);
        }
    }

    fn on_ack(&mut self, index: usize, kind: AckKind, packet_id: u16, failed: bool, now_ns: u64) {
        self.rejected += u64::from(failed);
        let acks = &mut self.streams[index].acks;
        let is_last = kind != AckKind::Pubrec || failed;
        let since_ns = if is_last { acks.on_done(packet_id) } else { acks.on_received(packet_id) };
        let Some(since_ns) = since_ns else {
            self.stray_acknowledgements += 1;
            return;
        };
        self.arrived_ns = now_ns;
        let latency_ns = now_ns.saturating_sub(since_ns);
        if self.is_timed(since_ns) {
            let recorder = if is_last { &mut self.acknowledged } else { &mut self.received };
            recorder.record(latency_ns);
        }
        if is_last {
            if self.listeners.is_empty() {
                self.count(latency_ns);
            }
            self.make_ready(index);
        }
    }

    /// Counts a message that is through within the measured time.
    #[inline]
    fn count(&mut self, latency_ns: u64) {
        if self.phase == Phase::Measured {
            self.measured += 1;
            if let Some(timeline) = &mut self.timeline {
                timeline.record(latency_ns);
            }
        }
    }

    #[inline]
    fn on_publish(&mut self, listener: usize, payload: &[u8], now_ns: u64) {
        let stamp = Stamp::read(payload).filter(|_| is_intact(payload, self.options.payload_bytes));
        let Some((stamp, position)) = stamp.and_then(|stamp| {
            let position = (stamp.stream as usize).checked_sub(self.listeners[listener].first)?;
            (position < self.listeners[listener].ledgers.len()).then_some((stamp, position))
        }) else {
            self.damaged += 1;
            return;
        };
        let latency_ns = now_ns.saturating_sub(stamp.sent_ns);
        self.silence_ns_max = self.silence_ns_max.max(now_ns.saturating_sub(self.arrived_ns));
        self.arrived_ns = now_ns;
        if self.is_timed(stamp.sent_ns) {
            self.latency.record(latency_ns);
        }
        self.count(latency_ns);
        self.listeners[listener].received += 1;
        let index = stamp.stream as usize;
        self.streams[index].moved_ns = now_ns;
        let is_new = match self.shared {
            true => self.enter_shared(listener, position, stamp),
            false => self.enter(listener, position, stamp),
        };
        if is_new {
            self.make_ready(index);
        }
    }

    #[inline]
    fn enter(&mut self, listener: usize, position: usize, stamp: Stamp) -> bool {
        let ledger = &mut self.listeners[listener].ledgers[position];
        let first_missing = ledger.next();
        let stream = &mut self.streams[stamp.stream as usize];
        match ledger.on(stamp.sequence) {
            Arrival::InOrder => stream.complete(stamp.sequence, stamp.sequence),
            Arrival::Gap(_) => stream.complete(first_missing, stamp.sequence),
            Arrival::Late | Arrival::Duplicate => return false,
        }
        true
    }

    /// In a shared group the first member's ledgers are everybody's; order is kept per member.
    fn enter_shared(&mut self, listener: usize, position: usize, stamp: Stamp) -> bool {
        let own_next = &mut self.listeners[listener].own_next[position];
        self.reordered += u64::from(stamp.sequence < *own_next);
        *own_next = (*own_next).max(stamp.sequence + 1);
        let ledger = &mut self.listeners[0].ledgers[position];
        let is_new = ledger.on(stamp.sequence) != Arrival::Duplicate;
        let stream = &mut self.streams[stamp.stream as usize];
        stream.completed = stream.completed.max(ledger.received()).min(stream.sent);
        is_new
    }
}
