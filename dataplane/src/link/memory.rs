//! Links in memory, on which nothing arrives before the test says so: for tests, and for simulation.
//!
//! A [`Network`] joins [`Links`] of any number of hosts, a host being a core of a node. What was
//! sent waits in the [`Way`] from its sender to its receiver, in order; [`Network::arrive`] delivers the next of
//! one way, and so the caller chooses all delays, and all orders between different ways. A way on
//! which nothing arrives is a cut in one direction. As with TCP, nothing is lost or repeated within
//! a link: a loss is its end ([`Network::end`]), which each side learns when the caller wants.

use super::{Carrier, LinkCommand, LinkDown, LinkEvent, LinkId, Links, Outbox};
use crate::ids::CoreId;
use crate::replication::hello::Hello;
use core::net::SocketAddr;
use std::collections::{BTreeMap, VecDeque};

/// A host in a [`Network`], by the order in which they were added.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostId(pub usize);

/// One direction of a link that something waits on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct WayId {
    wire: u64,
    /// 0 towards the host that dialed, 1 towards the one that was called.
    towards: usize,
}

impl WayId {
    /// The link, by the order in which they were dialed.
    #[must_use]
    pub fn wire(self) -> u64 {
        self.wire
    }

    /// Whose parcels arrive: 0 those of the host that was called, at the one that dialed; 1 the others.
    #[must_use]
    pub fn towards(self) -> usize {
        self.towards
    }
}

/// What there is to know of a direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Its name.
    pub id: WayId,
    /// Whose parcels they are.
    pub from: HostId,
    /// Where they arrive.
    pub to: HostId,
    /// How many wait: hellos, messages, and the end of the link, each of which arrives by itself.
    pub waiting: usize,
    /// How many have arrived before.
    pub arrived: u64,
}

#[derive(Debug)]
enum Parcel {
    Hello(Box<Hello>),
    Message(Vec<u8>),
    End(LinkDown),
}

#[derive(Debug)]
struct End {
    host: HostId,
    /// None before a hello has come, and after the end.
    link: Option<LinkId>,
    is_over: bool,
    /// The hello that has come and was not answered.
    greeting: Option<Box<Hello>>,
    /// What arrives here.
    parcels: VecDeque<Parcel>,
    /// Bytes of messages in `parcels`.
    bytes: usize,
    arrived: u64,
}

impl End {
    fn new(host: HostId, link: Option<LinkId>) -> Self {
        let parcels = VecDeque::new();
        Self { host, link, is_over: false, greeting: None, parcels, bytes: 0, arrived: 0 }
    }

    fn close(&mut self) {
        self.is_over = true;
        self.link = None;
        self.greeting = None;
        self.parcels.clear();
        self.bytes = 0;
    }
}

#[derive(Debug)]
struct Host {
    address: SocketAddr,
    core: CoreId,
    is_alive: bool,
    /// What happens here without anything that arrives.
    own: VecDeque<Own>,
}

#[derive(Debug)]
enum Own {
    Room(LinkId),
    Up(LinkId, Box<Hello>),
    Down(LinkId, LinkDown),
}

/// `ECONNREFUSED` and `ECONNRESET` (errno(3)).
const ECONNREFUSED: i32 = 111;
const ECONNRESET: i32 = 104;

/// Hosts, and what is on its way between them.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
    /// By the order in which they were dialed; gone when both ends know that it is over.
    wires: BTreeMap<u64, [End; 2]>,
    dialed: u64,
    window_bytes: usize,
}

impl Network {
    /// No host yet. A way takes messages while fewer than `window_bytes` bytes wait on it, as a
    /// socket's buffers do; what is beyond them stays in the sender's [`Links`].
    #[must_use]
    pub fn new(window_bytes: usize) -> Self {
        Self { hosts: Vec::new(), wires: BTreeMap::new(), dialed: 0, window_bytes }
    }

