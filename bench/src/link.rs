//! One client socket: its buffers and how far it has come. [`crate::swarm`] drives many of them.

use ringlane_mqtt::encode;
use ringlane_mqtt::{Packet, QoS, ReasonCode, Version};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What is spoken on a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// MQTT: packets are decoded and, if asked for, acknowledged.
    Mqtt(Version),
    /// Whatever the caller sends; bytes come back as they are.
    Raw,
}

/// How a socket is opened and treated.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    /// The broker.
    pub address: SocketAddr,
    /// The local address, or the kernel's choice.
    pub source: Option<IpAddr>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether PUBLISH, PUBREC and PUBREL are answered at once, before the caller sees them.
    pub acknowledge: bool,
    /// Receive buffer of the kernel in bytes, or its default.
    pub receive_buffer_bytes: Option<usize>,
}

impl LinkOptions {
    /// An MQTT client that acknowledges what it receives.
    #[must_use]
    pub fn mqtt(address: SocketAddr, version: Version) -> Self {
        let protocol = Protocol::Mqtt(version);
        Self { address, source: None, protocol, acknowledge: true, receive_buffer_bytes: None }
    }

    /// A socket on which the caller sends what it likes.
    #[must_use]
    pub fn raw(address: SocketAddr) -> Self {
        let protocol = Protocol::Raw;
        Self { address, source: None, protocol, acknowledge: false, receive_buffer_bytes: None }
    }
}

/// Which of two kinds a link is counted with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Lane {
    /// Those that publish, and all that are not said to be of the other kind.
    #[default]
    Publishers,
    /// Those that receive.
    Listeners,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flushed {
    /// Everything is with the kernel.
    All,
    /// The kernel's buffer is full; readiness will tell.
    Blocked,
}

/// One socket.
#[derive(Debug)]
pub struct Link {
    pub(crate) socket: OwnedFd,
    pub(crate) protocol: Protocol,
    /// Whether packets are acknowledged without the caller.
    pub acknowledge: bool,
    /// Whether packets are handed over in one piece, neither decoded nor acknowledged: for those
    /// who take millions of them.
    pub lean: bool,
    /// Which reads and writes are counted together.
    pub lane: Lane,
    pub(crate) connecting: bool,
    pub(crate) dirty: bool,
    pub(crate) blocked: bool,
    pub(crate) paused: bool,
    pub(crate) readable: bool,
    broken: bool,
    pub(crate) partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    next_packet_id: u16,
    pub(crate) received_bytes: u64,
}

/// Output buffers above this are given back once empty.
const OUT_BYTES_KEPT: usize = 1 << 20;

impl Link {
    pub(crate) fn open(options: &LinkOptions) -> io::Result<Self> {
        let family = match options.address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(bytes) = options.receive_buffer_bytes {
            sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
        }
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(source) = options.source {
            net::bind(&socket, &SocketAddr::new(source, 0))?;
        }
        match net::connect(&socket, &options.address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            socket,
            protocol: options.protocol,
            acknowledge: options.acknowledge,
            lean: false,
            lane: Lane::default(),
            connecting: true,
            dirty: false,
            blocked: false,
            paused: false,
            readable: false,
            broken: false,
            partial: Vec::new(),
            out: Vec::new(),
            written: 0,
            next_packet_id: 0,
            received_bytes: 0,
        })
    }

    /// The next packet identifier: 1 to 65,535, then from 1 again. With a window far below that,
    /// an identifier is free again long before its turn.
    pub fn take_packet_id(&mut self) -> u16 {
        self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        self.next_packet_id
    }

    /// The MQTT version spoken.
    ///
    /// # Panics
    /// If the link is a raw one.
    #[must_use]
    pub fn version(&self) -> Version {
        match self.protocol {
            Protocol::Mqtt(version) => version,
            Protocol::Raw => panic!("a raw link has no MQTT version"),
        }
    }

    /// Bytes that the kernel has not taken yet.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Bytes read so far.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Gives back the buffers that are empty: for a link that will be idle.
    pub fn shed(&mut self) {
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
    }

    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Ends the TCP handshake. The error is why it failed.
    pub(crate) fn finish_connect(&mut self) -> io::Result<()> {
        sockopt::socket_error(&self.socket)??;
        self.connecting = false;
        Ok(())
    }

    /// Writes what is queued. An error is left to the reading side to report: there may still be
    /// a DISCONNECT to read.
    pub(crate) fn flush(&mut self) -> Flushed {
        while self.written < self.out.len() {
            if self.broken {
                self.written = self.out.len();
                break;
            }
            match rustix::io::write(&self.socket, &self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.blocked = true;
                    return Flushed::Blocked;
                }
                Err(_) => self.broken = true,
            }
        }
        self.out.clear();
        self.written = 0;
        if self.out.capacity() > OUT_BYTES_KEPT {
            self.out = Vec::new();
        }
        Flushed::All
    }

    /// Makes the coming close a reset: nothing lingers, nothing more is sent.
    pub(crate) fn arm_reset(&self) {
        // A failure leaves an orderly close, which is as final.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Queues the answer that the protocol demands of a receiver.
    pub(crate) fn answer(&mut self, packet: &Packet<'_>) {
        if !self.acknowledge {
            return;
        }
        let version = self.version();
        let success = ReasonCode::SUCCESS;
        match packet {
            Packet::Publish(publish) => match publish.qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => {
                    encode::puback(&mut self.out, version, publish.packet_id, success, None);
                }
                QoS::ExactlyOnce => {
                    encode::pubrec(&mut self.out, version, publish.packet_id, success, None);
                }
            },
            Packet::Pubrec(ack) if !ack.reason.is_error() => {
                encode::pubrel(&mut self.out, version, ack.packet_id, success, None);
            }
            Packet::Pubrel(ack) => {
                encode::pubcomp(&mut self.out, version, ack.packet_id, success, None);
            }
            _ => {}
        }
    }
}
