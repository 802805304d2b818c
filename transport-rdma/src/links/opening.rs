//! The way of a link until it is up: dial or adopt, hellos, queue pairs, ready.
//!
//! The dialer makes its queue pair first, because its hello names it; the other side makes one when
//! its core answers, and connects it before it says so. So whoever hears of a queue pair may write to
//! it, and only the dialer's has to be waited for: it says that it is ready.

use super::greeting::{Greeting, Heard, errno};
use super::peer::{LinkEnd, Peer, Phase, pair_address};
use super::{RdmaLinks, Ready};
use crate::endpoint::Endpoint;
use crate::error::{DownCause, RdmaError};
use crate::queue_pair::QueuePair;
use crate::ring::WRITES_MAX;
use core::net::SocketAddr;
use ringlane_dataplane::ids::Lane;
use ringlane_dataplane::link::{Arrival, Carrier, Dialed, LinkCommand, LinkDown, LinkId, Links};
use ringlane_dataplane::replication::hello::{Hello, RdmaEnd, Refused, Transports};
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

impl RdmaLinks {
    // ---- dialing ----

    pub(super) fn dial(
        &mut self,
        link: LinkId,
        address: SocketAddr,
        mut hello: Box<Hello>,
        links: &mut Links,
    ) {
        let prefers_tcp = self.is_device_lost || self.dialed.is_tcp(&address, self.now);
        if prefers_tcp && hello.transports.has(Transports::TCP) {
            hello.transports = Transports::TCP;
            let dial = LinkCommand::Connect { link, address, hello };
            return links.pass(link, Carrier::Tcp, dial);
        }
        let mut peer = Peer::new(address, Phase::Resting);
        peer.link = Some(link);
        peer.own = Some(hello);
        peer.gives_up_at = Some(self.now + self.config.dial_timeout);
        peer.deadline = Some(self.next_try(address));
        let index = self.insert(peer);
        self.bind(link, index);
    }

    /// When this address may be dialed again; it counts as dialed then.
    fn next_try(&mut self, address: SocketAddr) -> Instant {
        let (now, backoff) = (self.now, self.config.backoff);
        self.tries.retain(|(_, at)| now < *at + backoff);
        let last = self.tries.iter_mut().find(|(known, _)| *known == address);
        match last {
            Some((_, at)) => {
                *at = now.max(*at + backoff);
                *at
            }
            None => {
                self.tries.push((address, now));
                now
            }
        }
    }

    fn connect(&mut self, index: usize) {
        self.counters.dials += 1;
        let deadline = self.now + self.config.connect_timeout;
        let Some(peer) = self.peer(index) else { return };
        let dialed = Greeting::dial(peer.address);
        match dialed.and_then(|greeting| self.watch_greeting(index, greeting, true)) {
            Ok(()) => {
                let Some(peer) = self.peer(index) else { return };
                peer.phase = Phase::Connecting;
                peer.deadline = Some(deadline);
            }
            Err(error) => self.try_again(index, LinkDown::Unreachable(errno(&error))),
        }
    }

    /// A try has failed for a reason that may pass.
    fn try_again(&mut self, index: usize, cause: LinkDown) {
        let now = self.now;
        let Some(peer) = self.peer(index) else { return };
        let address = peer.address;
        peer.greeting = None;
        peer.pair = None;
        match peer.gives_up_at {
            Some(at) if now < at => {
                peer.phase = Phase::Resting;
                let at = self.next_try(address);
                if let Some(peer) = self.peer(index) {
                    peer.deadline = Some(at);
                }
            }
            _ => self.end_opening(index, cause),
        }
    }

