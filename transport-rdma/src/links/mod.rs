//! The links of one core over verbs: the link seam of the data plane ([`Links`]), carried out.
//!
//! A turn takes commands and messages (`carry_out`) and reports events (`deliver`). Sockets are looked
//! at no more than once a millisecond; completion queues every turn. A core that wants to sleep calls
//! [`RdmaLinks::prepare_sleep`] first and then waits, among others, for the descriptor of the driver.

mod config;
mod fallback;
mod greeting;
mod opening;
mod peer;
mod unregistered;
mod watch;

pub use config::RdmaLinkConfig;
pub use fallback::Fallen;

use crate::device::{Channel, Device};
use crate::endpoint::EndpointCounters;
use crate::error::{AsyncEvent, DownCause, Ends, RdmaError};
use crate::queue::COMPLETIONS_MAX;
use crate::received::Received;
use core::net::SocketAddr;
use core::time::Duration;
use fallback::Fallback;
use peer::{Peer, Phase, link_down};
use ringlane_dataplane::batch::Foreign;
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::link::{
    Carrier, LinkCommand, LinkCounters, LinkDown, LinkDriver, LinkEvent, LinkId, Links, Outbox,
};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;
use unregistered::Unregistered;
use watch::Watch;

const CHANNEL: u64 = u64::MAX;
const DEVICE: u64 = u64::MAX - 1;

/// Between two looks at sockets and the device while the core is awake.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Rounds of completions per link and turn, [`COMPLETIONS_MAX`] each.
const ROUNDS_MAX: usize = 4;
/// Bytes that an outbox keeps between turns.
const OUTBOX_BYTES_KEPT: usize = 64 * 1024;
/// Causes that are remembered for [`RdmaLinks::take_causes`]; older ones are forgotten.
const CAUSES_MAX: usize = 64;

/// What is to be reported.
#[derive(Debug)]
enum Ready {
    Greeted(LinkId),
    TurnedAway(SocketAddr, LinkDown),
    Up(LinkId),
    Room(LinkId),
    Down(LinkId, LinkDown),
}

/// The links of one core.
#[derive(Debug)]
pub struct RdmaLinks {
    config: RdmaLinkConfig,
    peers: Vec<Option<Box<Peer>>>,
    free: Vec<usize>,
    /// For each slot of the core's table of links, which peer has it.
    by_slot: Vec<Option<usize>>,
    ready: VecDeque<Ready>,
    tries: Vec<(SocketAddr, Instant)>,
    causes: VecDeque<(LinkId, DownCause)>,
    /// Of those that this node dials.
    dialed: Fallback<SocketAddr>,
    /// Of those that dial it.
    accepted: Fallback<NodeId>,
    unregistered: Unregistered,
    /// Peers that are reached over TCP from now on.
    fallen: VecDeque<Fallen>,
    counters: LinkCounters,
    /// Of links that have ended.
    past: EndpointCounters,
    commands: Vec<LinkCommand>,
    dirty: Vec<LinkId>,
    tokens: Vec<u64>,
    spare: Outbox,
    now: Instant,
    looked_at: Instant,
    /// The peer that is first in the next turn.
    first: usize,
    is_device_lost: bool,
    watch: Watch,
    channel: Channel,
    device: Device,
}

impl RdmaLinks {
    /// Links on `device`.
    ///
    /// # Errors
    ///
    /// Settings out of bounds, or the host has no descriptors left.
    pub fn new(device: Device, config: RdmaLinkConfig) -> Result<Self, RdmaError> {
        config.settings.check()?;
        let of = RdmaError::of;
        let channel = Channel::new(&device)?;
        let watch = Watch::new().map_err(of("epoll_create1"))?;
        watch.add(channel.as_fd(), CHANNEL, false).map_err(of("epoll_ctl"))?;
        watch.add(device.events_fd(), DEVICE, false).map_err(of("epoll_ctl"))?;
        let now = Instant::now();
        Ok(Self {
            config,
            peers: Vec::new(),
            free: Vec::new(),
            by_slot: Vec::new(),
            ready: VecDeque::new(),
            tries: Vec::new(),
            causes: VecDeque::new(),
            dialed: Fallback::new(),
            accepted: Fallback::new(),
            unregistered: Unregistered::default(),
            fallen: VecDeque::new(),
            counters: LinkCounters::default(),
            past: EndpointCounters::default(),
            commands: Vec::new(),
            dirty: Vec::new(),
            tokens: Vec::new(),
            spare: Outbox::default(),
            now,
            looked_at: now,
            first: 0,
            is_device_lost: false,
            watch,
            channel,
            device,
        })
    }

