//! A run of QoS 0 messages to the clients of this core: one route, and one copy per client.
//!
//! A client that speaks the publisher's version gets the packets as they came. For the others they
//! are encoded once per form, and one by one only for a client that asked for what differs from
//! packet to packet.

use super::pressure::Pressure;
use super::qos0::{Qos0, send_qos0};
use super::routes::Route;
use super::{Forms, MessageMaker, Target, View};
use crate::connection::Link;
use crate::handlers::checked_topic;
use crate::metrics::CoreMetrics;
use crate::service::sizes::{SHARE_PAYLOAD_BYTES, Sizes};
use crate::service::{Broker, Turn};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::message::MessageHead;
use ringlane_dataplane::routing::CoreSet;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{PublishRun, QoS, Version};

/// Who wanted a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matched {
    /// Whether a subscription of this core matched.
    pub(crate) here: bool,
    /// The other cores that may want it.
    pub(crate) cores: CoreSet,
}

/// What became of a run on this core.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forwarded {
    Sent {
        matched: Matched,
        /// A client with a full output: the publisher had better wait for it.
        full: Option<ConnectionId>,
    },
    /// Nothing was sent: the publisher is to wait for this client.
    Wait(ConnectionId),
    /// The messages have to be taken one by one: clients may not publish to the topic, or not every
    /// subscriber gets the packets as they came.
    OneByOne,
}

/// A run on its way to the clients of this core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunDelivery<'a> {
    pub(crate) run: PublishRun<'a>,
    /// The version that the packets are written in.
    pub(crate) version: Version,
    /// What is the same of all its messages.
    pub(crate) head: MessageHead,
    /// Whether its publisher can be held up.
    pub(crate) may_wait: bool,
}

/// What writing a run needs besides the link.
struct Tools<'a> {
    forms: &'a mut Forms,
    maker: &'a mut MessageMaker,
    metrics: &'a CoreMetrics,
    sizes: &'a Sizes,
    /// The last client whose output is full.
    full: Option<ConnectionId>,
}

impl Broker {
    /// Delivers a run on this core.
    pub(crate) fn forward_run(
        &mut self,
        turn: &mut Turn<'_>,
        delivery: &RunDelivery<'_>,
    ) -> Forwarded {
        let Self { routes, sessions, scratch, maker, metrics, sizes, config, .. } = self;
        let topic = delivery.run.topic;
        let route = match routes.remembered(topic) {
            Ok(route) => route,
            Err(hash) => match checked_topic(&config.mqtt, topic) {
                Some(topic) => routes.find_out(topic, hash),
                None => return Forwarded::OneByOne,
            },
        };
        if !route.plain || shares_payloads(route, delivery) {
            return Forwarded::OneByOne;
        }
        let alone = route.subscribers.len() == 1;
        scratch.forms.clear_run();
        let mut tools = Tools { forms: &mut scratch.forms, maker, metrics, sizes, full: None };
        let mut sent = 0;
        for subscriber in &route.subscribers {
            let Target::Session(slot) = subscriber.target else { continue };
            let Some(session) = sessions.at_mut(slot) else { continue };
            let Some(link) = session.link.as_mut() else { continue };
            match link.pressure(turn.sockets, sizes, turn.now) {
                Pressure::Send => {}
                Pressure::Wait if alone && delivery.may_wait => {
                    return Forwarded::Wait(link.connection);
                }
                // Others have it already: the publisher waits when all do.
                Pressure::Wait if has_reserve(link, turn, sizes) => {
                    tools.full = Some(link.connection);
                }
                Pressure::Wait | Pressure::Drop => {
                    metrics.dropped_slow.add(delivery.run.count as u64);
                    continue;
                }
            }
            sent += u64::from(send_run(link, turn, delivery, &mut tools));
        }
        let full = tools.full;
        if sent > 0 {
            let messages = sent * delivery.run.count as u64;
            metrics.packets_sent.add(messages);
            metrics.publishes_sent_qos0.add(messages);
            metrics.publish_sent_bytes.add(sent * delivery.run.payload_bytes as u64);
        }
        let matched = Matched { here: !route.subscribers.is_empty(), cores: route.cores };
        Forwarded::Sent { matched, full }
    }
}

/// Whether the payloads are so large that several clients share them instead of a copy each.
fn shares_payloads(route: &Route, delivery: &RunDelivery<'_>) -> bool {
    delivery.run.packet_bytes_max >= SHARE_PAYLOAD_BYTES && route.subscribers.len() > 1
}

/// Whether a full output takes what cannot wait.
fn has_reserve(link: &Link, turn: &Turn<'_>, sizes: &Sizes) -> bool {
    turn.sockets.unsent_bytes(link.connection) <= sizes.output_bytes_max
}

/// Writes a run to one client. False if it was not sent, or was sent and counted one by one.
fn send_run(
    link: &mut Link,
    turn: &mut Turn<'_>,
    delivery: &RunDelivery<'_>,
    tools: &mut Tools<'_>,
) -> bool {
    let run = &delivery.run;
    // The other form of a packet is at most this much longer: one more byte of properties, and of
    // the length.
    let fits = run.packet_bytes_max + 2 <= link.packet_bytes_max;
    if link.websocket || link.aliases.is_some() || !fits {
        send_one_by_one(link, turn, delivery, tools);
        return false;
    }
    let as_it_came = link.version.is_v5() == delivery.version.is_v5();
    if as_it_came {
        return turn.sockets.forward(link.connection, run.packets);
    }
    let Some(output) = turn.sockets.output(link.connection) else { return false };
    output.bytes.extend_from_slice(tools.forms.run(delivery, link.version));
    true
}

/// For a client with topic aliases, WebSocket frames, or a Maximum Packet Size in reach.
#[cold]
fn send_one_by_one(
    link: &mut Link,
    turn: &mut Turn<'_>,
    delivery: &RunDelivery<'_>,
    tools: &mut Tools<'_>,
) {
    let topic = core::str::from_utf8(delivery.run.topic).unwrap_or_default();
    for (_, payload) in delivery.run.messages() {
        let mut view = View::borrowed(delivery.head, topic, &[], payload);
        let how = Qos0 {
            retain: false,
            ids: &[],
            keep_form: false,
            output_bytes_high: tools.sizes.output_bytes_high,
        };
        let tools = (&mut *tools.forms, &mut *tools.maker, tools.metrics);
        send_qos0(link, turn.sockets, turn.now, &mut view, how, tools);
    }
}

/// Appends a run in the form of another version.
pub(super) fn translate(out: &mut Vec<u8>, delivery: &RunDelivery<'_>, version: Version) {
    let topic = core::str::from_utf8(delivery.run.topic).unwrap_or_default();
    for (_, payload) in delivery.run.messages() {
        let head = PublishHead {
            version,
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic,
            topic_alias: None,
            packet_id: 0,
            message_expiry_secs: None,
            subscription_ids: &[],
            forwarded: &[],
            payload_bytes: payload.len(),
        };
        encode::publish_head(out, &head);
        out.extend_from_slice(payload);
    }
}
