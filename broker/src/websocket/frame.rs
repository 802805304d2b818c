//! Frames: the client's become a byte stream, the server's get their header.
//!
//! The decoder takes bytes in any pieces and keeps at most one partial header and one partial
//! control frame, so that its memory is fixed. Payload is copied once, into the caller's buffer.
//!
//! Source: RFC 6455 sections 5 and 7.

use super::mask::unmask;
use std::ops::ControlFlow;

/// Bytes that [`frame_header`] appends at most.
pub const FRAME_HEADER_BYTES_MAX: usize = 10;

const CONTROL_BYTES_MAX: usize = 125;
/// Two bytes, an extended length of eight, a mask of four.
const CLIENT_HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What a client did against RFC 6455, or against MQTT's use of it.
///
/// The connection is to be closed: send [`WebSocketError::close_frame`], then end it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WebSocketError {
    /// A text frame; MQTT travels in binary frames only [MQTT-6.0.0-1].
    #[error("a text frame")]
    Text,
    /// A frame without a mask (RFC 6455 section 5.1).
    #[error("a frame without a mask")]
    Unmasked,
    /// A reserved bit is set, and no extension was negotiated (section 5.2).
    #[error("a reserved bit is set")]
    ReservedBit,
    /// An opcode without a meaning (section 5.2).
    #[error("a reserved opcode")]
    ReservedOpcode,
    /// A control frame in fragments (section 5.5).
    #[error("a control frame in fragments")]
    FragmentedControl,
    /// A control frame with more than 125 bytes (section 5.5).
    #[error("a control frame above 125 bytes")]
    ControlTooLarge,
    /// A continuation of nothing, or a new message inside an unfinished one (section 5.4).
    #[error("a fragment out of place")]
    FragmentOutOfPlace,
    /// A length in more bytes than it needs, or with its highest bit set (section 5.2).
    #[error("a length that is not in its shortest form")]
    LengthForm,
    /// A frame above the bound given to [`Decoder::new`].
    #[error("a frame above the limit")]
    TooLarge,
    /// A Close frame with half a code, or with a code that may not be sent (section 7.4).
    #[error("a Close frame with a wrong code")]
    CloseCode,
    /// A Close frame whose reason is not UTF-8 (section 5.5.1).
    #[error("a Close frame whose reason is not UTF-8")]
    CloseReason,
}

impl WebSocketError {
    /// The status code that tells the client (RFC 6455 section 7.4.1).
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::TooLarge => 1009,
            Self::CloseReason => 1007,
            _ => 1002,
        }
    }

    /// The Close frame to send before the connection ends.
    #[must_use]
    pub fn close_frame(self) -> [u8; 4] {
        close_frame(self.close_code())
    }
}

/// A Close frame of the server with a status code: 1000 for an ordinary end, 1001 when the server
/// goes away.
///
/// Source: RFC 6455 section 5.5.1.
#[must_use]
pub fn close_frame(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [FIN | CLOSE, 2, high, low]
}