    /// The connection stands or failed.
    fn on_connected(&mut self, index: usize) {
        let outcome =
            self.peer(index).and_then(|peer| peer.greeting.as_ref()).map(Greeting::outcome);
        match outcome {
            Some(Ok(())) => match self.say_own(index) {
                Ok(()) => {}
                Err(LinkDown::Unreachable(error)) => {
                    self.try_again(index, LinkDown::Unreachable(error));
                }
                Err(cause) => self.end_opening(index, cause),
            },
            Some(Err(error)) => self.try_again(index, LinkDown::Unreachable(errno(&error))),
            None => {}
        }
    }

    /// The dialer's hello, with a queue pair made for it.
    fn say_own(&mut self, index: usize) -> Result<(), LinkDown> {
        let pair = self.pair_for(index)?;
        let Some(peer) = self.peers[index].as_mut() else { return Ok(()) };
        let (Some(own), Some(greeting)) = (&mut peer.own, &mut peer.greeting) else {
            return Ok(());
        };
        own.rdma = RdmaEnd::from(&pair.address());
        let said = greeting.say(own);
        said.map_err(|error| LinkDown::Unreachable(errno(&error)))?;
        let watched = self.watch.connected(greeting.as_fd(), index as u64);
        watched.map_err(|error| LinkDown::Error(errno(&error)))?;
        peer.pair = Some(Box::new(pair));
        peer.phase = Phase::Greeting;
        Ok(())
    }

    /// The answer to a dial: connect the queue pair and say so.
    fn on_answer(
        &mut self,
        index: usize,
        theirs: Hello,
        links: &mut Links,
    ) -> Result<(), LinkDown> {
        let (expected, settings) = (self.config.expected, self.config.settings.clone());
        let Some(peer) = self.peers[index].as_mut() else { return Ok(()) };
        let (Some(own), Some(mut pair)) = (&peer.own, peer.pair.take()) else { return Ok(()) };
        let lane = Lane { core: own.from_core, peer: own.to, peer_core: own.to_core };
        expected.check_answer(&theirs, own.transports, lane).map_err(LinkDown::Refused)?;
        if !theirs.transports.has(Transports::RDMA) {
            return self.leave_to_tcp(index, theirs, links);
        }
        let address = pair_address(&theirs.rdma)?;
        let connected = pair.connect(address, &settings);
        peer.lacks_pair = connected.is_err();
        connected.map_err(down_of)?;
        peer.end = Some(Box::new(endpoint(*pair, &theirs, self.config.message_bytes_max)));
        peer.theirs = Some(Box::new(theirs));
        let said = peer.greeting.as_mut().map_or(Ok(()), Greeting::say_ready);
        said.map_err(|error| LinkDown::Error(errno(&error)))?;
        self.up(index);
        Ok(())
    }

    /// The peer has chosen TCP: the connection is the link.
    fn leave_to_tcp(
        &mut self,
        index: usize,
        theirs: Hello,
        links: &mut Links,
    ) -> Result<(), LinkDown> {
        let Some(peer) = self.peer(index) else { return Ok(()) };
        let Some(greeting) = peer.greeting.take() else { return Ok(()) };
        self.watch.remove(greeting.as_fd());
        let socket = greeting.into_socket().map_err(|error| LinkDown::Error(errno(&error)))?;
        let Some(Peer { link: Some(link), address, own: Some(own), .. }) = self.remove(index)
        else {
            return Ok(());
        };
        if !links.is_heard(link) {
            self.ready.push_back(Ready::Down(link, LinkDown::Revoked));
            return Ok(());
        }
        let theirs = Box::new(theirs);
        let dialed = Dialed { link, socket, peer: address, own, theirs };
        links.pass(link, Carrier::Tcp, LinkCommand::GoOn(Box::new(dialed)));
        Ok(())
    }

    // ---- accepting ----

    fn take_in(&mut self, greeting: Greeting, address: SocketAddr) -> io::Result<usize> {
        let mut peer = Peer::new(address, Phase::Greeted);
        peer.deadline = Some(self.now + self.config.hello_timeout);
        let index = self.insert(peer);
        let watched = self.watch_greeting(index, greeting, false);
        if let Err(error) = watched {
            self.peers[index] = None;
            self.free.push(index);
            return Err(error);
        }
        Ok(index)
    }

