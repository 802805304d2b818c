//! QoS 1 and 2 to many clients: encoded once per form, with each client's packet identifier
//! written into its copy.

use super::owed::Owed;
use super::view::View;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{QoS, Version};

/// A packet without its identifier.
#[derive(Debug, Default)]
struct Form {
    packet: Vec<u8>,
    packet_id_at: usize,
}

/// The packets of one message: with or without properties, with or without RETAIN, with QoS 1 or
/// with QoS 2.
#[derive(Debug, Default)]
pub(crate) struct OwedForms {
    forms: [Form; 8],
    used: bool,
}

impl OwedForms {
    /// Forgets the last message's packets.
    pub(crate) fn clear(&mut self) {
        if core::mem::take(&mut self.used) {
            for form in &mut self.forms {
                form.packet.clear();
            }
        }
    }

    /// Appends the packet of a message for one client; false if that is above `bytes_max`.
    pub(super) fn append(
        &mut self,
        out: &mut Vec<u8>,
        view: &View<'_>,
        owed: Owed,
        to: Receiver,
    ) -> bool {
        let form = self.get(view, owed, to);
        if form.packet.len() > to.packet_bytes_max {
            return false;
        }
        let packet_id_at = out.len() + form.packet_id_at;
        out.extend_from_slice(&form.packet);
        out[packet_id_at..packet_id_at + 2].copy_from_slice(&to.packet_id.to_be_bytes());
        true
    }

    fn get(&mut self, view: &View<'_>, owed: Owed, to: Receiver) -> &Form {
        self.used = true;
        let index = usize::from(to.version.is_v5()) * 4
            + usize::from(owed.retain) * 2
            + usize::from(owed.qos == QoS::ExactlyOnce);
        let form = &mut self.forms[index];
        if form.packet.is_empty() {
            let head = PublishHead {
                version: to.version,
                dup: false,
                qos: owed.qos,
                retain: owed.retain,
                topic: view.topic,
                topic_alias: None,
                packet_id: 0,
                message_expiry_secs: crate::connection::remaining_secs(view.expires_at, to.now),
                subscription_ids: &[],
                forwarded: view.properties,
                payload_bytes: view.payload.len(),
            };
            form.packet_id_at = encode::packet_id_position(&head).unwrap_or_default();
            encode::publish_head(&mut form.packet, &head);
            form.packet.extend_from_slice(view.payload);
        }
        form
    }
}

/// Who gets a packet, and under which identifier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    pub(super) version: Version,
    pub(super) packet_bytes_max: usize,
    pub(super) packet_id: u16,
    pub(super) now: Nanos,
}
