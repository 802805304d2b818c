//! QoS 0 that nobody retains and no stream captures: in no log, straight to the subscribers of this core and into the
//! mailboxes of the others.

use super::Flow;
use super::publish::{Accepted, check_topic, well_formed_topic};
use crate::delivery::{Forwarded, Matched, RunDelivery, View};
use crate::mail::{RunPackets, Volatile};
use crate::service::{Broker, Turn, VolatileSent};
use crate::session::SessionId;
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::message::{Message, MessageHead};
use ringlane_dataplane::routing::CoreSet;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::{PACKET_BYTES_MAX, PublishRun, QoS, Version, publish_run};

/// Bytes of the longest run. What was held during a pause comes as one event of up to 2 MiB; the
/// outputs of its subscribers are looked at again before each run.
const RUN_BYTES_MAX: usize = 64 * 1024;

/// Where packets come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) id: ConnectionId,
    pub(crate) session: SessionId,
    pub(crate) version: Version,
}

impl Broker {
    /// Routes one message.
    pub(crate) fn route_volatile(
        &mut self,
        turn: &mut Turn<'_>,
        from: Option<ConnectionId>,
        accepted: &Accepted<'_>,
        bytes: usize,
    ) -> Flow {
        // What the broker says of itself is no news of anybody else.
        if accepted.partition != self.own_partition() && !self.sends_qos0(turn.now) {
            self.metrics.dropped_lease.add(1);
            return Flow::Next(bytes);
        }
        self.commit_before(turn, accepted.partition);
        let head = accepted.head(turn.now);
        let mut view = View::borrowed(head, accepted.topic, accepted.properties, accepted.payload);
        let matched = self.fan_out(turn, &mut view);
        if !self.leaves_core(matched, 1) {
            return Flow::Next(bytes);
        }
        let message = view.share(&mut self.maker).clone();
        let waits = self.mail_volatile(turn, matched.cores, &message, None);
        self.flow_behind_mail(turn, from.filter(|_| waits), bytes)
    }

    /// Routes the run of QoS 0 messages that `bytes` begins with. `None` if it begins with none,
    /// or if the first packet has to be decoded to see what is wrong with it.
    pub(crate) fn take_run(
        &mut self,
        turn: &mut Turn<'_>,
        from: Origin,
        bytes: &[u8],
    ) -> Option<Flow> {
        let Origin { id, session, version } = from;
        if self.post.is_congested() || self.holds_qos0_of(session) {
            return None;
        }
        let bytes = &bytes[..bytes.len().min(RUN_BYTES_MAX)];
        let run = publish_run(version, bytes, self.sizes.packet_bytes_max)?;
        // Without a lease each one is looked at, and dropped.
        if self.streams.captures_bytes(run.topic) || !self.sends_qos0(turn.now) {
            return None;
        }
        let held = self.sessions.get(session)?;
        let (publisher, partition) = (held.client_hash, held.partition);
        self.commit_before(turn, partition);
        let head = plain_head(turn.now, publisher);
        let delivery = RunDelivery { run, version, head, may_wait: true };
        let (matched, full) = match self.forward_run(turn, &delivery) {
            Forwarded::Sent { matched, full } => (matched, full),
            Forwarded::OneByOne => {
                return self.route_one_by_one(turn, id, &run, (publisher, partition));
            }
            Forwarded::Wait(subscriber) => {
                self.stall_for_output(turn, id, subscriber);
                return Some(Flow::Stall);
            }
        };
        self.count_run(run.count, run.payload_bytes);
        let waits =
            self.leaves_core(matched, run.count) && self.mail_run(turn, matched.cores, &delivery);
        if waits {
            self.stall_for_mailbox(turn, id);
        } else if let Some(subscriber) = full {
            self.stall_for_output(turn, id, subscriber);
        } else {
            return Some(Flow::Next(run.packets.len()));
        }
        Some(Flow::NextThenStall(run.packets.len()))
    }

    /// Mails a run to other cores. Whether its publisher has to wait.
    fn mail_run(
        &mut self,
        turn: &mut Turn<'_>,
        targets: CoreSet,
        delivery: &RunDelivery<'_>,
    ) -> bool {
        let RunDelivery { run, version, head, .. } = *delivery;
        let Ok(topic) = core::str::from_utf8(run.topic) else { return false };
        let mut view = View::borrowed(head, topic, &[], run.packets);
        let message = view.share(&mut self.maker).clone();
        let packets = RunPackets { version, count: run.count as u32 };
        self.mail_volatile(turn, targets, &message, Some(packets))
    }