/// Appends the header of a binary frame with `payload_bytes` bytes: final, without a mask.
///
/// Source: RFC 6455 section 5.2.
pub fn frame_header(out: &mut Vec<u8>, payload_bytes: usize) {
    out.push(FIN | BINARY);
    match payload_bytes {
        0..=125 => out.push(payload_bytes as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

/// What a call of [`Decoder::decode`] led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The client sent Close: the reply is in the replies, nothing is decoded any more, and the
    /// connection is to be ended.
    pub closed: bool,
}

/// Turns a client's frames into the byte stream they carry.
#[derive(Clone, Debug)]
pub struct Decoder {
    payload_bytes_max: u64,
    state: State,
    /// A partial header; its first two bytes have been checked as soon as they were there.
    header: [u8; CLIENT_HEADER_BYTES_MAX],
    header_bytes: usize,
    /// A partial control frame's payload, unmasked.
    control: [u8; CONTROL_BYTES_MAX],
    control_bytes: usize,
    /// A binary message has begun and its last fragment has not been seen.
    in_message: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    Payload(Frame),
    Closed,
    Failed(WebSocketError),
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    mask: [u8; 4],
    /// Place in the mask of the next payload byte, 0 to 3.
    phase: usize,
    remaining: u64,
}

impl Frame {
    fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }
}

impl Decoder {
    /// A decoder for a new connection, which takes data frames of at most `payload_bytes_max`
    /// bytes. A message may have any number of fragments, since none is kept; for the same reason
    /// `usize::MAX`, which sets no bound, takes no memory.
    #[must_use]
    pub fn new(payload_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max: payload_bytes_max as u64,
            state: State::Header,
            header: [0; CLIENT_HEADER_BYTES_MAX],
            header_bytes: 0,
            control: [0; CONTROL_BYTES_MAX],
            control_bytes: 0,
            in_message: false,
        }
    }

    /// Takes all of `input`, in whatever pieces it came; appends what binary frames carry to
    /// `payload` and the answers to Ping and Close to `replies`. Each grows by at most
    /// `input.len()` bytes beyond what one control frame holds.
    ///
    /// # Errors
    /// The first violation in the stream; what stood before it has been appended. The decoder
    /// stays failed and gives the same error again.
    pub fn decode(
        &mut self,
        mut input: &[u8],
        payload: &mut Vec<u8>,
        replies: &mut Vec<u8>,
    ) -> Result<Decoded, WebSocketError> {
        loop {
            let step = match self.state {
                State::Header => self.take_header(&mut input),
                State::Payload(frame) => self.take_payload(frame, &mut input, payload, replies),
                State::Closed => return Ok(Decoded { closed: true }),
                State::Failed(error) => return Err(error),
            };
            match step {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(Decoded { closed: false }),
                Err(error) => self.state = State::Failed(error),
            }
        }
    }

    /// Collects a header byte by byte until it is whole. Breaks when the input ends first.
    fn take_header(&mut self, input: &mut &[u8]) -> Result<ControlFlow<()>, WebSocketError> {
        while self.header_bytes < self.header_size() {
            let Some((byte, rest)) = input.split_first() else {
                return Ok(ControlFlow::Break(()));
            };
            *input = rest;
            self.header[self.header_bytes] = *byte;
            self.header_bytes += 1;
            match self.header_bytes {
                1 => check_first(*byte, self.in_message)?,
                2 => check_second(self.header[0], *byte)?,
                _ => {}
            }
        }
        let frame = self.begin_frame()?;
        self.header_bytes = 0;
        self.control_bytes = 0;
        self.state = State::Payload(frame);
        Ok(ControlFlow::Continue(()))
    }

    /// Bytes of the header that is being collected, as far as can be known.
    fn header_size(&self) -> usize {
        if self.header_bytes < 2 {
            return 2;
        }
        match self.header[1] & !MASKED {
            126 => 8,
            127 => 14,
            _ => 6,
        }
    }

    fn begin_frame(&mut self) -> Result<Frame, WebSocketError> {
        let remaining = self.payload_size()?;
        let opcode = self.header[0] & 0x0f;
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.header[self.header_bytes - 4..self.header_bytes]);
        let frame = Frame { opcode, mask, phase: 0, remaining };
        if !frame.is_control() {
            if remaining > self.payload_bytes_max {
                return Err(WebSocketError::TooLarge);
            }
            self.in_message = self.header[0] & FIN == 0;
        }
        Ok(frame)
    }

    fn payload_size(&self) -> Result<u64, WebSocketError> {
        let extended = &self.header[2..self.header_bytes - 4];
        let size = extended.iter().fold(0u64, |size, byte| size << 8 | u64::from(*byte));
        match (self.header[1] & !MASKED, size) {
            (126, 0..=125) | (127, 0..=0xffff | 0x8000_0000_0000_0000..) => {
                Err(WebSocketError::LengthForm)
            }
            (126 | 127, size) => Ok(size),
            (size, _) => Ok(u64::from(size)),
        }
    }

    /// Takes what there is of a frame's payload. Breaks when the input ends first.
    fn take_payload(
        &mut self,
        mut frame: Frame,
        input: &mut &[u8],
        payload: &mut Vec<u8>,
        replies: &mut Vec<u8>,
    ) -> Result<ControlFlow<()>, WebSocketError> {
        let available =
            usize::try_from(frame.remaining).map_or(input.len(), |n| n.min(input.len()));
        let (chunk, rest) = input.split_at(available);
        *input = rest;
        if frame.is_control() {
            let place = &mut self.control[self.control_bytes..self.control_bytes + available];
            place.copy_from_slice(chunk);
            unmask(place, frame.mask, frame.phase);
            self.control_bytes += available;
        } else {
            let start = payload.len();
            payload.extend_from_slice(chunk);
            unmask(&mut payload[start..], frame.mask, frame.phase);
        }
        frame.phase = (frame.phase + available) & 3;
        frame.remaining -= available as u64;
        if frame.remaining > 0 {
            self.state = State::Payload(frame);
            return Ok(ControlFlow::Break(()));
        }
        self.state = State::Header;
        if frame.is_control() {
            self.end_control(frame.opcode, replies)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn end_control(&mut self, opcode: u8, replies: &mut Vec<u8>) -> Result<(), WebSocketError> {
        let body = &self.control[..self.control_bytes];
        match opcode {
            PING => reply(replies, PONG, body),
            CLOSE => {
                check_close(body)?;
                reply(replies, CLOSE, &body[..body.len().min(2)]);
                self.state = State::Closed;
            }
            // An unasked Pong is a one-way heartbeat (RFC 6455 section 5.5.3).
            _ => {}
        }
        Ok(())
    }
}

fn reply(replies: &mut Vec<u8>, opcode: u8, body: &[u8]) {
    replies.push(FIN | opcode);
    replies.push(body.len() as u8);
    replies.extend_from_slice(body);
}

fn check_first(byte: u8, in_message: bool) -> Result<(), WebSocketError> {
    if byte & RESERVED != 0 {
        return Err(WebSocketError::ReservedBit);
    }
    match byte & 0x0f {
        CONTINUATION if in_message => Ok(()),
        BINARY if !in_message => Ok(()),
        CONTINUATION | BINARY => Err(WebSocketError::FragmentOutOfPlace),
        TEXT => Err(WebSocketError::Text),
        CLOSE | PING | PONG if byte & FIN == 0 => Err(WebSocketError::FragmentedControl),
        CLOSE | PING | PONG => Ok(()),
        _ => Err(WebSocketError::ReservedOpcode),
    }
}

fn check_second(first: u8, second: u8) -> Result<(), WebSocketError> {
    if second & MASKED == 0 {
        return Err(WebSocketError::Unmasked);
    }
    let is_control = first & 0x0f >= CLOSE;
    if is_control && usize::from(second & !MASKED) > CONTROL_BYTES_MAX {
        return Err(WebSocketError::ControlTooLarge);
    }
    Ok(())
}

/// A Close frame has no body, or a code that may stand on the wire and a reason in UTF-8.
fn check_close(body: &[u8]) -> Result<(), WebSocketError> {
    let (code, reason) = match body {
        [] => return Ok(()),
        [_] => return Err(WebSocketError::CloseCode),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WebSocketError::CloseCode);
    }
    std::str::from_utf8(reason).map_err(|_| WebSocketError::CloseReason)?;
    Ok(())
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
