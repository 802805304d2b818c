//! PUBLISH from a client [MQTT5 §3.3].

use super::Flow;
use crate::config::MqttConfig;
use crate::connection::End;
use crate::service::{Admission, Broker, QUOTA_WAIT_MAX, Turn};
use crate::session::SessionId;
use ringlane_dataplane::batch::Parts;
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::message::MessageHead;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::{Publish, QoS, ReasonCode, is_utf8, topic};
use std::time::Duration;

/// A message that passed every check, on its way to the log or straight to the subscribers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted<'a> {
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) publisher: u64,
    pub(crate) partition: PartitionId,
}

/// Where a message that is logged comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// The publisher's session; none for what the broker publishes itself.
    pub(crate) session: Option<SessionId>,
    /// The packet identifier of a QoS 2 publish, else 0.
    pub(crate) packet_id: u16,
}

impl Accepted<'_> {
    pub(crate) fn head(&self, now: Nanos) -> MessageHead {
        let expires_at = match self.expiry_secs {
            Some(secs) => now + Duration::from_secs(u64::from(secs)),
            None => Nanos::NEVER,
        };
        MessageHead {
            publisher: self.publisher,
            accepted_at: now,
            expires_at,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: self.qos as u8,
            retain: self.retain,
        }
    }
}

/// A topic name as it came, if it is well-formed and one that clients may publish to.
pub(crate) fn checked_topic<'t>(mqtt: &MqttConfig, topic: &'t [u8]) -> Option<&'t str> {
    well_formed_topic(topic).filter(|topic| check_topic(mqtt, topic).is_ok())
}

/// A topic name as it came, if it is one.
pub(super) fn well_formed_topic(topic: &[u8]) -> Option<&str> {
    core::str::from_utf8(topic).ok().filter(|topic| topic::is_valid_name(topic))
}

/// Whether clients may publish to a topic; the reason code if they may not.
pub(super) fn check_topic(mqtt: &MqttConfig, topic: &str) -> Result<(), ReasonCode> {
    if topic.starts_with("$SYS/") || topic == "$SYS" {
        return Err(ReasonCode::NOT_AUTHORIZED);
    }
    if topic.len() > usize::from(mqtt.max_topic_length)
        || has_more_levels(topic, usize::from(mqtt.max_topic_levels))
    {
        return Err(ReasonCode::TOPIC_NAME_INVALID);
    }
    Ok(())
}

/// Whether a topic has more levels than this; one with fewer bytes cannot, and is not looked at.
fn has_more_levels(topic: &str, levels: usize) -> bool {
    topic.len() >= levels && topic::level_count(topic) > levels
}

/// A PUBLISH that cannot be accepted.
enum Refusal {
    /// The connection is over.
    Fatal(ReasonCode, &'static str, &'static str),
    /// The message is refused, the connection goes on.
    Message(ReasonCode),
}

impl Broker {
    pub(super) fn on_publish(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
        bytes: usize,
    ) -> Flow {
        let waits = match publish.qos {
            QoS::AtMostOnce => !publish.retain && self.holds_qos0_of(session),
            _ => self.acks_are_full(id),
        };
        if waits {
            self.stall_for_retry(turn, id);
            return Flow::Stall;
        }
        let flow = self.resolve_and_take(turn, id, session, publish, bytes);
        if flow != Flow::Stall {
            self.pace.note_live();
            let counter = match publish.qos {
                QoS::AtMostOnce => &self.metrics.publishes_received_qos0,
                QoS::AtLeastOnce => &self.metrics.publishes_received_qos1,
                QoS::ExactlyOnce => &self.metrics.publishes_received_qos2,
            };
            counter.add(1);
            self.metrics.publish_received_bytes.add(publish.payload.len() as u64);
        }
        flow
    }

