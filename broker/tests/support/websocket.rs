//! The client's side of WebSocket, for tests.
//!
//! Source: RFC 6455.

use super::client::Gone;
use super::{PATIENCE, show};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

pub const HANDSHAKE: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// What the server answers [`HANDSHAKE`]'s key with (RFC 6455 section 1.3).
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Sends an HTTP request and reads the head of the answer; returns it with what came behind it.
pub fn exchange_head(socket: &mut TcpStream, request: &str) -> (String, Vec<u8>) {
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit for reading");
    socket.write_all(request.as_bytes()).expect("the connection takes the request");
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return (String::from_utf8(bytes).expect("an answer in ASCII"), rest);
        }
        let count = socket.read(&mut chunk).expect("an answer to the request");
        assert!(count > 0, "the connection ended before an answer: {}", show(&bytes));
        bytes.extend_from_slice(&chunk[..count]);
    }
}

/// The status of the answer to a request on a connection of its own.
pub fn status(address: SocketAddr, request: &str) -> u16 {
    let mut socket = TcpStream::connect(address).expect("the broker accepts connections");
    let (head, _) = exchange_head(&mut socket, request);
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
}

/// The state of a client's WebSocket connection.
#[derive(Debug, Default)]
pub struct Framing {
    input: Vec<u8>,
    /// The status code of the server's Close frame, once it has come.
    pub close_code: Option<u16>,
    /// Payloads of Pong frames.
    pub pongs: Vec<Vec<u8>>,
}

impl Framing {
    /// Makes the opening handshake and checks the answer.
    pub fn handshake(socket: &mut TcpStream) -> (Self, Vec<u8>) {
        let (head, rest) = exchange_head(socket, HANDSHAKE);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let has_line = |wanted: &str| head.lines().any(|line| line.eq_ignore_ascii_case(wanted));
        assert!(has_line(ACCEPT), "{head}");
        assert!(has_line("Sec-WebSocket-Protocol: mqtt"), "[MQTT-6.0.0-4] {head}");
        (Self::default(), rest)
    }

    /// A binary frame with these bytes.
    pub fn binary(&self, payload: &[u8]) -> Vec<u8> {
        frame(0x82, payload)
    }

    /// Takes bytes of the server; appends what binary frames carry to `output`.
    pub fn receive(&mut self, bytes: &[u8], output: &mut Vec<u8>) -> Result<(), Gone> {
        self.input.extend_from_slice(bytes);
        while let Some((first, payload, taken)) = parse(&self.input) {
            match first {
                0x82 => output.extend_from_slice(&payload),
                0x88 => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    self.close_code = Some(code);
                }
                0x8a => self.pongs.push(payload),
                _ => panic!("[MQTT-6.0.0-1] the server sent a frame {first:#04x}"),
            }
            self.input.drain(..taken);
        }
        Ok(())
    }
}

/// A client's frame with a first byte of one's choice.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// First byte, payload and size of the first frame; `None` if it is not complete.
fn parse(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a server does not mask (RFC 6455 section 5.1)");
    let (start, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..10)?.first_chunk()?) as usize),
        length => (2, usize::from(length)),
    };
    let payload = bytes.get(start..start + length)?.to_vec();
    Some((first, payload, start + length))
}