    /// A core of a node: dialing `address` with a hello for `core` reaches it.
    pub fn add(&mut self, address: SocketAddr, core: CoreId) -> HostId {
        self.hosts.push(Host { address, core, is_alive: true, own: VecDeque::new() });
        HostId(self.hosts.len() - 1)
    }

    /// Takes the messages and commands of this turn of `host`.
    pub fn carry_out(&mut self, host: HostId, links: &mut Links) {
        self.carry_out_commands(host, links);
        let mut dirty = Vec::new();
        links.take_dirty(&mut dirty);
        for link in dirty {
            self.take(host, link, links);
        }
    }

    /// The commands alone: what is sent stays in `links`, for a caller that cuts messages into parcels
    /// of its own ([`Network::put`]).
    pub fn carry_out_commands(&mut self, host: HostId, links: &mut Links) {
        let mut commands = Vec::new();
        links.take_commands(&mut commands);
        for command in commands {
            match command {
                LinkCommand::Connect { link, address, hello } => {
                    self.connect(host, link, address, hello);
                }
                LinkCommand::Answer { link, hello } => self.answer(host, link, hello),
                LinkCommand::Revoke(link) => self.revoke(host, link),
                LinkCommand::Adopt(_) => unreachable!("a dial reaches the core that it is for"),
                LinkCommand::GoOn(_) => unreachable!("there is one driver"),
            }
        }
    }

    /// The direction from `host` of a link of its, while that is not over for it.
    #[must_use]
    pub fn way_from(&self, host: HostId, link: LinkId) -> Option<WayId> {
        let (wire, side) = self.find(host, link)?;
        Some(WayId { wire, towards: 1 - side })
    }

    /// Whether a link is not over for both of its ends.
    #[must_use]
    pub fn has_wire(&self, wire: u64) -> bool {
        self.wires.contains_key(&wire)
    }

    /// Puts something onto a way that arrives as a message does.
    pub fn put(&mut self, id: WayId, message: Vec<u8>) {
        if let Some(end) = self.end_mut(id).filter(|end| !end.is_over) {
            end.bytes += message.len();
            end.parcels.push_back(Parcel::Message(message));
        }
    }

    /// Reports room on a link to its host.
    pub fn note_room(&mut self, host: HostId, link: LinkId) {
        self.hosts[host.0].own.push_back(Own::Room(link));
    }

    /// Whether [`Network::deliver`] has something for this host.
    #[must_use]
    pub fn has_own_events(&self, host: HostId) -> bool {
        !self.hosts[host.0].own.is_empty()
    }

    /// Reports what happens at `host` by itself: `Room`, `Down` after a revocation or a dial in
    /// vain, `Up` after an answer.
    pub fn deliver(
        &mut self,
        host: HostId,
        links: &mut Links,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        let mut count = 0;
        while let Some(own) = self.hosts[host.0].own.pop_front() {
            match own {
                Own::Room(link) if !links.is_heard(link) => continue,
                Own::Room(link) => on_event(links, LinkEvent::Room { link }),
                Own::Up(link, hello) if links.set_up(link) => {
                    on_event(links, LinkEvent::Up { link, hello: &hello });
                }
                Own::Up(..) => continue,
                Own::Down(link, cause) => {
                    on_event(links, LinkEvent::Down { link, cause });
                    links.release(link);
                }
            }
            count += 1;
        }
        count
    }