    /// A connection that the driver of TCP accepted, on this core or another one, and whose hello was
    /// checked there. That driver gets it back if its node is reached over TCP for a while: its answer
    /// says TCP then.
    pub(super) fn adopt(&mut self, arrival: Arrival, links: &mut Links) {
        if self.prefers_tcp(&arrival.hello) {
            return links.adopt(Arrival { carrier: Carrier::Tcp, ..arrival });
        }
        let Arrival { socket, peer: address, hello, carrier: _ } = arrival;
        if hello.to_core != self.config.core {
            let refused = LinkDown::Refused(Refused::Core(hello.to_core));
            return self.turned_away(address, refused);
        }
        let taken = Greeting::adopted(socket).and_then(|greeting| self.take_in(greeting, address));
        match taken {
            Ok(index) => self.greeted(index, hello, links),
            Err(error) => self.turned_away(address, LinkDown::Error(errno(&error))),
        }
    }

    /// Whether a node that has called is to be answered over TCP, which both ends offer.
    fn prefers_tcp(&mut self, theirs: &Hello) -> bool {
        let offers = [self.config.transports, theirs.transports];
        offers.iter().all(|offer| offer.has(Transports::TCP))
            && (self.is_device_lost || self.accepted.is_tcp(&theirs.from, self.now))
    }

    fn greeted(&mut self, index: usize, theirs: Hello, links: &mut Links) {
        let Some(link) = links.open(Carrier::Rdma) else {
            return self.end_opening(index, LinkDown::Crowded);
        };
        self.bind(link, index);
        let Some(peer) = self.peer(index) else { return };
        peer.link = Some(link);
        peer.theirs = Some(Box::new(theirs));
        self.ready.push_back(Ready::Greeted(link));
    }

    /// The core's answer to a hello: a queue pair that is connected before the peer hears of it.
    pub(super) fn answer(&mut self, link: LinkId, own: Box<Hello>) {
        let Some(index) = self.index_of(link) else { return };
        if let Err(cause) = self.try_answer(index, own) {
            self.end_opening(index, cause);
        }
    }

    fn try_answer(&mut self, index: usize, mut own: Box<Hello>) -> Result<(), LinkDown> {
        if self.peer(index).is_none_or(|peer| peer.phase != Phase::Greeted) {
            return Ok(());
        }
        let mut pair = self.pair_for(index)?;
        let Some(peer) = self.peers[index].as_mut() else { return Ok(()) };
        let (Some(theirs), Some(greeting)) = (&peer.theirs, &mut peer.greeting) else {
            return Ok(());
        };
        own.transports = Transports::RDMA;
        own.rdma = RdmaEnd::from(&pair.address());
        let connected = pair.connect(pair_address(&theirs.rdma)?, &self.config.settings);
        peer.lacks_pair = connected.is_err();
        connected.map_err(down_of)?;
        peer.end = Some(Box::new(endpoint(pair, theirs, self.config.message_bytes_max)));
        greeting.say(&own).map_err(|error| LinkDown::Error(errno(&error)))?;
        peer.own = Some(own);
        peer.phase = Phase::Confirming;
        Ok(())
    }

    // ---- both ----

    /// A queue pair for a peer, of which it is remembered if there is none to be had.
    fn pair_for(&mut self, index: usize) -> Result<QueuePair, LinkDown> {
        let made = self.make_pair();
        if let Some(peer) = self.peer(index) {
            peer.lacks_pair = made.is_err();
        }
        made
    }

