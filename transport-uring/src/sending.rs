//! One output on its way to the kernel: what is left of it, as slices in order.

use crate::uring::frame::Frame;
use ringlane_dataplane::net::Output;

/// Slices of one send, at most; the rest follows in the next. Well below `IOV_MAX` (1,024), and
/// as many as 64 payloads with their headers, which is above what a socket buffer takes at once.
pub(crate) const SLICES_MAX: usize = 128;

/// An output that the driver owns until the kernel has taken all of it.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    output: Output,
    left: usize,
    position: Position,
    /// Room for a message header whose address must not change while the kernel reads it.
    pub(crate) frame: Option<Box<Frame>>,
    /// The zero-copy notice that must come before these bytes may be touched.
    pub(crate) notice: Option<u32>,
    /// The send in flight, if it is a zero-copy one.
    pub(crate) in_zero_copy: Option<u32>,
}

/// Where in the output the next byte is.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    bytes_at: usize,
    shared_index: usize,
    payload_at: usize,
}

impl Sending {
    /// Starts over with another output; returns the one before, which is empty the first time.
    pub(crate) fn restart(&mut self, output: Output) -> Output {
        self.left = output.len();
        self.position = Position::default();
        core::mem::replace(&mut self.output, output)
    }

    /// Bytes that the kernel has not taken yet.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// What is left, if it is one run of bytes.
    pub(crate) fn single(&self) -> Option<&[u8]> {
        let mut pieces = self.pieces();
        let first = pieces.next()?;
        pieces.next().is_none().then_some(first)
    }

    /// What is left, in order, without empty slices.
    pub(crate) fn pieces(&self) -> Pieces<'_> {
        Pieces { output: &self.output, position: self.position }
    }

    /// The kernel has taken this many bytes.
    ///
    /// # Panics
    /// If that is more than is left.
    pub(crate) fn advance(&mut self, taken: usize) {
        assert!(taken <= self.left, "the kernel takes no more than it is given");
        self.left -= taken;
        let mut taken = taken;
        while taken > 0 {
            taken -= self.position.advance(&self.output, taken);
        }
    }
}

impl Position {
    /// Moves within the next piece, by at most `limit`; how far.
    fn advance(&mut self, output: &Output, limit: usize) -> usize {
        let next = output.shared().get(self.shared_index);
        let end = next.map_or(output.bytes.len(), |shared| shared.at);
        if self.bytes_at < end {
            let step = limit.min(end - self.bytes_at);
            self.bytes_at += step;
            return step;
        }
        let Some(next) = next else { return 0 };
        let payload_bytes = next.bytes.as_slice().len();
        let step = limit.min(payload_bytes - self.payload_at);
        self.payload_at += step;
        if self.payload_at == payload_bytes {
            self.shared_index += 1;
            self.payload_at = 0;
        }
        step
    }
}

/// See [`Sending::pieces`].
pub(crate) struct Pieces<'a> {
    output: &'a Output,
    position: Position,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let next = self.output.shared().get(self.position.shared_index);
            let end = next.map_or(self.output.bytes.len(), |shared| shared.at);
            let start = self.position.bytes_at;
            if start < end {
                self.position.bytes_at = end;
                return Some(&self.output.bytes[start..end]);
            }
            let payload = &next?.bytes.as_slice()[self.position.payload_at..];
            self.position.shared_index += 1;
            self.position.payload_at = 0;
            if !payload.is_empty() {
                return Some(payload);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_dataplane::message::{Message, MessageHead};
    use ringlane_dataplane::time::Nanos;

    fn message(payload: &[u8]) -> Message {
        let head = MessageHead {
            publisher: 0,
            accepted_at: Nanos(0),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 0,
            retain: false,
        };
        Message::new(head, "t", &[], payload, &mut Vec::new())
    }

    fn mixed() -> (Output, Vec<u8>) {
        let mut output = Output::default();
        output.push_payload(message(b"first"));
        output.bytes.extend_from_slice(b"head");
        output.push_payload(message(b"payload"));
        output.push_payload(message(b""));
        output.push_payload(message(b"again"));
        output.bytes.extend_from_slice(b"tail");
        (output, b"firstheadpayloadagaintail".to_vec())
    }

    #[test]
    fn every_split_gives_the_same_bytes() {
        for step in 1..30 {
            let (output, expected) = mixed();
            let mut sending = Sending::default();
            sending.restart(output);
            let mut seen = Vec::new();
            while sending.left() > 0 {
                let taken = step.min(sending.left());
                let pieces: Vec<u8> = sending.pieces().flatten().copied().collect();
                assert_eq!(pieces.len(), sending.left());
                seen.extend_from_slice(&pieces[..taken]);
                sending.advance(taken);
            }
            assert_eq!(seen, expected, "step {step}");
            assert_eq!(sending.pieces().count(), 0);
        }
    }

    #[test]
    fn no_piece_is_empty() {
        let (output, _) = mixed();
        let mut sending = Sending::default();
        sending.restart(output);
        assert!(sending.pieces().all(|piece| !piece.is_empty()));
        assert!(sending.single().is_none());
    }

    #[test]
    fn one_piece_is_one_run() {
        let mut sending = Sending::default();
        let mut output = Output::default();
        output.bytes.extend_from_slice(b"abc");
        sending.restart(output);
        sending.advance(1);
        assert_eq!(sending.single(), Some(b"bc".as_slice()));
        let mut output = Output::default();
        output.push_payload(message(b"payload"));
        sending.restart(output);
        assert_eq!(sending.single(), Some(b"payload".as_slice()));
    }
}
