//! Compares what the broker did with what a row asks for.

use super::table::{Before, Reaction, Row, When};
use crate::support::{Kind, Packet, Version};

/// What the broker did with the bytes of a row.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Packets after the bytes, without the PINGRESP of the fence.
    pub(crate) packets: Vec<Packet>,
    pub(crate) closed: bool,
}

/// Whether one of the row's reactions was observed.
pub(crate) fn is_allowed(row: &Row, observed: &Observed) -> bool {
    row.reactions.iter().any(|reaction| matches(row, reaction, observed))
}

fn matches(row: &Row, reaction: &Reaction, observed: &Observed) -> bool {
    let packets = &observed.packets[..];
    match reaction {
        Reaction::Close { before, codes, .. } => {
            let rest = after(*before, packets);
            let accepted = row.when != When::First || rest.len() < packets.len();
            observed.closed && is_error(row.version, accepted, codes, rest)
        }
        Reaction::Refuse { codes } => {
            observed.closed && packets.len() == 1 && is_refusal(&packets[0], codes)
        }
        Reaction::Accept => {
            let accepts = |packet: &Packet| packet.kind() == Kind::Connack && packet.reason() == 0;
            !observed.closed && packets.len() == 1 && accepts(&packets[0])
        }
        Reaction::Stay { answer: None, .. } => !observed.closed && packets.is_empty(),
        Reaction::Stay { answer: Some(kind), codes } => {
            !observed.closed && packets.len() == 1 && is_answer(&packets[0], *kind, codes)
        }
    }
}

/// The packets behind those that may come first.
fn after(before: Before, packets: &[Packet]) -> &[Packet] {
    let count = match before {
        Before::Nothing => 0,
        Before::Connack => {
            let accepts = |packet: &Packet| packet.kind() == Kind::Connack && packet.reason() == 0;
            usize::from(packets.first().is_some_and(accepts))
        }
        Before::Pubrecs => {
            packets.iter().take_while(|packet| packet.kind() == Kind::Pubrec).count()
        }
    };
    &packets[count..]
}

/// Nothing, or one error packet of MQTT 5: CONNACK before a client is accepted, DISCONNECT after
/// [MQTT-3.14.0-1].
fn is_error(version: Version, accepted: bool, codes: &[u8], packets: &[Packet]) -> bool {
    match packets {
        [] => true,
        [packet] if version.is_v5() && accepted => {
            packet.kind() == Kind::Disconnect && codes.contains(&packet.reason())
        }
        [packet] if version.is_v5() => is_refusal(packet, codes),
        _ => false,
    }
}

/// A CONNACK with one of the codes and without a session [MQTT-3.2.2-4] [MQTT-3.2.2-6].
fn is_refusal(packet: &Packet, codes: &[u8]) -> bool {
    packet.kind() == Kind::Connack && packet.body[0] == 0 && codes.contains(&packet.reason())
}

fn is_answer(packet: &Packet, kind: Kind, codes: &[u8]) -> bool {
    if packet.kind() != kind {
        return false;
    }
    match kind {
        Kind::Suback => packet.codes().len() == 1 && codes.contains(&packet.codes()[0]),
        Kind::Unsuback => packet.codes() == codes,
        _ => codes.contains(&packet.reason()),
    }
}