    fn resolve_and_take(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
        bytes: usize,
    ) -> Flow {
        if publish.properties.topic_alias.is_none() {
            return self.take_publish(turn, id, session, publish, publish.topic, bytes);
        }
        match self.resolve_alias(id, publish) {
            Ok(topic) => {
                let flow = self.take_publish(turn, id, session, publish, &topic, bytes);
                self.give_back_alias(id, publish, topic);
                flow
            }
            Err(Refusal::Fatal(reason, what, source)) => {
                self.fail_with(turn, id, reason, what, source)
            }
            Err(Refusal::Message(_)) => Flow::Next(bytes),
        }
    }

    /// A client that sends on while its acknowledgements wait is not read from until they have
    /// gone. It has no more identifiers than this.
    fn acks_are_full(&self, id: ConnectionId) -> bool {
        let held = self.connections.get(id).map_or(0, |connection| connection.acks.queue.len());
        held >= usize::from(u16::MAX)
    }

    /// Takes the topic behind an alias out of the table, or sets it [MQTT5 §3.3.2.3.4].
    fn resolve_alias(
        &mut self,
        id: ConnectionId,
        publish: &Publish<'_>,
    ) -> Result<Box<str>, Refusal> {
        let alias = publish.properties.topic_alias.unwrap_or_default();
        if alias == 0 || alias > self.config.mqtt.topic_alias_maximum {
            let what = "topic alias above the maximum that CONNACK gave";
            return Err(Refusal::Fatal(ReasonCode::TOPIC_ALIAS_INVALID, what, "MQTT-3.3.2-9"));
        }
        let unknown = Refusal::Fatal(
            ReasonCode::PROTOCOL_ERROR,
            "topic alias that was not set on this connection",
            "MQTT-3.3.2-7",
        );
        let Some(connection) = self.connections.get_mut(id) else { return Err(unknown) };
        if !publish.topic.is_empty() {
            return Ok(publish.topic.into());
        }
        let slot = connection.aliases.get_mut(usize::from(alias - 1));
        slot.and_then(Option::take).ok_or(unknown)
    }

    fn give_back_alias(&mut self, id: ConnectionId, publish: &Publish<'_>, topic: Box<str>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let index = usize::from(publish.properties.topic_alias.unwrap_or(1) - 1);
        if connection.aliases.len() <= index {
            connection.aliases.resize_with(index + 1, || None);
        }
        connection.aliases[index] = Some(topic);
    }

    fn take_publish(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
        topic: &str,
        bytes: usize,
    ) -> Flow {
        match self.check_publish(id, session, publish, topic) {
            Ok(()) => {}
            Err(Refusal::Fatal(reason, what, source)) => {
                return self.fail_with(turn, id, reason, what, source);
            }
            Err(Refusal::Message(reason)) => {
                return self.refuse_message(turn, id, publish, reason, bytes);
            }
        }
        let Some(held) = self.sessions.get(session) else { return Flow::Over };
        let mut properties = core::mem::take(&mut self.scratch.properties);
        properties.clear();
        publish.properties.write_forwarded(&mut properties);
        let accepted = Accepted {
            topic,
            properties: &properties,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expiry_secs: publish.properties.message_expiry_secs,
            publisher: held.client_hash,
            partition: held.partition,
        };
        let flow = if self.is_volatile(topic, publish.qos, publish.retain) {
            self.route_volatile(turn, Some(id), &accepted, bytes)
        } else {
            self.log_publish(turn, id, session, publish, &accepted, bytes)
        };
        self.scratch.properties = properties;
        flow
    }

    /// Whether a message is in no log: QoS 0 that nobody retains and that no stream captures.
    pub(crate) fn is_volatile(&mut self, topic: &str, qos: QoS, retain: bool) -> bool {
        qos == QoS::AtMostOnce && !retain && !self.streams.captures(topic)
    }

