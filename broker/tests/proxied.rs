//! Clients behind a load balancer that speaks the PROXY protocol.

use crate::support::websocket::HANDSHAKE;
use crate::support::{Broker, Client, Connect, Kind, Options, PATIENCE, Transport, Version};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

on_both_transports!(
    a_client_behind_a_balancer_has_its_own_address,
    a_websocket_comes_behind_the_header,
    what_comes_without_a_header_is_closed,
);

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883\r\n";
/// Version 2: PROXY, TCP over IPv6, from 2001:db8::7, port 40000, with a value of no meaning behind.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x29\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
    \x9c\x40\x07\x5b\x04\0\x02\0\0";
/// A reserved packet type.
const GARBAGE: &[u8] = &[0x00, 0x00];

fn proxied(transport: Transport) -> Broker {
    let config =
        "[listeners.tcp]\nproxy_protocol = true\n[listeners.websocket]\nproxy_protocol = true\n";
    Broker::start(&Options::new(transport).cores(2).config(config))
}

fn a_client_behind_a_balancer_has_its_own_address(transport: Transport) {
    let broker = proxied(transport);
    for (header, address) in [(LINE, "192.0.2.7:40000"), (BINARY, "[2001:db8::7]:40000")] {
        // Enough of them that some move to the other core.
        for number in 0..8 {
            let mut client = Client::open(broker.tcp, Version::V5);
            let connect = Connect::new(Version::V5, &format!("behind-{number}")).encode();
            let whole = [header, &connect].concat();
            let pieces = if number == 0 { 1 } else { whole.len() };
            whole.chunks(pieces).for_each(|piece| client.send(piece));
            client.expect(Kind::Connack);
            client.publish("t", "x", 1);
            if number == 7 {
                client.send(GARBAGE);
                client.expect_closed();
            }
        }
        broker.wait_until("its address is logged", |broker| broker.log().contains(address));
    }
    broker.stop();
}

fn a_websocket_comes_behind_the_header(transport: Transport) {
    let broker = proxied(transport);
    let mut socket = open(broker.websocket);
    socket.write_all(&[LINE, HANDSHAKE.as_bytes()].concat()).expect("written");
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    broker.stop();
}

fn what_comes_without_a_header_is_closed(transport: Transport) {
    let broker = proxied(transport);
    let mut client = Client::open(broker.tcp, Version::V5);
    client.send(&Connect::new(Version::V5, "direct").encode());
    assert_eq!(client.expect_closed(), []);
    let mut socket = open(broker.websocket);
    socket.write_all(HANDSHAKE.as_bytes()).expect("written");
    let mut answer = Vec::new();
    // It ends with FIN or a reset: what was sent was not read.
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    let hint = "no header of the PROXY protocol came first";
    broker.wait_until("it is logged", |broker| broker.log().contains(hint));
    broker.stop();
}

fn open(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("it accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket
}