    /// What the endpoints of all links have counted, also of those that have ended.
    #[must_use]
    pub fn endpoint_counters(&self) -> EndpointCounters {
        let ends = self.peers.iter().flatten().filter_map(|peer| peer.end.as_ref());
        ends.fold(self.past, |sum, end| sum + end.counters())
    }

    /// Whether the device has failed: no link will come up on it until it is opened again.
    #[must_use]
    pub fn is_device_lost(&self) -> bool {
        self.is_device_lost
    }

    /// Whether there is something to say: causes, peers that have fallen back to TCP, a lost device.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.causes.is_empty()
            || !self.fallen.is_empty()
            || self.is_device_lost
            || self.unregistered.is_news()
    }

    /// Why batches are copied instead of sent from where they are; once, for the first link of which that is so.
    pub fn take_unregistered(&mut self) -> Option<RdmaError> {
        self.unregistered.take()
    }

    /// Why links ended, more closely than [`LinkEvent::Down`] says, oldest first.
    pub fn take_causes(&mut self) -> impl Iterator<Item = (LinkId, DownCause)> + '_ {
        self.causes.drain(..)
    }

    /// Peers that were not reached over verbs, several times in a row, oldest first. They are reached
    /// over TCP for a while now, unless the configuration demands verbs.
    pub fn take_fallen(&mut self) -> impl Iterator<Item = Fallen> + '_ {
        self.fallen.drain(..)
    }

    /// Arms what wakes a core: true if it may sleep until the descriptor of this value is readable,
    /// and no longer than `opening_due` says; false if there is something to do already.
    pub fn prepare_sleep(&mut self) -> bool {
        while self.channel.take_notice() {}
        let mut is_idle = self.ready.is_empty();
        for index in 0..self.peers.len() {
            let Some(end) = self.peer(index).and_then(|peer| peer.end.as_mut()) else { continue };
            // Completions from before the arming give no notice: look once more.
            match end.arm().and_then(|()| end.poll()) {
                Ok(0) => {}
                Ok(_) => is_idle = false,
                Err(cause) => {
                    self.fail(index, cause);
                    is_idle = false;
                }
            }
        }
        // What wakes the core up may be a socket's: look at them in the next turn. One that tells of
        // nothing but changes tells nothing of what is readable already.
        self.looked_at = self.now.checked_sub(LOOK_EVERY).unwrap_or(self.now);
        is_idle && !self.watch.is_ready()
    }

    /// When something that is not up runs out of time; a core sleeps no longer than that.
    #[must_use]
    pub fn opening_due(&self) -> Option<Instant> {
        self.peers.iter().flatten().filter_map(|peer| peer.deadline).min()
    }

    // ---- the table ----

    fn insert(&mut self, peer: Peer) -> usize {
        let peer = Some(Box::new(peer));
        match self.free.pop() {
            Some(index) => {
                self.peers[index] = peer;
                index
            }
            None => {
                self.peers.push(peer);
                self.peers.len() - 1
            }
        }
    }

    fn peer(&mut self, index: usize) -> Option<&mut Peer> {
        self.peers.get_mut(index)?.as_deref_mut()
    }

    fn bind(&mut self, link: LinkId, index: usize) {
        if self.by_slot.len() <= link.index() {
            self.by_slot.resize(link.index() + 1, None);
        }
        self.by_slot[link.index()] = Some(index);
    }

    fn index_of(&self, link: LinkId) -> Option<usize> {
        let index = (*self.by_slot.get(link.index())?)?;
        let peer = self.peers.get(index)?.as_ref()?;
        (peer.link == Some(link)).then_some(index)
    }

    /// Takes a peer out. Its queue pair is destroyed with it: no write of it lands any more.
    fn remove(&mut self, index: usize) -> Option<Peer> {
        let mut peer = self.peers.get_mut(index)?.take()?;
        self.free.push(index);
        if let Some(link) = peer.link {
            self.by_slot[link.index()] = None;
        }
        self.judge(&peer);
        if let Some(end) = peer.end.take() {
            self.past = self.past + end.counters();
            // Revoked, as a fence demands it; dropping it destroys what could not be revoked.
            let _is_revoked = end.revoke();
        }
        Some(*peer)
    }

    /// Counts a link that has ended, or never was one: whether there is a way over verbs.
    fn judge(&mut self, peer: &Peer) {
        let (verdict, now) = (peer.verdict(), self.now);
        let has_fallen = match (peer.gives_up_at, &peer.theirs) {
            (Some(_), _) => {
                let is_new = self.dialed.count(peer.address, verdict, now);
                is_new.then_some(Fallen::Dialed(peer.address))
            }
            (None, Some(theirs)) => {
                let is_new = self.accepted.count(theirs.from, verdict, now);
                is_new.then_some(Fallen::Accepted(theirs.from))
            }
            (None, None) => None,
        };
        if let Some(fallen) = has_fallen {
            if self.fallen.len() == CAUSES_MAX {
                self.fallen.pop_front();
            }
            self.fallen.push_back(fallen);
        }
    }

    /// Ends a link.
    fn end(&mut self, index: usize, cause: DownCause) {
        if let Some(peer) = self.peer(index) {
            peer.cause.get_or_insert_with(|| cause.clone());
        }
        let Some(peer) = self.remove(index) else { return };
        let Some(link) = peer.link else { return };
        self.ready.push_back(Ready::Down(link, link_down(&cause)));
        if self.causes.len() == CAUSES_MAX {
            self.causes.pop_front();
        }
        self.causes.push_back((link, cause));
    }

    /// A link has failed; what has come before is delivered first.
    fn fail(&mut self, index: usize, cause: DownCause) {
        if let Some(peer) = self.peer(index).filter(|peer| peer.end.is_some()) {
            peer.cause.get_or_insert(cause);
        }
    }

    // ---- the turn ----

    fn command(&mut self, command: LinkCommand, links: &mut Links) {
        match command {
            LinkCommand::Connect { link, address, hello } => self.dial(link, address, hello, links),
            LinkCommand::Answer { link, hello } => self.answer(link, hello),
            LinkCommand::Revoke(link) => {
                if let Some(index) = self.index_of(link) {
                    self.end(index, DownCause::Revoked);
                } else if links.carrier(link) == Some(Carrier::Tcp) {
                    // It was left to TCP in this turn.
                    links.pass(link, Carrier::Tcp, LinkCommand::Revoke(link));
                }
            }
            LinkCommand::Adopt(arrival) => self.adopt(*arrival, links),
            LinkCommand::GoOn(_) => unreachable!("what was dialed goes on over TCP alone"),
        }
    }

    /// Moves what the core wants sent to the endpoint of its link.
    fn take_messages(&mut self, link: LinkId, links: &mut Links) {
        let Some(index) = self.index_of(link) else { return };
        let spare = core::mem::take(&mut self.spare);
        let mut outbox = match links.begin_send(link, spare) {
            Ok(outbox) => outbox,
            Err(empty) => {
                self.spare = empty;
                return;
            }
        };
        if let Some(end) = self.peer(index).and_then(|peer| peer.end.as_mut()) {
            for (head, body) in outbox.messages() {
                end.push(head, body.cloned());
            }
        }
        outbox.clear(OUTBOX_BYTES_KEPT);
        self.spare = outbox;
    }

    /// Rings the bell of each link that has something to send or credit to return.
    fn flush(&mut self, links: &mut Links) {
        for index in 0..self.peers.len() {
            let Some(Peer { phase: Phase::Up, link: Some(link), end: Some(end), .. }) =
                self.peers[index].as_deref_mut()
            else {
                continue;
            };
            let (before, link) = (end.waiting_bytes(), *link);
            let flushed = end.flush();
            let posted = before - end.waiting_bytes();
            if let Some(refusal) = end.queue_mut().take_refusal() {
                self.unregistered.refused(refusal);
            }
            if links.sent(link, posted) {
                self.ready.push_back(Ready::Room(link));
            }
            if let Err(cause) = flushed {
                self.fail(index, cause);
            }
        }
    }

    /// Looks at sockets, time and the device, if it is time.
    fn look_around(&mut self, links: &mut Links) {
        self.now = Instant::now();
        if self.now.duration_since(self.looked_at) < LOOK_EVERY {
            return;
        }
        self.looked_at = self.now;
        let mut tokens = core::mem::take(&mut self.tokens);
        tokens.clear();
        self.watch.ready(&mut tokens);
        for token in &tokens {
            match *token {
                CHANNEL => while self.channel.take_notice() {},
                DEVICE => self.on_device(),
                index => self.look(index as usize, links),
            }
        }
        self.tokens = tokens;
        self.expire();
    }

    /// What the device reports: links that cannot go on end.
    fn on_device(&mut self) {
        while let Some(event) = self.device.next_event() {
            self.is_device_lost |= event.is_device_lost();
            for index in 0..self.peers.len() {
                let is_ended = match event.ends() {
                    Ends::Nobody => false,
                    Ends::All => true,
                    Ends::Subject => self.is_subject(index, &event),
                };
                if is_ended {
                    self.fail(index, DownCause::Device(event));
                }
            }
        }
    }

    fn is_subject(&mut self, index: usize, event: &AsyncEvent) -> bool {
        let end = self.peer(index).and_then(|peer| peer.end.as_mut());
        end.is_some_and(|end| end.queue_mut().is_subject(event))
    }

    /// Takes completions of a link and hands on its messages; how many.
    fn receive(
        &mut self,
        index: usize,
        events_max: usize,
        links: &mut Links,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        let Some(Peer { phase: Phase::Up, link: Some(link), end: Some(end), cause, .. }) =
            self.peers[index].as_deref_mut()
        else {
            return 0;
        };
        let (link, mut count) = (*link, 0);
        let mut result = Ok(0);
        for _ in 0..ROUNDS_MAX {
            result = end.poll();
            if !matches!(result, Ok(COMPLETIONS_MAX)) {
                break;
            }
        }
        let mut failure = cause.clone().or(result.err());
        while count < events_max && links.is_heard(link) {
            match end.next_message() {
                Ok(Some(Received::Whole(message))) => {
                    count += 1;
                    self.counters.received_messages += 1;
                    self.counters.received_bytes += message.len() as u64;
                    on_event(links, LinkEvent::Received { link, message });
                }
                Ok(Some(Received::Records(head, body))) => {
                    count += 1;
                    self.counters.received_messages += 1;
                    self.counters.received_bytes += (head.len() + body.len()) as u64;
                    on_event(links, LinkEvent::Records { link, head, body: &body });
                }
                Ok(None) => break,
                Err(cause) => {
                    failure.get_or_insert(cause);
                    break;
                }
            }
        }
        if let Some(failure) = failure
            && count < events_max
        {
            self.end(index, failure);
        }
        count
    }

    fn report(
        &mut self,
        ready: Ready,
        links: &mut Links,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) {
        match ready {
            Ready::TurnedAway(peer, cause) => {
                on_event(links, LinkEvent::TurnedAway { peer, cause });
            }
            Ready::Greeted(link) => {
                let Some(index) = self.index_of(link) else { return };
                let Some(Peer { address, theirs: Some(hello), .. }) = self.peer(index) else {
                    return;
                };
                if links.is_heard(link) {
                    on_event(links, LinkEvent::Greeted { link, hello, peer: *address });
                }
            }
            Ready::Up(link) => {
                let Some(index) = self.index_of(link) else { return };
                let Some(Peer { theirs: Some(hello), .. }) = self.peer(index) else { return };
                if links.set_up(link) {
                    on_event(links, LinkEvent::Up { link, hello });
                }
            }
            Ready::Room(link) => {
                if links.is_heard(link) {
                    on_event(links, LinkEvent::Room { link });
                }
            }
            Ready::Down(link, cause) => {
                on_event(links, LinkEvent::Down { link, cause });
                links.release(link);
            }
        }
    }
}