    /// The directions that something waits on, oldest link first.
    pub fn ways(&self) -> impl Iterator<Item = Way> + '_ {
        self.wires.iter().flat_map(|(&wire, ends)| {
            [0, 1].into_iter().filter_map(move |towards| way_of(WayId { wire, towards }, ends))
        })
    }

    /// What waits in a direction; `None` if nothing does.
    #[must_use]
    pub fn way(&self, id: WayId) -> Option<Way> {
        let ends = self.wires.get(&id.wire)?;
        way_of(id, ends)
    }

    /// The next parcel of a direction arrives: at most one event at the receiver, whose links these
    /// are. The sender may have an event of its own then (room).
    pub fn arrive(
        &mut self,
        id: WayId,
        links: &mut Links,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) {
        let Some(end) = self.end_mut(id) else { return };
        let Some(parcel) = end.parcels.pop_front() else { return };
        end.arrived += 1;
        match parcel {
            Parcel::Hello(hello) => self.hello_arrives(id, &hello, links, on_event),
            Parcel::Message(message) => {
                end.bytes -= message.len();
                if let Some(link) = end.link
                    && links.is_heard(link)
                {
                    on_event(links, LinkEvent::Received { link, message: &message });
                }
            }
            Parcel::End(cause) => self.end_arrives(id, cause, links, on_event),
        }
    }

    /// Lets the sender of a direction hand on what it kept back while the window was full. To be
    /// called after [`Network::arrive`], with the links of [`Way::from`].
    pub fn refill(&mut self, id: WayId, links: &mut Links) {
        let Some(ends) = self.wires.get(&id.wire) else { return };
        let End { host, link, .. } = ends[1 - id.towards];
        if let Some(link) = link {
            self.take(host, link, links);
        }
    }

    /// The link is over for the receiver of a direction: what waits on it is lost, and the receiver
    /// learns the cause with the next [`Network::arrive`]. The other end learns nothing of it but by
    /// what is done here for it.
    pub fn end(&mut self, id: WayId, cause: LinkDown) {
        if let Some(end) = self.end_mut(id)
            && !end.is_over
        {
            end.parcels.clear();
            end.bytes = 0;
            end.parcels.push_back(Parcel::End(cause));
        }
    }

    /// Both directions of every link between two hosts that is not over, for [`Network::end`].
    pub fn between(&self, one: HostId, other: HostId) -> impl Iterator<Item = WayId> + '_ {
        let joins = move |ends: &[End; 2]| {
            let hosts = [ends[0].host, ends[1].host];
            hosts == [one, other] || hosts == [other, one]
        };
        let wires = self.wires.iter().filter(move |(_, ends)| joins(ends));
        wires.flat_map(|(&wire, ends)| {
            let live = [0, 1].into_iter().filter(|towards| !ends[*towards].is_over);
            live.map(move |towards| WayId { wire, towards })
        })
    }

    /// The process of a host ends: its links are gone without an event, and it needs a new [`Links`].
    /// What it had handed on still arrives, and behind that a reset. [`Network::restart`] makes it
    /// reachable again.
    pub fn crash(&mut self, host: HostId) {
        self.hosts[host.0].is_alive = false;
        self.hosts[host.0].own.clear();
        for ends in self.wires.values_mut() {
            for side in 0..2 {
                if ends[side].host == host && !ends[side].is_over {
                    ends[side].close();
                    push_end(&mut ends[1 - side], LinkDown::Error(ECONNRESET));
                }
            }
        }
        self.forget();
    }

    /// A host that crashed can be dialed again.
    pub fn restart(&mut self, host: HostId) {
        self.hosts[host.0].is_alive = true;
    }

    // ---- what hosts ask for ----

    fn connect(&mut self, host: HostId, link: LinkId, address: SocketAddr, hello: Box<Hello>) {
        let called = self.hosts.iter().position(|other| {
            other.is_alive && other.address == address && other.core == hello.to_core
        });
        let Some(called) = called else {
            let down = Own::Down(link, LinkDown::Unreachable(ECONNREFUSED));
            self.hosts[host.0].own.push_back(down);
            return;
        };
        let mut ends = [End::new(host, Some(link)), End::new(HostId(called), None)];
        ends[1].parcels.push_back(Parcel::Hello(hello));
        self.wires.insert(self.dialed, ends);
        self.dialed += 1;
    }

    fn answer(&mut self, host: HostId, link: LinkId, hello: Box<Hello>) {
        let Some((wire, side)) = self.find(host, link) else { return };
        let Some(ends) = self.wires.get_mut(&wire) else { return };
        let Some(theirs) = ends[side].greeting.take() else { return };
        if !ends[1 - side].is_over {
            ends[1 - side].parcels.push_back(Parcel::Hello(hello));
        }
        self.hosts[host.0].own.push_back(Own::Up(link, theirs));
    }

    fn revoke(&mut self, host: HostId, link: LinkId) {
        let Some((wire, side)) = self.find(host, link) else { return };
        let Some(ends) = self.wires.get_mut(&wire) else { return };
        ends[side].close();
        push_end(&mut ends[1 - side], LinkDown::Ended);
        self.hosts[host.0].own.push_back(Own::Down(link, LinkDown::Revoked));
        self.forget();
    }

    /// Moves messages onto the way, as long as there is room on it.
    fn take(&mut self, host: HostId, link: LinkId, links: &mut Links) {
        let Some((wire, side)) = self.find(host, link) else { return };
        let Some(ends) = self.wires.get_mut(&wire) else { return };
        let target = &mut ends[1 - side];
        if target.bytes >= self.window_bytes && !target.is_over {
            return;
        }
        let Ok(outbox) = links.begin_send(link, Outbox::default()) else { return };
        for (head, body) in outbox.messages() {
            let mut message = head.to_vec();
            message.extend_from_slice(body.map_or(&[], |body| body.bytes()));
            if !target.is_over {
                target.bytes += message.len();
                target.parcels.push_back(Parcel::Message(message));
            }
        }
        if links.sent(link, outbox.len()) {
            self.hosts[host.0].own.push_back(Own::Room(link));
        }
    }

    // ---- what arrives ----

    fn hello_arrives(
        &mut self,
        id: WayId,
        hello: &Hello,
        links: &mut Links,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) {
        let Some(ends) = self.wires.get_mut(&id.wire) else { return };
        let peer = self.hosts[ends[1 - id.towards].host.0].address;
        let end = &mut ends[id.towards];
        if let Some(link) = end.link {
            if links.set_up(link) {
                on_event(links, LinkEvent::Up { link, hello });
            }
            return;
        }
        match links.open(Carrier::of(hello.transports)) {
            Some(link) => {
                end.link = Some(link);
                end.greeting = Some(Box::new(*hello));
                on_event(links, LinkEvent::Greeted { link, hello, peer });
            }
            None => {
                end.close();
                push_end(&mut ends[1 - id.towards], LinkDown::TurnedAway);
                on_event(links, LinkEvent::TurnedAway { peer, cause: LinkDown::Crowded });
            }
        }
    }

    fn end_arrives(
        &mut self,
        id: WayId,
        cause: LinkDown,
        links: &mut Links,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) {
        let Some(end) = self.end_mut(id) else { return };
        let link = end.link;
        end.close();
        self.forget();
        if let Some(link) = link {
            on_event(links, LinkEvent::Down { link, cause });
            links.release(link);
        }
    }

    /// The end of a link that is at `host`.
    fn find(&self, host: HostId, link: LinkId) -> Option<(u64, usize)> {
        let is_it = |end: &End| end.host == host && end.link == Some(link);
        self.wires
            .iter()
            .find_map(|(wire, ends)| ends.iter().position(is_it).map(|side| (*wire, side)))
    }

    fn end_mut(&mut self, id: WayId) -> Option<&mut End> {
        self.wires.get_mut(&id.wire).map(|ends| &mut ends[id.towards])
    }

    /// Forgets the links that are over for both ends.
    fn forget(&mut self) {
        self.wires.retain(|_, ends| !ends.iter().all(|end| end.is_over));
    }
}

fn way_of(id: WayId, ends: &[End; 2]) -> Option<Way> {
    let (to, from) = (&ends[id.towards], &ends[1 - id.towards]);
    let waiting = to.parcels.len();
    let way = Way { id, from: from.host, to: to.host, waiting, arrived: to.arrived };
    (waiting > 0).then_some(way)
}

fn push_end(end: &mut End, cause: LinkDown) {
    if !end.is_over {
        end.parcels.push_back(Parcel::End(cause));
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
