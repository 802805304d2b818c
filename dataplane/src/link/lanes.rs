//! One link per lane, kept up: who dials, when again, and which of two links counts.
//!
//! A core has a lane to each core of another node that owns a partition which it owns too
//! ([`Placement::owner`](crate::routing::Placement::owner) on both). Of two nodes the one with the lower number dials.
//! It knows how many cores the other one has from its hello: before that it tries the core with its own number,
//! which is right where both have equally many, and core 0, which every node has.
//!
//! A peer that dials a lane which is up has begun anew, and this node has not noticed the end of
//! the old link yet: the new one counts.
//!
//! Of a node whose directory was replaced the old one may still run somewhere. Once it is known which directory
//! counts for a number ([`Lanes::set_directory`]), another one gets no lane, and loses those it has.

use super::{LinkEvent, LinkId, Links};
use crate::ids::{CoreId, Lane, NodeId, PartitionId};
use crate::replication::hello::{DirectoryTag, Hello};
use crate::time::Nanos;
use core::net::SocketAddr;
use core::time::Duration;

/// What has become of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneEvent {
    /// It carries messages.
    Up(Lane),
    /// It does not any more; what was under way may be lost.
    Down(Lane),
}

/// A link of a lane, or on its way to be one.
#[derive(Clone, Copy, Debug)]
struct Place {
    peer_core: CoreId,
    link: LinkId,
    /// As the hello of the other end said, once it has come.
    directory: Option<DirectoryTag>,
    is_up: bool,
}

#[derive(Debug)]
struct Peer {
    node: NodeId,
    address: SocketAddr,
    /// The directory that counts for its number; none is any, zeros are none.
    directory: Option<DirectoryTag>,
    /// As its last hello said.
    cores: Option<u16>,
    /// While they are not known: try core 0 next instead of this core's number.
    tries_first_core: bool,
    /// At most one per core of the peer.
    places: Vec<Place>,
    dial_at: Nanos,
}

impl Peer {
    fn counts(&self, directory: DirectoryTag) -> bool {
        self.directory.is_none_or(|counts| counts == directory)
    }
}

/// The lanes of one core.
#[derive(Debug)]
pub struct Lanes {
    /// What this core says; the core of the peer is put in.
    hello: Hello,
    retry: Duration,
    peers: Vec<Peer>,
}

impl Lanes {
    /// The lanes of the core that `hello` is from to these nodes, none of which is up. A lane that is missing is
    /// dialed every `retry`.
    #[must_use]
    pub fn new(hello: Hello, peers: &[(NodeId, SocketAddr)], retry: Duration) -> Self {
        let peer = |&(node, address): &(NodeId, SocketAddr)| Peer {
            node,
            address,
            directory: None,
            cores: None,
            tries_first_core: false,
            places: Vec::new(),
            dial_at: Nanos(0),
        };
        Self { hello, retry, peers: peers.iter().map(peer).collect() }
    }