impl LinkDriver for RdmaLinks {
    fn carry_out(&mut self, links: &mut Links) {
        let mut commands = core::mem::take(&mut self.commands);
        links.take_commands_of(Carrier::Rdma, &mut commands);
        for command in commands.drain(..) {
            self.command(command, links);
        }
        self.commands = commands;
        let mut dirty = core::mem::take(&mut self.dirty);
        links.take_dirty_of(Carrier::Rdma, &mut dirty);
        for link in dirty.drain(..) {
            self.take_messages(link, links);
        }
        self.dirty = dirty;
        self.flush(links);
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        self.look_around(links);
        let mut count = 0;
        let peers = self.peers.len();
        self.first = if self.first + 1 < peers { self.first + 1 } else { 0 };
        for turn in 0..=peers {
            while count < events_max
                && let Some(ready) = self.ready.pop_front()
            {
                count += 1;
                self.report(ready, links, on_event);
            }
            if turn < peers {
                let index = (self.first + turn) % peers;
                count += self.receive(index, events_max - count, links, on_event);
            }
        }
        count
    }

    fn link_counters(&self) -> LinkCounters {
        let ends = self.endpoint_counters();
        LinkCounters {
            moved_bytes: ends.assembled_bytes,
            sent_bytes: ends.sent_bytes,
            sends: ends.doorbells,
            ..self.counters
        }
    }
}

impl AsFd for RdmaLinks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
