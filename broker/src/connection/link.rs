//! The way to a connected client: packets into its socket's output.

use crate::websocket;
use hashbrown::HashMap;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::net::Sockets;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{QoS, Version};

/// Topic aliases towards a client: given to the first topics, and never to another one.
#[derive(Debug, Default)]
pub(crate) struct AliasTable {
    by_topic: HashMap<Box<str>, u16>,
    maximum: u16,
}

impl AliasTable {
    /// A table for a client that takes `maximum` aliases; `None` if it takes none.
    pub(crate) fn new(maximum: u16) -> Option<Box<Self>> {
        (maximum > 0).then(|| Box::new(Self { by_topic: HashMap::new(), maximum }))
    }

    /// The topic's alias and whether the client knows it already.
    fn alias(&self, topic: &str) -> Option<(u16, bool)> {
        if let Some(alias) = self.by_topic.get(topic) {
            return Some((*alias, true));
        }
        let free = self.by_topic.len() < usize::from(self.maximum);
        free.then(|| (self.by_topic.len() as u16 + 1, false))
    }
}

/// A session's connection, as far as sending goes.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: ConnectionId,
    pub(crate) version: Version,
    pub(crate) websocket: bool,
    /// The client's Maximum Packet Size [MQTT-3.1.2-24].
    pub(crate) packet_bytes_max: usize,
    /// Messages in flight: the client's Receive Maximum, or less by configuration.
    pub(crate) window: u16,
    /// Whether reason strings may be sent [MQTT-3.1.2-29].
    pub(crate) problem_information: bool,
    pub(crate) aliases: Option<Box<AliasTable>>,
    /// Since when the output has been full, or [`Nanos::NEVER`].
    pub(crate) full_since: Nanos,
}

/// A message on its way to one client.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    pub(crate) topic: &'a str,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) expires_at: Nanos,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: u16,
    pub(crate) ids: &'a [u32],
    /// Set if the payload may be sent from the message itself.
    pub(crate) shared: Option<&'a Message>,
}

/// What became of a PUBLISH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Written {
    Sent,
    /// Above the client's Maximum Packet Size: it is as if it had been sent [MQTT-3.1.2-25].
    TooLarge,
    /// The connection is closing.
    Gone,
}

/// Seconds left of a message's expiry interval [MQTT-3.3.2-6]; a part of a second counts as one.
pub(crate) fn remaining_secs(expires_at: Nanos, now: Nanos) -> Option<u32> {
    if expires_at == Nanos::NEVER {
        return None;
    }
    let nanos = expires_at.0.saturating_sub(now.0);
    Some(u32::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u32::MAX))
}

impl Link {
    /// Writes a PUBLISH.
    pub(crate) fn write_publish(
        &mut self,
        sockets: &mut Sockets,
        now: Nanos,
        delivery: &Delivery<'_>,
    ) -> Written {
        let mut head = self.head(now, delivery);
        let given = self.choose_alias(&mut head, delivery.topic);
        if self.is_too_large(&head) {
            // A new alias makes the packet longer; it may fit without.
            head.topic_alias = None;
            head.topic = delivery.topic;
            if self.is_too_large(&head) {
                return Written::TooLarge;
            }
        } else if let (Some(aliases), Some(alias)) = (&mut self.aliases, given) {
            aliases.by_topic.insert(delivery.topic.into(), alias);
        }
        let Some(output) = sockets.output(self.connection) else { return Written::Gone };
        if self.websocket {
            websocket::frame_header(&mut output.bytes, encode::publish_bytes(&head));
        }
        encode::publish_head(&mut output.bytes, &head);
        match delivery.shared {
            Some(message) => output.push_payload(message.clone()),
            None => output.bytes.extend_from_slice(delivery.payload),
        }
        Written::Sent
    }
}

impl Link {
    /// Whether a PUBLISH is not above the client's Maximum Packet Size.
    pub(crate) fn takes(&self, now: Nanos, delivery: &Delivery<'_>) -> bool {
        !self.is_too_large(&self.head(now, delivery))
    }

    /// The head of a PUBLISH without a topic alias.
    fn head<'a>(&self, now: Nanos, delivery: &Delivery<'a>) -> PublishHead<'a> {
        PublishHead {
            version: self.version,
            dup: delivery.dup,
            qos: delivery.qos,
            retain: delivery.retain,
            topic: delivery.topic,
            topic_alias: None,
            packet_id: delivery.packet_id,
            message_expiry_secs: remaining_secs(delivery.expires_at, now),
            subscription_ids: delivery.ids,
            forwarded: delivery.properties,
            payload_bytes: delivery.payload.len(),
        }
    }

    fn is_too_large(&self, head: &PublishHead<'_>) -> bool {
        self.packet_bytes_max < usize::MAX && encode::publish_bytes(head) > self.packet_bytes_max
    }

    /// Sets the topic's alias if there is one; returns a new one that has to be remembered if the
    /// packet goes out.
    fn choose_alias(&self, head: &mut PublishHead<'_>, topic: &str) -> Option<u16> {
        let (alias, known) = self.aliases.as_ref()?.alias(topic)?;
        head.topic_alias = Some(alias);
        if known {
            head.topic = "";
            return None;
        }
        Some(alias)
    }
}

/// Writes any other packet; nothing happens if the connection is closing.
pub(crate) fn write_packet(
    sockets: &mut Sockets,
    connection: ConnectionId,
    websocket: bool,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let Some(output) = sockets.output(connection) else { return };
    if !websocket {
        encode(&mut output.bytes);
        return;
    }
    let mut packet = Vec::new();
    encode(&mut packet);
    websocket::frame_header(&mut output.bytes, packet.len());
    output.bytes.extend_from_slice(&packet);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_given_once_and_only_up_to_the_maximum() {
        assert!(AliasTable::new(0).is_none());
        let mut table = AliasTable::new(1).expect("one alias");
        assert_eq!(table.alias("a"), Some((1, false)));
        table.by_topic.insert("a".into(), 1);
        assert_eq!(table.alias("a"), Some((1, true)));
        assert_eq!(table.alias("b"), None);
    }

    #[test]
    fn the_remaining_interval_is_what_was_sent_until_a_second_has_passed() {
        let expires = Nanos::from_secs(70);
        assert_eq!(remaining_secs(expires, Nanos::from_secs(10)), Some(60));
        assert_eq!(remaining_secs(expires, Nanos(10_000_000_001)), Some(60));
        assert_eq!(remaining_secs(expires, Nanos::from_secs(11)), Some(59));
        assert_eq!(remaining_secs(Nanos::NEVER, Nanos(0)), None);
    }
}
