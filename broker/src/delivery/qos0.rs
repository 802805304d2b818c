//! QoS 0 towards one client: encoded once per form, dropped when the client's output is full.

use super::run::{RunDelivery, translate};
use super::view::{MessageMaker, View};
use crate::connection::{Delivery, Link, Written};
use crate::metrics::CoreMetrics;
use crate::service::sizes::SHARE_PAYLOAD_BYTES;
use ringlane_dataplane::net::Sockets;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{QoS, Version};

/// The QoS 0 packets of one message: with or without properties, with or without RETAIN.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    forms: [Vec<u8>; 4],
    /// The run in hand in the form of the version that its publisher does not speak.
    run: Vec<u8>,
}

impl Forms {
    /// Forgets the last message's packets.
    pub(crate) fn clear(&mut self) {
        for form in &mut self.forms {
            form.clear();
        }
    }

    /// Forgets the last run.
    pub(super) fn clear_run(&mut self) {
        self.run.clear();
    }

    /// The run in the form of a version that its publisher does not speak.
    pub(super) fn run(&mut self, delivery: &RunDelivery<'_>, version: Version) -> &[u8] {
        if self.run.is_empty() {
            translate(&mut self.run, delivery, version);
        }
        &self.run
    }

    fn get(&mut self, view: &View<'_>, link: &Link, retain: bool, now: Nanos) -> &[u8] {
        let index = usize::from(link.version.is_v5()) * 2 + usize::from(retain);
        let form = &mut self.forms[index];
        if form.is_empty() {
            let head = PublishHead {
                version: link.version,
                dup: false,
                qos: QoS::AtMostOnce,
                retain,
                topic: view.topic,
                topic_alias: None,
                packet_id: 0,
                message_expiry_secs: crate::connection::remaining_secs(view.expires_at, now),
                subscription_ids: &[],
                forwarded: view.properties,
                payload_bytes: view.payload.len(),
            };
            encode::publish_head(form, &head);
            form.extend_from_slice(view.payload);
        }
        form
    }
}

/// How one QoS 0 delivery is to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Qos0<'a> {
    pub(crate) retain: bool,
    pub(crate) ids: &'a [u32],
    /// Whether other clients get the same packet, so that it pays to keep it encoded.
    pub(crate) keep_form: bool,
    /// Bytes in the output above which QoS 0 is dropped.
    pub(crate) output_bytes_high: usize,
}

/// Sends a QoS 0 message to a client, or drops and counts it.
pub(crate) fn send_qos0(
    link: &mut Link,
    sockets: &mut Sockets,
    now: Nanos,
    view: &mut View<'_>,
    how: Qos0<'_>,
    tools: (&mut Forms, &mut MessageMaker, &CoreMetrics),
) {
    let (forms, maker, metrics) = tools;
    if sockets.unsent_bytes(link.connection) > how.output_bytes_high {
        metrics.dropped_slow.add(1);
        return;
    }
    let large = view.payload.len() >= SHARE_PAYLOAD_BYTES;
    let plain = how.keep_form && !large && !link.websocket;
    if plain && how.ids.is_empty() && link.aliases.is_none() {
        let packet = forms.get(view, link, how.retain, now);
        if packet.len() > link.packet_bytes_max {
            metrics.dropped_too_large.add(1);
        } else if let Some(output) = sockets.output(link.connection) {
            output.bytes.extend_from_slice(packet);
            count_sent(metrics, view.payload.len());
        }
        return;
    }
    let shared = if large { Some(view.share(maker).clone()) } else { None };
    let delivery = Delivery {
        topic: view.topic,
        properties: view.properties,
        payload: view.payload,
        expires_at: view.expires_at,
        qos: QoS::AtMostOnce,
        retain: how.retain,
        dup: false,
        packet_id: 0,
        ids: how.ids,
        shared: shared.as_ref(),
    };
    match link.write_publish(sockets, now, &delivery) {
        Written::Sent => count_sent(metrics, view.payload.len()),
        Written::TooLarge => metrics.dropped_too_large.add(1),
        Written::Gone => {}
    }
}

fn count_sent(metrics: &CoreMetrics, payload_bytes: usize) {
    metrics.packets_sent.add(1);
    metrics.publishes_sent_qos0.add(1);
    metrics.publish_sent_bytes.add(payload_bytes as u64);
}