    /// Where a node is from now on; what is up stays.
    pub fn set_address(&mut self, node: NodeId, address: SocketAddr) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == node) {
            peer.address = address;
        }
    }

    /// Which data directory counts for a node from now on: links to another one end. `None`: it is
    /// not known, and any will do. A tag of zeros is that of none.
    pub fn set_directory(
        &mut self,
        node: NodeId,
        directory: Option<DirectoryTag>,
        links: &mut Links,
    ) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.node == node) else { return };
        peer.directory = directory;
        for place in &peer.places {
            if place.directory.is_some_and(|theirs| !peer.counts(theirs)) {
                links.revoke(place.link);
            }
        }
    }

    /// When [`Lanes::tick`] has something to dial.
    #[must_use]
    pub fn next_tick(&self) -> Nanos {
        let own = self.hello.from;
        let dialed = self.peers.iter().filter(|peer| own < peer.node);
        dialed.map(|peer| peer.dial_at).min().unwrap_or(Nanos::NEVER)
    }

    /// Dials the lanes that are missing and whose time has come.
    pub fn tick(&mut self, now: Nanos, links: &mut Links) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            if self.hello.from < peer.node && peer.dial_at <= now {
                self.dial(index, links);
                self.peers[index].dial_at = now + self.retry;
            }
        }
    }

    fn dial(&mut self, index: usize, links: &mut Links) {
        for core in self.wanted(index) {
            let peer = &mut self.peers[index];
            if peer.places.iter().any(|place| place.peer_core == core) {
                continue;
            }
            let hello = Hello { to: peer.node, to_core: core, ..self.hello };
            let Some(link) = links.connect(peer.address, hello) else { return };
            peer.places.push(Place { peer_core: core, link, directory: None, is_up: false });
        }
    }

    /// The cores of a peer to have a link with, as far as that is known.
    fn wanted(&self, index: usize) -> Vec<CoreId> {
        let peer = &self.peers[index];
        match peer.cores {
            Some(cores) => {
                (0..cores).map(CoreId).filter(|core| self.is_lane(*core, cores)).collect()
            }
            None if !peer.places.is_empty() => Vec::new(),
            None if peer.tries_first_core => vec![CoreId(0)],
            None => vec![self.hello.from_core],
        }
    }

    /// Whether this core and a core of a node with so many cores own a partition both.
    fn is_lane(&self, core: CoreId, cores: u16) -> bool {
        let own = u32::from(self.hello.from_core.0);
        let mut owned = (own..self.hello.partitions).step_by(usize::from(self.hello.cores));
        owned.any(|partition| partition % u32::from(cores) == u32::from(core.0))
    }

    /// Takes in what happened to a link. What has become of its lane, if that is something: also for
    /// events that this has no part in. A greeting is answered here.
    pub fn on_event(&mut self, links: &mut Links, event: &LinkEvent<'_>) -> Option<LaneEvent> {
        match event {
            LinkEvent::Greeted { link, hello, .. } => self.on_greeted(links, *link, hello),
            LinkEvent::Up { link, hello } => self.on_up(links, *link, hello),
            LinkEvent::Down { link, .. } => self.on_down(*link),
            LinkEvent::Received { .. }
            | LinkEvent::Records { .. }
            | LinkEvent::Room { .. }
            | LinkEvent::Elsewhere { .. }
            | LinkEvent::TurnedAway { .. } => None,
        }
    }

    fn on_greeted(&mut self, links: &mut Links, link: LinkId, hello: &Hello) -> Option<LaneEvent> {
        let own = self.hello;
        let peer = self.peers.iter_mut().find(|peer| peer.node == hello.from);
        // A node with a lower number alone has a reason to dial, if it is one of this cluster.
        let is_right = |peer: &&mut Peer| peer.node < own.from && peer.counts(hello.directory);
        let Some(peer) = peer.filter(is_right) else {
            links.revoke(link);
            return None;
        };
        let old = peer.places.iter().position(|place| place.peer_core == hello.from_core);
        let old = old.map(|at| peer.places.swap_remove(at));
        if let Some(old) = old {
            links.revoke(old.link);
        }
        let (peer_core, directory) = (hello.from_core, Some(hello.directory));
        peer.places.push(Place { peer_core, link, directory, is_up: false });
        links.answer(link, Hello { to: hello.from, to_core: hello.from_core, ..own });
        old.filter(|old| old.is_up).map(|_| LaneEvent::Down(hello.lane()))
    }

    fn on_up(&mut self, links: &mut Links, link: LinkId, hello: &Hello) -> Option<LaneEvent> {
        let (index, at) = self.find(link)?;
        if !self.peers[index].counts(hello.directory) {
            links.revoke(link);
            return None;
        }
        self.peers[index].places[at].directory = Some(hello.directory);
        self.peers[index].cores = Some(hello.cores);
        if self.hello.from < hello.from {
            // What its cores are may be news: the other lanes are dialed with the next tick.
            self.peers[index].dial_at = Nanos(0);
        }
        if self.is_lane(hello.from_core, hello.cores) {
            self.peers[index].places[at].is_up = true;
            return Some(LaneEvent::Up(hello.lane()));
        }
        if self.hello.from < hello.from {
            // It was dialed to learn that, and the other end has no use for it either.
            self.peers[index].places.swap_remove(at);
            links.revoke(link);
        }
        None
    }

    fn on_down(&mut self, link: LinkId) -> Option<LaneEvent> {
        let (index, at) = self.find(link)?;
        let core = self.hello.from_core;
        let peer = &mut self.peers[index];
        let place = peer.places.swap_remove(at);
        if !place.is_up && peer.places.iter().all(|place| !place.is_up) {
            // It may have another number of cores than it had.
            peer.cores = None;
            peer.tries_first_core = !peer.tries_first_core;
        }
        let lane = Lane { core, peer: peer.node, peer_core: place.peer_core };
        place.is_up.then_some(LaneEvent::Down(lane))
    }

    fn find(&self, link: LinkId) -> Option<(usize, usize)> {
        self.peers.iter().enumerate().find_map(|(index, peer)| {
            let at = peer.places.iter().position(|place| place.link == link)?;
            Some((index, at))
        })
    }

    /// The lane that a link carries.
    #[must_use]
    pub fn lane_of(&self, link: LinkId) -> Option<Lane> {
        let (index, at) = self.find(link)?;
        let peer = &self.peers[index];
        let place = peer.places[at];
        let lane = Lane { core: self.hello.from_core, peer: peer.node, peer_core: place.peer_core };
        place.is_up.then_some(lane)
    }

    /// The link that messages of a partition of this core to a node go over, if that is up.
    #[must_use]
    pub fn link_of(&self, node: NodeId, partition: PartitionId) -> Option<LinkId> {
        let peer = self.peers.iter().find(|peer| peer.node == node)?;
        let cores = u32::from(peer.cores?);
        let place = peer
            .places
            .iter()
            .find(|place| place.is_up && u32::from(place.peer_core.0) == partition.0 % cores)?;
        Some(place.link)
    }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