    fn check_publish(
        &self,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Result<(), Refusal> {
        check_topic(&self.config.mqtt, topic).map_err(Refusal::Message)?;
        self.check_properties(publish)?;
        if publish.qos == QoS::AtMostOnce {
            return Ok(());
        }
        self.check_receive_maximum(id, session, publish)
    }

    fn check_properties(&self, publish: &Publish<'_>) -> Result<(), Refusal> {
        let mqtt = &self.config.mqtt;
        let properties = &publish.properties;
        if properties.raw.is_empty() {
            return Ok(());
        }
        if !self.allows_user_properties(properties.user_properties) {
            return Err(Refusal::Message(ReasonCode::QUOTA_EXCEEDED));
        }
        let claims_utf8 = properties.payload_format == Some(1);
        if mqtt.validate_payload_format && claims_utf8 && !is_utf8(publish.payload) {
            return Err(Refusal::Message(ReasonCode::PAYLOAD_FORMAT_INVALID));
        }
        Ok(())
    }

    /// More unacknowledged messages than CONNACK allowed [MQTT-3.3.4-7], [MQTT-3.3.4-8]. Clients
    /// of 3.1.1 were told no maximum: their 65,535 identifiers are the bound.
    fn check_receive_maximum(
        &self,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
    ) -> Result<(), Refusal> {
        let (Some(connection), Some(session)) =
            (self.connections.get(id), self.sessions.get(session))
        else {
            return Ok(());
        };
        if !connection.version.is_v5() {
            return Ok(());
        }
        let held = session.received_qos2.len() + connection.acks.qos1 as usize;
        let repeated = session.received_qos2.contains(publish.packet_id);
        if held >= usize::from(self.config.mqtt.receive_maximum) && !repeated {
            let what = "more unacknowledged messages than Receive Maximum";
            let reason = ReasonCode::RECEIVE_MAXIMUM_EXCEEDED;
            return Err(Refusal::Fatal(reason, what, "MQTT-3.3.4-7"));
        }
        Ok(())
    }

    /// Answers a PUBLISH that is not taken. A 3.1.1 client can only be told success or be
    /// disconnected [MQTT-3.3.5-2]: success stands for what it may not publish, and nothing that
    /// it may publish is acknowledged and dropped.
    fn refuse_message(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        publish: &Publish<'_>,
        reason: ReasonCode,
        bytes: usize,
    ) -> Flow {
        let v5 = self.connections.get(id).is_some_and(|c| c.version.is_v5());
        let told = v5 || publish.qos == QoS::AtMostOnce || reason == ReasonCode::NOT_AUTHORIZED;
        if !told {
            return self.fail_with(turn, id, reason, reason.name(), "MQTT-3.3.5-2");
        }
        self.refuse_publish(id, publish, reason);
        Flow::Next(bytes)
    }

    fn refuse_publish(&mut self, id: ConnectionId, publish: &Publish<'_>, reason: ReasonCode) {
        self.metrics.publishes_rejected.add(1);
        if publish.qos != QoS::AtMostOnce {
            let qos2 = publish.qos == QoS::ExactlyOnce;
            self.owe_ack(id, publish.packet_id, qos2, Some(reason));
        }
    }

    /// QoS 1, QoS 2 and retained messages: appended to the partition of the publisher.
    fn log_publish(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
        accepted: &Accepted<'_>,
        bytes: usize,
    ) -> Flow {
        let qos2 = publish.qos == QoS::ExactlyOnce;
        let Some(held) = self.sessions.get(session) else { return Flow::Over };
        if qos2 && held.received_qos2.contains(publish.packet_id) {
            // Received before and not released: acknowledged again, not delivered again
            // [MQTT-4.3.3-10]. But no sooner than the first time: the connection may have ended
            // while the disk was asked.
            if !self.has_flushed_qos2(session) {
                self.stall_for_retry(turn, id);
                return Flow::Stall;
            }
            self.owe_ack(id, publish.packet_id, true, Some(ReasonCode::SUCCESS));
            return Flow::Next(bytes);
        }
        match self.admit(accepted.topic, accepted.partition) {
            Admission::Granted => {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.quota_since = Nanos::NEVER;
                }
            }
            Admission::Wait => {
                self.stall_for_retry(turn, id);
                return Flow::Stall;
            }
            // The log does without it; those who are there need not.
            Admission::Refused if publish.qos == QoS::AtMostOnce && !publish.retain => {
                return self.route_volatile(turn, Some(id), accepted, bytes);
            }
            Admission::Refused => return self.over_quota(turn, id, session, publish, bytes),
            Admission::Failed => {
                self.send_disconnect(turn, id, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR, None);
                self.end_connection(turn, id, End::Shutdown);
                return Flow::Over;
            }
        }
        let ack = match publish.qos {
            QoS::AtMostOnce => None,
            _ => self.owe_ack(id, publish.packet_id, qos2, None),
        };
        if qos2 && let Some(held) = self.sessions.get_mut(session) {
            held.received_qos2.insert(publish.packet_id);
        }
        let packet_id = if qos2 { publish.packet_id } else { 0 };
        self.log_accepted(turn, accepted, Source { session: Some(session), packet_id }, ack);
        if qos2 {
            self.note_incoming(session, packet_id);
        }
        Flow::Next(bytes)
    }

