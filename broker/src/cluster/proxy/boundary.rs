//! Where packets end in what passes by: bytes may be said to a client between two of them and nowhere else.

use ringlane_mqtt::{Frame, PACKET_BYTES_MAX, frame};

/// The first byte of a DISCONNECT [MQTT-3.14.1-1].
const DISCONNECT: u8 = 0xE0;
/// Bytes of the longest fixed header: the first byte, and a length of four [MQTT5 §2.1].
const HEADER_BYTES_MAX: usize = 5;

/// One direction of an MQTT connection, followed packet by packet.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// The fixed header of the packet in hand, as far as it has come, where its length is not known yet.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    /// What is still to come of the packet in hand.
    rest: usize,
    has_ended: bool,
}

impl Boundary {
    /// Takes note of what passes by.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !self.has_ended && !bytes.is_empty() {
            let taken = self.rest.min(bytes.len());
            self.rest -= taken;
            bytes = &bytes[taken..];
            if let Some((next, behind)) = bytes.split_first() {
                self.pass_header(*next);
                bytes = behind;
            }
        }
    }

    fn pass_header(&mut self, byte: u8) {
        self.header[self.header_bytes] = byte;
        self.header_bytes += 1;
        let header = &self.header[..self.header_bytes];
        match frame(header, PACKET_BYTES_MAX) {
            Ok(Frame::Complete(_)) => self.begin_body(0),
            // The last byte of a length is below 0x80.
            Ok(Frame::Incomplete { needed }) if 1 < header.len() && byte < 0x80 => {
                self.begin_body(needed);
            }
            Ok(Frame::Incomplete { .. }) => {}
            // What is no packet has no end.
            Err(_) => self.has_ended = true,
        }
    }

    fn begin_body(&mut self, body_bytes: usize) {
        self.rest = body_bytes;
        self.has_ended = self.header[0] == DISCONNECT;
        self.header_bytes = 0;
    }

    /// Whether a DISCONNECT has passed by, or what is no packet.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether something may be said now: the last packet is whole, and was no DISCONNECT.
    pub(super) fn is_open(&self) -> bool {
        !self.has_ended && self.rest == 0 && self.header_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a boundary is open behind each byte.
    fn opens(bytes: &[u8]) -> Vec<usize> {
        let mut boundary = Boundary::default();
        let mut open = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            boundary.pass(&[*byte]);
            if boundary.is_open() {
                open.push(at + 1);
            }
        }
        let mut whole = Boundary::default();
        whole.pass(bytes);
        assert_eq!(whole.is_open(), open.last() == Some(&bytes.len()));
        open
    }

    #[test]
    fn packets_end_where_their_length_says() {
        assert!(Boundary::default().is_open());
        let mut bytes = b"\x20\x03\x00\x00\x00\xd0\x00\x30\x80\x01".to_vec();
        bytes.extend([7; 128]);
        bytes.extend(b"\x40\x02\x00\x01\x40");
        assert_eq!(opens(&bytes), [5, 7, 138, 142]);
    }

    #[test]
    fn nothing_follows_a_disconnect_or_what_is_no_packet() {
        assert_eq!(opens(b"\xd0\x00\xe0\x00"), [2]);
        assert_eq!(opens(b"\xd0\x00\xe0\x01\x8b\xd0\x00"), [2]);
        assert!(opens(b"\x30\xff\xff\xff\xff\x01").is_empty());
    }
}
