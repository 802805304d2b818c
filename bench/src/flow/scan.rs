//! Reads the few fields of a packet that the load needs: a tenth of what a strict decoder does, so
//! that the load costs less than the broker. What it does not know is decoded in full.

use ringlane_mqtt::{Frame, PACKET_BYTES_MAX, QoS, RawPacket, frame};

/// A packet at a client.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Seen<'a> {
    /// A message.
    Publish {
        qos: QoS,
        /// 0 with QoS 0.
        packet_id: u16,
        payload: &'a [u8],
    },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        kind: AckKind,
        packet_id: u16,
        /// Whether the reason code is an error.
        failed: bool,
    },
    /// Any other packet.
    Other(RawPacket<'a>),
    /// Not a packet that a broker sends.
    Malformed,
}

/// The four packets that are a packet identifier and a reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AckKind {
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
}

/// The packets of some bytes that hold nothing but whole ones.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    is_v5: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], is_v5: bool) -> Self {
        Self { bytes, is_v5 }
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Seen<'a>;

    #[inline]
    fn next(&mut self) -> Option<Seen<'a>> {
        let Ok(Frame::Complete(raw)) = frame(self.bytes, PACKET_BYTES_MAX) else { return None };
        self.bytes = &self.bytes[raw.total_bytes..];
        let seen = match raw.header >> 4 {
            3 => publish(raw, self.is_v5),
            4 => ack(AckKind::Puback, raw),
            5 => ack(AckKind::Pubrec, raw),
            6 => ack(AckKind::Pubrel, raw),
            7 => ack(AckKind::Pubcomp, raw),
            _ => Some(Seen::Other(raw)),
        };
        Some(seen.unwrap_or(Seen::Malformed))
    }
}

#[inline]
fn publish(raw: RawPacket<'_>, is_v5: bool) -> Option<Seen<'_>> {
    let qos = QoS::from_u8(raw.header >> 1 & 3)?;
    let topic_bytes = usize::from(u16::from_be_bytes(*raw.body.first_chunk::<2>()?));
    let mut rest = raw.body.get(2 + topic_bytes..)?;
    let mut packet_id = 0;
    if qos != QoS::AtMostOnce {
        packet_id = u16::from_be_bytes(*rest.first_chunk::<2>()?);
        rest = &rest[2..];
    }
    if is_v5 {
        let (properties, length_bytes) = varint(rest)?;
        rest = rest.get(length_bytes + properties..)?;
    }
    Some(Seen::Publish { qos, packet_id, payload: rest })
}

#[inline]
fn ack(kind: AckKind, raw: RawPacket<'_>) -> Option<Seen<'_>> {
    let packet_id = u16::from_be_bytes(*raw.body.first_chunk::<2>()?);
    let failed = raw.body.get(2).is_some_and(|reason| *reason >= 0x80);
    Some(Seen::Ack { kind, packet_id, failed })
}

#[inline]
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Appends an acknowledgement that says success; its form is the same in all versions.
#[inline]
pub(super) fn write_ack(out: &mut Vec<u8>, kind: AckKind, packet_id: u16) {
    let flags = if kind == AckKind::Pubrel { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    out.extend_from_slice(&[(kind as u8) << 4 | flags, 2, high, low]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{PublishTemplate, Stamp};
    use ringlane_mqtt::{ReasonCode, Version, encode};

    #[test]
    fn messages_are_read_as_the_codec_wrote_them() {
        for version in [Version::V311, Version::V5] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let stamp = Stamp { stream: 1, sequence: 2, sent_ns: 3 };
                let mut bytes = Vec::new();
                let template = PublishTemplate::new(version, qos, "a/topic", 200);
                template.write(&mut bytes, 77, stamp);
                template.write(&mut bytes, 78, stamp);
                let seen: Vec<Seen<'_>> = Scanner::new(&bytes, version.is_v5()).collect();
                assert_eq!(seen.len(), 2);
                for (seen, id) in seen.iter().zip([77, 78]) {
                    let Seen::Publish { qos: seen_qos, packet_id, payload } = seen else {
                        panic!("{seen:?}")
                    };
                    assert_eq!(*seen_qos, qos);
                    assert_eq!(*packet_id, if qos == QoS::AtMostOnce { 0 } else { id });
                    assert_eq!(Stamp::read(payload), Some(stamp));
                    assert_eq!(payload.len(), 200);
                }
            }
        }
    }

    #[test]
    fn properties_of_a_message_are_skipped() {
        let bytes = [0x30, 11, 0, 1, b't', 5, 0x02, 0, 0, 0, 9, b'h', b'i'];
        let seen: Vec<Seen<'_>> = Scanner::new(&bytes, true).collect();
        let payload = b"hi";
        assert_eq!(seen, [Seen::Publish { qos: QoS::AtMostOnce, packet_id: 0, payload }]);
    }

    #[test]
    fn acknowledgements_are_read_and_written_as_the_codec_does() {
        let (success, failure) = (ReasonCode::SUCCESS, ReasonCode::QUOTA_EXCEEDED);
        for version in [Version::V311, Version::V5] {
            let mut ours = Vec::new();
            let mut theirs = Vec::new();
            write_ack(&mut ours, AckKind::Puback, 300);
            write_ack(&mut ours, AckKind::Pubrec, 300);
            write_ack(&mut ours, AckKind::Pubrel, 300);
            write_ack(&mut ours, AckKind::Pubcomp, 300);
            encode::puback(&mut theirs, version, 300, success, None);
            encode::pubrec(&mut theirs, version, 300, success, None);
            encode::pubrel(&mut theirs, version, 300, success, None);
            encode::pubcomp(&mut theirs, version, 300, success, None);
            assert_eq!(ours, theirs);
            assert_eq!(Scanner::new(&ours, version.is_v5()).count(), 4);
        }
        let mut refused = Vec::new();
        encode::puback(&mut refused, Version::V5, 7, failure, None);
        let seen: Vec<Seen<'_>> = Scanner::new(&refused, true).collect();
        assert_eq!(seen, [Seen::Ack { kind: AckKind::Puback, packet_id: 7, failed: true }]);
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        assert_eq!(Scanner::new(&[0x40, 1, 0], false).next(), Some(Seen::Malformed));
        assert_eq!(Scanner::new(&[0x30, 2, 0, 9], false).next(), Some(Seen::Malformed));
        assert_eq!(Scanner::new(&[0x36, 2, 0, 0], false).next(), Some(Seen::Malformed));
    }
}
