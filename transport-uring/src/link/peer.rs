//! The state of one link.

use super::assembly::Assembly;
use crate::sending::Sending;
use core::net::SocketAddr;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::link::{LinkDown, LinkId, Outbox};
use ringlane_dataplane::replication::hello::Hello;
use ringlane_dataplane::time::Nanos;
use socket2::SockAddr;
use std::os::fd::OwnedFd;

/// How far a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Dialing, between two tries: the next begins at its deadline.
    Resting,
    /// Dialing.
    Connecting,
    /// The peer's hello is due.
    Greeting,
    /// The peer has called, and this core's answer is due; nothing is in flight.
    Greeted,
    /// Messages go.
    Up,
}

/// What a link that this core dialed needs besides.
#[derive(Debug)]
pub(crate) struct Dial {
    /// Read by the kernel while a try to connect is in flight.
    pub(crate) target: Box<SockAddr>,
    /// After this there is no other try; none before the first one has begun.
    pub(crate) gives_up_at: Nanos,
    /// The try in flight was told to stop.
    pub(crate) is_late: bool,
}

/// One link.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    /// None before an accepted one has said hello.
    pub(crate) link: Option<LinkId>,
    pub(crate) address: SocketAddr,
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) phase: Phase,
    /// What this node says.
    pub(crate) own: Option<Box<Hello>>,
    /// What the peer has said.
    pub(crate) theirs: Option<Box<Hello>>,
    pub(crate) dial: Option<Dial>,
    pub(crate) connecting: bool,
    /// A receive into `assembly` is in flight.
    pub(crate) receiving: bool,
    pub(crate) assembly: Assembly,
    /// It is among those that have something to deliver.
    pub(crate) is_readable: bool,
    /// What is being sent; the kernel reads it while `send_in_flight`.
    pub(crate) sending: Box<Sending>,
    pub(crate) send_in_flight: bool,
    /// What is being sent is a hello, which the core's count of bytes does not have.
    pub(crate) says_hello: bool,
    /// Empty; takes turns with the core's.
    pub(crate) outbox: Outbox,
    /// Bytes sent that the core was not told of.
    pub(crate) sent_bytes: usize,
    pub(crate) sent_is_queued: bool,
    /// Nothing comes behind what was received, or nothing can be sent any more.
    pub(crate) end: Option<LinkDown>,
    /// It ends when nothing is in flight any more.
    pub(crate) closing: Option<LinkDown>,
    /// When its phase is over.
    pub(crate) deadline: Nanos,
    /// Since when it is up.
    pub(crate) up_since: Nanos,
}

impl Peer {
    pub(crate) fn new(id: ConnectionId, address: SocketAddr, phase: Phase) -> Self {
        Self {
            id,
            link: None,
            address,
            socket: None,
            phase,
            own: None,
            theirs: None,
            dial: None,
            connecting: false,
            receiving: false,
            assembly: Assembly::default(),
            is_readable: false,
            sending: Box::default(),
            send_in_flight: false,
            says_hello: false,
            outbox: Outbox::default(),
            sent_bytes: 0,
            sent_is_queued: false,
            end: None,
            closing: None,
            deadline: Nanos::NEVER,
            up_since: Nanos::NEVER,
        }
    }

    /// Whether the kernel has anything of it.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.connecting || self.receiving || self.send_in_flight
    }
}
