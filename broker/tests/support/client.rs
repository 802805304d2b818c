//! A raw MQTT client over TCP or WebSocket: it sends any bytes and reads packet by packet.

use super::packets::{self, Connect, Kind, PINGREQ, Packet, Publish, Received, Version};
use super::properties::Properties;
use super::websocket::Framing;
use super::{PATIENCE, hex, show};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

static FENCES: AtomicU64 = AtomicU64::new(0);

/// Why no packet could be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    /// The broker closed or reset the connection.
    Closed,
    /// Nothing came in time.
    TimedOut,
}

/// One connection to the broker.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    framing: Option<Framing>,
    version: Version,
    input: Vec<u8>,
    /// Packets that were read while waiting for another one.
    kept: VecDeque<Packet>,
    connack: Option<Packet>,
    last_id: u16,
}

impl Client {
    /// A TCP connection on which nothing has been sent.
    pub fn open(address: SocketAddr, version: Version) -> Self {
        Self::try_open(address, version).expect("the broker accepts connections")
    }

    /// The same, of a broker that may have ended.
    pub fn try_open(address: SocketAddr, version: Version) -> std::io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true).expect("TCP_NODELAY");
        Ok(Self {
            socket,
            framing: None,
            version,
            input: Vec::new(),
            kept: VecDeque::new(),
            connack: None,
            last_id: 0,
        })
    }

    /// A WebSocket connection with the subprotocol `mqtt` on which no MQTT has been sent.
    pub fn open_websocket(address: SocketAddr, version: Version) -> Self {
        let mut client = Self::open(address, version);
        let (framing, rest) = Framing::handshake(&mut client.socket);
        client.framing = Some(framing);
        assert!(rest.is_empty(), "the server speaks before the client: {}", show(&rest));
        client
    }

    /// Connects and expects to be accepted.
    pub fn connect(address: SocketAddr, connect: &Connect) -> Self {
        let mut client = Self::open(address, connect.version);
        client.greet(connect);
        client
    }

    /// Connects; `None` if the connection ends before it is accepted, or another answer comes.
    pub fn try_connect(address: SocketAddr, connect: &Connect) -> Option<Self> {
        let mut client = Self::try_open(address, connect.version).ok()?;
        client.try_send(&connect.encode()).ok()?;
        let connack = client.try_read(PATIENCE).ok()?;
        let is_accepted = connack.kind() == Kind::Connack && connack.reason() == 0;
        client.connack = is_accepted.then_some(connack);
        is_accepted.then_some(client)
    }

    /// Connects with a clean session and default properties.
    pub fn plain(address: SocketAddr, version: Version, client_id: &str) -> Self {
        Self::connect(address, &Connect::new(version, client_id))
    }

    /// Sends CONNECT and expects CONNACK with success.
    pub fn greet(&mut self, connect: &Connect) {
        self.send(&connect.encode());
        let connack = self.read();
        assert_eq!(connack.kind(), Kind::Connack, "{connack:?}");
        assert_eq!(connack.reason(), 0, "{} is refused: {connack:?}", connect.client_id);
        self.connack = Some(connack);
    }

    /// The CONNACK that accepted this client.
    pub fn connack(&self) -> &Packet {
        self.connack.as_ref().expect("a client that was accepted")
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// The state of the WebSocket below, of a client that has one.
    pub fn framing(&self) -> &Framing {
        self.framing.as_ref().expect("a WebSocket connection")
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    // ---- sending ----

    /// Sends bytes and expects the kernel to take them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the connection takes bytes");
    }

    /// Sends bytes; an error says that the broker has closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &self.framing {
            Some(framing) => self.socket.write_all(&framing.binary(bytes)),
            None => self.socket.write_all(bytes),
        }
    }

    /// Sends bytes to the socket, past the WebSocket framing.
    pub fn send_unframed(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the connection takes bytes");
    }

    pub fn send_hex(&mut self, text: &str) {
        self.send(&hex(text));
    }

    pub fn send_publish(&mut self, publish: &Publish) {
        self.send(&publish.encode(self.version));
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub fn acknowledge(&mut self, kind: Kind, id: u16) {
        self.send(&packets::acknowledge(kind, id));
    }

    /// A packet identifier that this client has not used.
    pub fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    // ---- reading ----

    /// The next packet; it must come.
    pub fn read(&mut self) -> Packet {
        match self.try_read(PATIENCE) {
            Ok(packet) => packet,
            Err(gone) => panic!("no packet: {gone:?}"),
        }
    }

    /// The next packet within `patience`.
    pub fn try_read(&mut self, patience: Duration) -> Result<Packet, Gone> {
        if let Some(packet) = self.kept.pop_front() {
            return Ok(packet);
        }
        let deadline = Instant::now() + patience;
        loop {
            if let Some((packet, taken)) = Packet::parse(self.version, &self.input) {
                self.input.drain(..taken);
                return Ok(packet);
            }
            self.fill(deadline)?;
        }
    }

    /// Reads what has come, at least one byte, and puts MQTT bytes into the input.
    fn fill(&mut self, deadline: Instant) -> Result<(), Gone> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Gone::TimedOut);
        }
        self.socket.set_read_timeout(Some(left)).expect("a time limit for reading");
        let mut chunk = [0; 16 * 1024];
        match self.socket.read(&mut chunk) {
            Ok(0) => Err(Gone::Closed),
            Ok(count) => match &mut self.framing {
                Some(framing) => framing.receive(&chunk[..count], &mut self.input),
                None => {
                    self.input.extend_from_slice(&chunk[..count]);
                    Ok(())
                }
            },
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Gone::TimedOut)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(Gone::Closed),
        }
    }

    /// The next packet of this type; others are kept for later reads, in order.
    pub fn read_kind(&mut self, kind: Kind) -> Packet {
        let mut others = Vec::new();
        loop {
            let packet = self.read();
            if packet.kind() == kind {
                for other in others.into_iter().rev() {
                    self.kept.push_front(other);
                }
                return packet;
            }
            others.push(packet);
        }
    }

    /// The next packet, which must be of this type.
    pub fn expect(&mut self, kind: Kind) -> Packet {
        let packet = self.read();
        assert_eq!(packet.kind(), kind, "{packet:?}");
        packet
    }

    /// The next packet, which must be a PUBLISH. It is not acknowledged.
    pub fn receive(&mut self) -> Received {
        self.expect(Kind::Publish).publish()
    }

    /// The next packet, which must be a PUBLISH; its acknowledgements are exchanged.
    pub fn receive_and_acknowledge(&mut self) -> Received {
        let received = self.receive();
        self.finish(&received);
        received
    }

    /// Exchanges the acknowledgements of a message that was received.
    pub fn finish(&mut self, received: &Received) {
        match received.qos {
            1 => self.acknowledge(Kind::Puback, received.id),
            2 => {
                self.acknowledge(Kind::Pubrec, received.id);
                let pubrel = self.read_kind(Kind::Pubrel);
                assert_eq!((pubrel.id(), pubrel.first), (received.id, 0x62));
                self.acknowledge(Kind::Pubcomp, received.id);
            }
            _ => {}
        }
    }

    /// Sends PINGREQ and returns what came before PINGRESP. The connection must be open.
    pub fn fence(&mut self) -> Vec<Packet> {
        self.try_fence().expect("the connection is open")
    }

    /// As [`Client::fence`]; `Err` if the connection ended, with what came before.
    pub fn try_fence(&mut self) -> Result<Vec<Packet>, Vec<Packet>> {
        let sent = self.try_send(&PINGREQ);
        let mut before = Vec::new();
        loop {
            match self.try_read(PATIENCE) {
                Ok(packet) if packet.kind() == Kind::Pingresp => return Ok(before),
                Ok(packet) => before.push(packet),
                Err(Gone::Closed) => return Err(before),
                Err(Gone::TimedOut) => panic!("no PINGRESP and no end ({sent:?}), {before:?}"),
            }
        }
    }

    /// Nothing has come and nothing comes before PINGRESP.
    pub fn expect_nothing(&mut self) {
        let packets = self.fence();
        assert!(packets.is_empty(), "{packets:?}");
    }

    /// Reads until the broker closes; returns what came before.
    pub fn expect_closed(&mut self) -> Vec<Packet> {
        match self.try_closed(PATIENCE) {
            Ok(packets) => packets,
            Err(packets) => panic!("the connection is still open after {packets:?}"),
        }
    }

    /// Reads until the broker closes; `Err` if it has not within `patience`.
    pub fn try_closed(&mut self, patience: Duration) -> Result<Vec<Packet>, Vec<Packet>> {
        let deadline = Instant::now() + patience;
        let mut packets = Vec::new();
        loop {
            match self.try_read(deadline.saturating_duration_since(Instant::now())) {
                Ok(packet) => packets.push(packet),
                Err(Gone::Closed) => return Ok(packets),
                Err(Gone::TimedOut) => return Err(packets),
            }
        }
    }

    /// Lets `publisher` publish one message more, which must come, and returns what came before
    /// it: a fence through the delivery from one client to another.
    pub fn fence_through(&mut self, publisher: &mut Self, qos: u8) -> Vec<Packet> {
        let topic = format!("fence/{}", FENCES.fetch_add(1, Ordering::Relaxed));
        assert_eq!(self.subscribe(&topic, qos), qos);
        publisher.publish(&topic, "", qos);
        let mut before = Vec::new();
        loop {
            let packet = self.read();
            if packet.kind() == Kind::Publish && packet.publish().topic == topic {
                self.finish(&packet.publish());
                self.unsubscribe(&topic);
                return before;
            }
            before.push(packet);
        }
    }

    /// Reads until the next Pong of WebSocket; returns the packets that came before it.
    pub fn wait_for_pong(&mut self) -> Vec<Packet> {
        let pongs = self.framing().pongs.len();
        let deadline = Instant::now() + PATIENCE;
        while self.framing().pongs.len() == pongs {
            self.fill(deadline).expect("a Pong");
        }
        let mut packets = Vec::new();
        while let Some((packet, taken)) = Packet::parse(self.version, &self.input) {
            self.input.drain(..taken);
            packets.push(packet);
        }
        packets
    }

    /// Everything that comes until the broker closes, as bytes.
    pub fn read_unframed_until_closed(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.fill(deadline) {
                Ok(()) => {}
                Err(Gone::Closed) => return std::mem::take(&mut self.input),
                Err(Gone::TimedOut) => panic!("the connection is still open"),
            }
        }
    }

    // ---- exchanges ----

    /// Subscribes to one filter with an options byte; returns the reason code.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        let codes = self.subscribe_all(&[(filter, options)], &Properties::new());
        assert_eq!(codes.len(), 1);
        codes[0]
    }

    /// Subscribes to filters in one packet; returns the reason codes.
    pub fn subscribe_all(&mut self, filters: &[(&str, u8)], properties: &Properties) -> Vec<u8> {
        let id = self.next_id();
        self.send(&packets::subscribe(self.version, id, filters, properties));
        let suback = self.read_kind(Kind::Suback);
        assert_eq!(suback.id(), id);
        suback.codes().to_vec()
    }

    /// Unsubscribes from one filter.
    pub fn unsubscribe(&mut self, filter: &str) -> Packet {
        let id = self.next_id();
        self.send(&packets::unsubscribe(self.version, id, &[filter]));
        let unsuback = self.read_kind(Kind::Unsuback);
        assert_eq!(unsuback.id(), id);
        unsuback
    }

    /// Publishes and exchanges the acknowledgements; each must say success.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.publish_packet(Publish::new(topic, payload).qos(qos, 0));
    }

    /// As [`Client::publish`], with a packet whose identifier is filled in.
    pub fn publish_packet(&mut self, mut publish: Publish) {
        if publish.qos > 0 {
            publish.id = self.next_id();
        }
        self.send_publish(&publish);
        let expect = |client: &mut Self, kind| {
            let packet = client.read_kind(kind);
            assert_eq!(packet.id(), publish.id, "{packet:?}");
            assert!(packet.reason() < 0x80, "{packet:?}");
        };
        match publish.qos {
            1 => expect(self, Kind::Puback),
            2 => {
                expect(self, Kind::Pubrec);
                self.acknowledge(Kind::Pubrel, publish.id);
                expect(self, Kind::Pubcomp);
            }
            _ => {}
        }
    }

    // ---- endings ----

    /// Sends DISCONNECT and waits for the end.
    pub fn disconnect(mut self) {
        self.send(&packets::disconnect());
        self.expect_closed();
    }

    /// Ends the connection with a TCP reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.socket);
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Ends the sending side with FIN; reading goes on.
    pub fn half_close(&self) {
        self.socket.shutdown(Shutdown::Write).expect("FIN");
    }
}
