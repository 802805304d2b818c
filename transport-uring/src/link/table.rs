//! The links of one core: their table, what the core asks for, and what it is told.

use super::backoff::Backoffs;
use super::config::LinkConfig;
use super::peer::{Peer, Phase};
use super::{FIRST_SLOT, position};
use crate::engine::Engine;
use core::net::SocketAddr;
use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use ringlane_dataplane::link::{
    Arrival, Carrier, LINKS_MAX, LinkCommand, LinkCounters, LinkDown, LinkEvent, LinkId, Links,
};
use ringlane_dataplane::replication::hello::{Hello, Transports};
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::os::fd::AsFd;

/// The core's side of an event.
pub(super) type OnEvent<'a> = dyn FnMut(&mut Links, LinkEvent<'_>) + 'a;

/// An event that waits for the core to ask. At most one of each kind per link, and those of peers
/// that were turned away, which [`TURNED_AWAY_MAX`] bounds.
#[derive(Debug)]
pub(super) enum Ready {
    Greeted(ConnectionId),
    Elsewhere(ConnectionId),
    Up(ConnectionId),
    Sent(ConnectionId),
    TurnedAway(SocketAddr, LinkDown),
    Down(LinkId, LinkDown),
}

/// Peers turned away that the core is told of, at most, until it asks again; the counter has all.
const TURNED_AWAY_MAX: usize = 64;

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    peer: Option<Box<Peer>>,
}

/// The links of one core.
#[derive(Debug)]
pub(crate) struct TcpLinks {
    /// `None` for a core that has none: whatever it asks for ends at once.
    pub(super) config: Option<LinkConfig>,
    pub(super) core: CoreId,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The peers of links, by the slot of those.
    of_link: Vec<Option<ConnectionId>>,
    pub(super) ready: VecDeque<Ready>,
    /// Peers that have bytes to deliver, or an end to tell of.
    pub(super) readable: VecDeque<ConnectionId>,
    /// Links whose last send has ended, and from `take_dirty`.
    to_send: Vec<LinkId>,
    commands: Vec<LinkCommand>,
    pub(super) backoffs: Backoffs,
    pub(super) counters: LinkCounters,
    /// Before this none is due.
    next_deadline: Nanos,
    /// As of the last turn.
    pub(super) now: Nanos,
}

impl TcpLinks {
    /// No link yet.
    pub(crate) fn new(core: CoreId, config: Option<LinkConfig>) -> Self {
        Self {
            config,
            core,
            slots: Vec::new(),
            free: Vec::new(),
            of_link: Vec::new(),
            ready: VecDeque::new(),
            readable: VecDeque::new(),
            to_send: Vec::new(),
            commands: Vec::new(),
            backoffs: Backoffs::default(),
            counters: LinkCounters::default(),
            next_deadline: Nanos::NEVER,
            now: Nanos(0),
        }
    }

    /// Whether what this listener accepts is a link.
    pub(crate) fn is_listener(&self, listener: ListenerId) -> bool {
        self.config.as_ref().is_some_and(|config| config.listener == listener)
    }

    pub(crate) fn counters(&self) -> LinkCounters {
        self.counters
    }

    // ---- the table ----

    pub(super) fn peer(&mut self, id: ConnectionId) -> Option<&mut Peer> {
        self.slots.get_mut(position(id))?.peer.as_deref_mut().filter(|peer| peer.id == id)
    }