    fn make_pair(&self) -> Result<QueuePair, LinkDown> {
        let mut bytes = [0; 4];
        // Random, so that packets of an earlier link with the same numbers are strangers.
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| LinkDown::Error(error.raw_os_error()))?;
        let psn = u32::from_le_bytes(bytes);
        let settings = &self.config.settings;
        QueuePair::new(&self.device, Some(&self.channel), settings, psn).map_err(down_of)
    }

    fn watch_greeting(
        &mut self,
        index: usize,
        greeting: Greeting,
        connects: bool,
    ) -> io::Result<()> {
        self.watch.add(greeting.as_fd(), index as u64, connects)?;
        if let Some(peer) = self.peer(index) {
            peer.greeting = Some(greeting);
        }
        Ok(())
    }

    /// Something is to be read, or the connection stands.
    pub(super) fn look(&mut self, index: usize, links: &mut Links) {
        let Some(peer) = self.peer(index) else { return };
        match peer.phase {
            Phase::Connecting => self.on_connected(index),
            Phase::Greeting => {
                let heard = peer.greeting.as_mut().map_or(Ok(Heard::End), Greeting::hello);
                let done = match heard {
                    Ok(Heard::Partial) => Ok(()),
                    Ok(Heard::Whole(theirs)) => self.on_answer(index, theirs, links),
                    Ok(Heard::End) => Err(LinkDown::TurnedAway),
                    Err(cause) => Err(cause),
                };
                if let Err(cause) = done {
                    self.end_opening(index, cause);
                }
            }
            Phase::Confirming => {
                let heard = peer.greeting.as_mut().map_or(Ok(Heard::End), Greeting::ready);
                match heard {
                    Ok(Heard::Partial) => {}
                    Ok(Heard::Whole(())) => self.up(index),
                    Ok(Heard::End) => self.end_opening(index, LinkDown::Ended),
                    Err(cause) => self.end_opening(index, cause),
                }
            }
            Phase::Greeted | Phase::Up => {
                if peer.greeting.as_mut().is_none_or(Greeting::has_ended) {
                    peer.cause.get_or_insert(DownCause::PeerClosed);
                }
            }
            Phase::Resting => {}
        }
    }

    fn up(&mut self, index: usize) {
        let Some(peer) = self.peer(index) else { return };
        peer.phase = Phase::Up;
        peer.deadline = None;
        let link = peer.link;
        self.ready.extend(link.map(Ready::Up));
    }

    /// Looks at the time of all that are not up.
    pub(super) fn expire(&mut self) {
        for index in 0..self.peers.len() {
            let now = self.now;
            let Some(peer) = self.peer(index) else { continue };
            if peer.phase == Phase::Greeted && peer.cause.is_some() {
                self.end_opening(index, LinkDown::Ended);
                continue;
            }
            if peer.deadline.is_none_or(|deadline| now < deadline) {
                continue;
            }
            match peer.phase {
                Phase::Resting => self.connect(index),
                Phase::Connecting => self.try_again(index, LinkDown::Unreachable(libc::ETIMEDOUT)),
                _ => self.end_opening(index, LinkDown::Silent),
            }
        }
    }

    /// Ends what has not become a link.
    pub(super) fn end_opening(&mut self, index: usize, cause: LinkDown) {
        let Some(peer) = self.remove(index) else { return };
        match peer.link {
            Some(link) => self.ready.push_back(Ready::Down(link, cause)),
            None => self.turned_away(peer.address, cause),
        }
    }

    fn turned_away(&mut self, address: SocketAddr, cause: LinkDown) {
        self.counters.turned_away += 1;
        self.ready.push_back(Ready::TurnedAway(address, cause));
    }
}

fn endpoint(pair: QueuePair, theirs: &Hello, message_bytes_max: u32) -> LinkEnd {
    Endpoint::new(pair, theirs.rdma.ring_bytes as u32, WRITES_MAX, message_bytes_max)
}

/// What the core is told when the device refuses.
fn down_of(error: RdmaError) -> LinkDown {
    match error {
        RdmaError::Call { error, .. } => LinkDown::Error(errno(&error)),
        _ => LinkDown::Error(libc::ENODEV),
    }
}