    /// A quota is used up: MQTT 5 is told 0x97, 3.1.1 is not read from until there is room.
    fn over_quota(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
        bytes: usize,
    ) -> Flow {
        let v5 = self.connections.get(id).is_some_and(|c| c.version.is_v5());
        if publish.qos == QoS::AtMostOnce {
            self.metrics.dropped_memory.add(1);
            return Flow::Next(bytes);
        }
        if v5 {
            self.refuse_publish(id, publish, ReasonCode::QUOTA_EXCEEDED);
            return Flow::Next(bytes);
        }
        self.wait_for_quota(turn, id, session)
    }

    /// Back-pressure with an end: a client that holds up itself, or that has waited too long, is
    /// disconnected, which leaves its publish unacknowledged [MQTT-3.3.5-2].
    fn wait_for_quota(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
    ) -> Flow {
        let Some(connection) = self.connections.get_mut(id) else { return Flow::Over };
        connection.quota_since = connection.quota_since.min(turn.now);
        let waited = turn.now.since(connection.quota_since) >= QUOTA_WAIT_MAX;
        let own = self.sessions.get(session).is_some_and(|session| session.backlog_full);
        if waited || own {
            let what = "no room for this publish: a backlog, the memory budget or the disk is full";
            return self.fail_with(turn, id, ReasonCode::QUOTA_EXCEEDED, what, "MQTT-3.3.5-2");
        }
        self.stall_for_retry(turn, id);
        Flow::Stall
    }

    /// Appends an accepted message; the end of the turn commits it.
    pub(crate) fn log_accepted(
        &mut self,
        turn: &Turn<'_>,
        accepted: &Accepted<'_>,
        source: Source,
        ack: Option<crate::service::AckToken>,
    ) {
        let Accepted { topic, properties, payload, .. } = *accepted;
        let parts = Parts {
            head: accepted.head(turn.now),
            client_id: b"",
            packet_id: source.packet_id,
            unix_ms: 0,
            topic,
            properties,
            payload,
        };
        self.append(accepted.partition, &parts, source.session, ack);
    }

    /// Publishes a message of the broker's own, such as `$SYS`, QoS 0.
    pub(crate) fn publish_own(
        &mut self,
        turn: &mut Turn<'_>,
        topic: &str,
        payload: &[u8],
        retain: bool,
    ) {
        let partition = self.own_partition();
        let accepted = Accepted {
            topic,
            properties: &[],
            payload,
            qos: QoS::AtMostOnce,
            retain,
            expiry_secs: None,
            publisher: 0,
            partition,
        };
        if retain {
            let source = Source { session: None, packet_id: 0 };
            self.log_accepted(turn, &accepted, source, None);
        } else {
            self.route_volatile(turn, None, &accepted, 0);
        }
    }
}