    pub(super) fn insert(&mut self, address: SocketAddr, phase: Phase) -> ConnectionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        let id = ConnectionId { slot: FIRST_SLOT + index, generation: slot.generation };
        slot.peer = Some(Box::new(Peer::new(id, address, phase)));
        id
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Box<Peer>> {
        let slot = self.slots.get_mut(position(id))?;
        let peer = slot.peer.take_if(|peer| peer.id == id)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot - FIRST_SLOT);
        if let Some(link) = peer.link {
            self.of_link[link.index()] = None;
        }
        Some(peer)
    }

    /// Ties a peer to its link.
    pub(super) fn bind(&mut self, id: ConnectionId, link: LinkId) {
        if self.of_link.len() <= link.index() {
            self.of_link.resize(link.index() + 1, None);
        }
        self.of_link[link.index()] = Some(id);
        if let Some(peer) = self.peer(id) {
            peer.link = Some(link);
        }
    }

    pub(super) fn of_link(&mut self, link: LinkId) -> Option<&mut Peer> {
        let id = self.of_link.get(link.index()).copied().flatten()?;
        self.peer(id).filter(|peer| peer.link == Some(link))
    }

    /// Those that were accepted and have not said who they are.
    fn greeting(&self) -> impl Iterator<Item = &Peer> {
        let peers = self.slots.iter().filter_map(|slot| slot.peer.as_deref());
        let is_greeting = |peer: &&Peer| peer.phase == Phase::Greeting && peer.dial.is_none();
        peers.filter(is_greeting).filter(|peer| peer.closing.is_none())
    }

    /// How many they are.
    pub(super) fn greeting_count(&self) -> usize {
        self.greeting().count()
    }

    /// Who of them has been silent for longest.
    pub(super) fn longest_greeting(&self) -> Option<ConnectionId> {
        self.greeting().min_by_key(|peer| peer.deadline).map(|peer| peer.id)
    }

    pub(super) fn has_room(&self) -> bool {
        self.slots.len() - self.free.len() < 2 * LINKS_MAX
    }

    pub(super) fn set_deadline(&mut self, id: ConnectionId, at: Nanos) {
        self.next_deadline = self.next_deadline.min(at);
        if let Some(peer) = self.peer(id) {
            peer.deadline = at;
        }
    }

    // ---- the turn ----

    /// Whether the core has something to ask for without a wait.
    pub(crate) fn have_events(&self) -> bool {
        !self.ready.is_empty() || !self.readable.is_empty()
    }

    /// When the phase of some link is over.
    pub(crate) fn next_deadline(&self) -> Nanos {
        self.next_deadline
    }

    /// Ends the phases that have lasted as long as they may.
    pub(crate) fn expire<E: Engine>(&mut self, engine: &mut E, now: Nanos) {
        self.now = now;
        if now < self.next_deadline {
            return;
        }
        self.next_deadline = Nanos::NEVER;
        for index in 0..self.slots.len() {
            let Some(peer) = self.slots[index].peer.as_ref() else { continue };
            let (id, deadline) = (peer.id, peer.deadline);
            if deadline <= now {
                self.on_deadline(engine, id);
            } else {
                self.next_deadline = self.next_deadline.min(deadline);
            }
        }
    }

    /// Begins with what the core asks for.
    pub(crate) fn carry_out<E: Engine>(&mut self, engine: &mut E, links: &mut Links) {
        if links.has_work() {
            let mut commands = core::mem::take(&mut self.commands);
            links.take_commands_of(Carrier::Tcp, &mut commands);
            for command in commands.drain(..) {
                self.command(engine, command);
            }
            self.commands = commands;
        }
        let mut to_send = core::mem::take(&mut self.to_send);
        links.take_dirty_of(Carrier::Tcp, &mut to_send);
        for link in to_send.drain(..) {
            self.send_queued(engine, links, link);
        }
        self.to_send = to_send;
    }

    fn command<E: Engine>(&mut self, engine: &mut E, command: LinkCommand) {
        match command {
            LinkCommand::Connect { link, address, hello } => self.dial(link, address, hello),
            LinkCommand::Answer { link, hello } => self.answer(engine, link, hello),
            LinkCommand::Revoke(link) => self.revoke(engine, link),
            LinkCommand::Adopt(arrival) => self.adopt(engine, *arrival),
            LinkCommand::GoOn(dialed) => self.go_on(engine, *dialed),
        }
    }

    /// Reports at most `events_max` events.
    pub(crate) fn deliver<E: Engine>(
        &mut self,
        engine: &mut E,
        links: &mut Links,
        events_max: usize,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let mut count = 0;
        while count < events_max
            && let Some(ready) = self.ready.pop_front()
        {
            count += self.deliver_ready(engine, links, ready, on_event);
        }
        for _ in 0..self.readable.len() {
            if count >= events_max {
                break;
            }
            let Some(id) = self.readable.pop_front() else { break };
            count += self.deliver_messages(engine, links, id, events_max - count, on_event);
        }
        count
    }

    fn deliver_ready<E: Engine>(
        &mut self,
        engine: &mut E,
        links: &mut Links,
        ready: Ready,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        match ready {
            Ready::Greeted(id) => self.deliver_greeted(engine, links, id, on_event),
            Ready::Elsewhere(id) => self.deliver_elsewhere(engine, links, id, on_event),
            Ready::Up(id) => self.deliver_up(links, id, on_event),
            Ready::Sent(id) => self.deliver_sent(links, id, on_event),
            Ready::TurnedAway(peer, cause) => {
                on_event(links, LinkEvent::TurnedAway { peer, cause });
                1
            }
            Ready::Down(link, cause) => {
                on_event(links, LinkEvent::Down { link, cause });
                links.release(link);
                1
            }
        }
    }

    fn deliver_greeted<E: Engine>(
        &mut self,
        engine: &mut E,
        links: &mut Links,
        id: ConnectionId,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        if self.peer(id).is_none_or(|peer| peer.closing.is_some()) {
            return 0;
        }
        let Some(link) = links.open(Carrier::Tcp) else {
            self.finish(engine, id, LinkDown::Crowded);
            return 0;
        };
        self.bind(id, link);
        let Some(Peer { theirs: Some(hello), address, .. }) = self.peer(id) else { return 0 };
        on_event(links, LinkEvent::Greeted { link, hello, peer: *address });
        1
    }

    fn deliver_elsewhere<E: Engine>(
        &mut self,
        engine: &mut E,
        links: &mut Links,
        id: ConnectionId,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let Some(peer) = self.remove(id) else { return 0 };
        let (Some(socket), Some(hello)) = (peer.socket, peer.theirs) else { return 0 };
        engine.remove(id, socket.as_fd());
        let carrier = self.carrier_of(&hello);
        let arrival = Arrival { socket, peer: peer.address, hello: *hello, carrier };
        if hello.to_core == self.core {
            links.adopt(arrival);
            return 0;
        }
        on_event(links, LinkEvent::Elsewhere { core: hello.to_core, arrival });
        1
    }

    fn deliver_up(
        &mut self,
        links: &mut Links,
        id: ConnectionId,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let Some(Peer { link: Some(link), theirs: Some(hello), .. }) = self.peer(id) else {
            return 0;
        };
        let is_up = links.set_up(*link);
        if is_up {
            on_event(links, LinkEvent::Up { link: *link, hello });
        }
        usize::from(is_up)
    }

    fn deliver_sent(
        &mut self,
        links: &mut Links,
        id: ConnectionId,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let Some(peer) = self.peer(id) else { return 0 };
        peer.sent_is_queued = false;
        let bytes = core::mem::take(&mut peer.sent_bytes);
        let Some(link) = peer.link else { return 0 };
        self.to_send.push(link);
        let has_room = links.sent(link, bytes) && links.is_heard(link);
        if has_room {
            on_event(links, LinkEvent::Room { link });
        }
        usize::from(has_room)
    }

    /// What carries a link with who says this, and fits.
    pub(super) fn carrier_of(&self, theirs: &Hello) -> Carrier {
        let own = self.config.as_ref().map_or(Transports::TCP, |config| config.transports);
        own.choose(theirs.transports).map_or(Carrier::Tcp, Carrier::of)
    }

    /// A peer that never became a link, for the log.
    pub(super) fn turned_away(&mut self, address: SocketAddr, cause: LinkDown) {
        self.counters.turned_away += 1;
        if self.ready.len() < TURNED_AWAY_MAX {
            self.ready.push_back(Ready::TurnedAway(address, cause));
        }
    }

    /// Frees nothing of what the kernel may still use.
    pub(crate) fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.slots));
    }
}
