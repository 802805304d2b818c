//! A relay between the load and a broker that does one thing wrong, once: what the load must find.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What is done to one PUBLISH on its way to a subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It never arrives.
    Drop,
    /// It arrives twice.
    Double,
    /// It arrives after the next one.
    Swap,
    /// Its last byte is another.
    Damage,
    /// Nothing is wrong with it, but everything stops for so long before it.
    Pause(Duration),
}

/// Listens, and forwards to `upstream`. The PUBLISH that is number `at` of those that go to
/// subscribers meets the fault.
pub(crate) fn relay(upstream: SocketAddr, fault: Fault, at: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(upstream).unwrap();
            let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let count = count.clone();
            thread::spawn(move || forward(up, server, &mut |packet| packet));
            thread::spawn(move || {
                let mut held = Vec::new();
                forward(down, client, &mut |packet| apply(fault, at, &count, &mut held, packet));
            });
        }
    });
    address
}

fn apply(
    fault: Fault,
    at: u64,
    count: &AtomicU64,
    held: &mut Vec<u8>,
    mut packet: Vec<u8>,
) -> Vec<u8> {
    if packet[0] >> 4 != 3 {
        return packet;
    }
    if !held.is_empty() {
        packet.append(held);
        return packet;
    }
    if count.fetch_add(1, Ordering::Relaxed) != at {
        return packet;
    }
    match fault {
        Fault::Drop => packet.clear(),
        Fault::Double => packet.extend_from_within(..),
        Fault::Swap => held.append(&mut packet),
        Fault::Damage => {
            let last = packet.len() - 1;
            packet[last] ^= 1;
        }
        Fault::Pause(time) => thread::sleep(time),
    }
    packet
}

/// Reads packets, changes them, writes them on, until one side is gone.
fn forward(mut from: TcpStream, mut to: TcpStream, change: &mut dyn FnMut(Vec<u8>) -> Vec<u8>) {
    to.set_nodelay(true).unwrap();
    let mut input = Vec::new();
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        input.extend_from_slice(&buffer[..length]);
        let mut output = Vec::new();
        while let Some(end) = packet_end(&input) {
            output.extend(change(input.drain(..end).collect()));
        }
        if to.write_all(&output).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

fn packet_end(input: &[u8]) -> Option<usize> {
    match ringlane_mqtt::frame(input, ringlane_mqtt::PACKET_BYTES_MAX).unwrap() {
        ringlane_mqtt::Frame::Complete(raw) => Some(raw.total_bytes),
        ringlane_mqtt::Frame::Incomplete { .. } => None,
    }
}