    /// For a run of which not every subscriber gets the packets as they came, or that is not taken.
    /// `None` if its topic is not well-formed.
    fn route_one_by_one(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        run: &PublishRun<'_>,
        (publisher, partition): (u64, PartitionId),
    ) -> Option<Flow> {
        let topic = well_formed_topic(run.topic)?;
        if check_topic(&self.config.mqtt, topic).is_err() {
            // With QoS 0 nobody can be told.
            self.count_run(run.count, run.payload_bytes);
            self.metrics.publishes_rejected.add(run.count as u64);
            return Some(Flow::Next(run.packets.len()));
        }
        let mut used = 0;
        for (bytes, payload) in run.messages() {
            let accepted = Accepted {
                topic,
                properties: &[],
                payload,
                qos: QoS::AtMostOnce,
                retain: false,
                expiry_secs: None,
                publisher,
                partition,
            };
            let flow = self.route_volatile(turn, Some(id), &accepted, bytes);
            self.count_run(1, payload.len());
            used += bytes;
            if matches!(flow, Flow::NextThenStall(_)) {
                return Some(Flow::NextThenStall(used));
            }
            if self.connections.get(id).is_none() {
                return Some(Flow::Over);
            }
        }
        Some(Flow::Next(used))
    }

    /// QoS 0 of another core.
    pub(crate) fn on_volatile(&mut self, turn: &mut Turn<'_>, volatile: &Volatile) {
        self.pace.note_live();
        if !self.sends_qos0(turn.now) {
            return self.metrics.dropped_lease.add(volatile.count() as u64);
        }
        let message = &volatile.message;
        let Some(packets) = volatile.run else {
            self.fan_out(turn, &mut View::of_message(message));
            return;
        };
        let Some(run) = publish_run(packets.version, message.payload(), PACKET_BYTES_MAX) else {
            return;
        };
        let (version, head) = (packets.version, *message.head());
        let delivery = RunDelivery { run, version, head, may_wait: false };
        if !matches!(self.forward_run(turn, &delivery), Forwarded::OneByOne) {
            return;
        }
        for (_, payload) in run.messages() {
            let mut view = View::borrowed(head, message.topic(), &[], payload);
            self.fan_out(turn, &mut view);
        }
    }

    /// A retained QoS 0 message of this client may be in the log, and comes first [MQTT-4.6.0-6].
    fn commit_before(&mut self, turn: &mut Turn<'_>, partition: PartitionId) {
        if self.has_committable(partition) {
            self.commit_all(turn);
        }
    }

    /// Whether messages go to other cores; counts those that go nowhere.
    fn leaves_core(&self, matched: Matched, count: usize) -> bool {
        if matched.cores.is_empty() {
            if !matched.here {
                self.metrics.no_subscribers.add(count as u64);
            }
            return false;
        }
        let spent = self.meter.bytes() > self.memory_bytes;
        if spent {
            self.metrics.dropped_memory.add(count as u64);
        }
        !spent
    }

    /// Mails QoS 0 to other cores. Whether their publisher has to wait.
    fn mail_volatile(
        &mut self,
        turn: &mut Turn<'_>,
        targets: CoreSet,
        message: &Message,
        run: Option<RunPackets>,
    ) -> bool {
        let mut waits = false;
        for to in targets.iter() {
            let volatile = Volatile { message: message.clone(), run };
            let count = volatile.count() as u64;
            let behind_log = self.holds_qos0_for(to);
            match self.post.send_volatile(turn, to, volatile, behind_log) {
                VolatileSent::Sent => self.metrics.fanout_mails.add(count),
                VolatileSent::Waiting => waits = true,
                VolatileSent::Dropped => {
                    self.metrics.dropped_mailbox.add(count);
                    self.metrics.dropped_to(to, count);
                }
            }
        }
        waits
    }

    fn flow_behind_mail(
        &mut self,
        turn: &mut Turn<'_>,
        waiting: Option<ConnectionId>,
        bytes: usize,
    ) -> Flow {
        match waiting {
            Some(id) => {
                self.stall_for_mailbox(turn, id);
                Flow::NextThenStall(bytes)
            }
            None => Flow::Next(bytes),
        }
    }

    fn count_run(&mut self, messages: usize, payload_bytes: usize) {
        self.pace.note_live();
        self.metrics.packets_received.add(messages as u64);
        self.metrics.publishes_received_qos0.add(messages as u64);
        self.metrics.publish_received_bytes.add(payload_bytes as u64);
    }
}

/// What is the same of all QoS 0 messages without properties that one client sends in a turn.
fn plain_head(now: Nanos, publisher: u64) -> MessageHead {
    MessageHead {
        publisher,
        accepted_at: now,
        expires_at: Nanos::NEVER,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: QoS::AtMostOnce as u8,
        retain: false,
    }
}
