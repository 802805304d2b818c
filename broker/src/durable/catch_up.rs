//! Sessions that read what they are owed from the log: those that come back, and those whose client
//! is slower than its messages.
//!
//! What a persistent session is owed lies in the postings of its filters. A session in step has all of
//! it in memory. One that is away, or behind, has a *frontier*: live messages posted at or above it
//! are not queued, because they are in the log; and the postings from there on are read in
//! windows, which move the frontier. Posting numbers order both, and a posting is made and delivered
//! in one piece: as soon as nothing is posted for the session at or above the frontier, it is in step
//! again, and no message was missed, doubled or overtaken.
//!
//! A window is asked of the owners of the partitions it lies in (`service::fetch`), and delivered in
//! the order of its postings.

use super::expiring::Fronts;
use super::pending::OwedPosting;
use super::postings::Place;
use super::records::SubscriptionOptions;
use crate::mail::{Fetch, FetchBy, Fetched, Found, Mail, Unfetch};
use crate::service::{Broker, Turn};
use crate::session::{IN_STEP, NOT_POSTED, Pending, SessionId, SubscriptionIds};
use hashbrown::{HashMap, HashSet};
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::message::{Message, MessageHead};
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::{QoS, ReasonCode, encode};
use std::collections::VecDeque;

/// Messages of one window, and about what they may take in memory.
const WINDOW_MESSAGES: usize = 256;
const WINDOW_BYTES: usize = 256 * 1024;
/// With no more than this in its queue a session asks for the next window.
const REFILL: usize = 64;
/// Windows that the sessions of a core have open at a time; others wait for their turn.
const WINDOWS_MAX: usize = 128;

/// What a connected session keeps in memory behind its in-flight window: beyond that it is behind.
pub(crate) const QUEUE_MESSAGES_MAX: usize = 1024;
/// In bytes.
pub(crate) const QUEUE_BYTES_MAX: usize = 256 * 1024;

/// The windows of a core.
#[derive(Debug)]
pub(crate) struct CatchUps {
    pub(super) open: HashMap<SessionId, Window>,
    /// Sessions that wait for a window, each once.
    waiting: VecDeque<SessionId>,
    is_waiting: HashSet<SessionId>,
    /// The number of the next request.
    next: u64,
    /// Requests whose answers nobody waits for any more: their owners are told at the end of the turn.
    pub(super) unwanted: Vec<Unfetch>,
    pub(super) fronts: Fronts,
    /// Takes the place of messages that were left to the log.
    nothing: Message,
}

/// Messages on their way to one session.
#[derive(Debug)]
pub(crate) struct Window {
    request: u64,
    entries: VecDeque<Entry>,
    /// Of which partitions answers have not come.
    missing: Vec<PartitionId>,
    /// Whether only expired messages are looked for: the session is away.
    is_sweep: bool,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    what: What,
    found: Option<Found>,
}

/// What a message is for.
#[derive(Debug)]
pub(crate) enum What {
    /// To be sent again, under this packet identifier.
    Again(u16),
    Owed(OwedPosting),
}

impl CatchUps {
    /// Whether nobody waits for a window.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.open.len() < WINDOWS_MAX
    }

    pub(super) fn new() -> Self {
        let head = MessageHead {
            publisher: 0,
            accepted_at: Nanos(0),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 2,
            retain: false,
        };
        Self {
            open: HashMap::new(),
            waiting: VecDeque::new(),
            is_waiting: HashSet::new(),
            next: 0,
            unwanted: Vec::new(),
            fronts: Fronts::default(),
            nothing: Message::new(head, "", &[], &[], &mut Vec::new()),
        }
    }

    pub(super) fn fresh_request(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Stands for a message that is in the log.
    pub(super) fn nothing(&self) -> Message {
        self.nothing.clone()
    }
}

impl Window {
    pub(crate) fn new(entries: impl Iterator<Item = (Place, What)>, is_sweep: bool) -> Self {
        let entries = entries.map(|(place, what)| Entry { place, what, found: None });
        Self { request: 0, entries: entries.collect(), missing: Vec::new(), is_sweep }
    }

    /// Puts an answer to the entries that it is for.
    pub(crate) fn take_in(&mut self, partition: PartitionId, found: Vec<Found>) {
        let same =
            |entry: &&mut Entry| entry.place.partition == partition.0 && entry.found.is_none();
        for (entry, found) in self.entries.iter_mut().filter(same).zip(found) {
            entry.found = Some(found);
        }
        self.missing.retain(|asked| *asked != partition);
    }

    /// The entries in front that have been found.
    pub(crate) fn take_found(&mut self) -> Vec<(What, Found)> {
        let mut taken = Vec::new();
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.found.is_some()) {
            taken.extend(entry.found.map(|found| (entry.what, found)));
        }
        taken
    }

    /// Begins a round of questions under a number; what has to be asked of whom.
    pub(crate) fn ask(&mut self, request: u64) -> Vec<(PartitionId, Vec<(u64, Offset)>)> {
        let wanted = self.wanted();
        self.request = request;
        self.missing = wanted.iter().map(|(partition, _)| *partition).collect();
        wanted
    }

    /// Whether its last round of questions has this number.
    pub(crate) fn is(&self, request: u64) -> bool {
        self.request == request
    }

    /// Whether only expired messages are looked for.
    pub(crate) fn is_sweep(&self) -> bool {
        self.is_sweep
    }

    /// Whether all questions of the round were answered.
    pub(crate) fn has_all(&self) -> bool {
        self.missing.is_empty()
    }

    /// What nobody need answer any more, if this is dropped.
    pub(crate) fn take_back(self, by: FetchBy) -> impl Iterator<Item = Unfetch> {
        let Self { request, missing, .. } = self;
        missing.into_iter().map(move |partition| Unfetch { by, request, partition })
    }

    /// Whether nothing is left to be asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What has to be asked of whom.
    fn wanted(&self) -> Vec<(PartitionId, Vec<(u64, Offset)>)> {
        let mut wanted: Vec<(PartitionId, Vec<(u64, Offset)>)> = Vec::new();
        for Entry { place, .. } in self.entries.iter().filter(|entry| entry.found.is_none()) {
            let what = (place.epoch, Offset(place.offset));
            match wanted.iter_mut().find(|(partition, _)| partition.0 == place.partition) {
                Some((_, places)) => places.push(what),
                None => wanted.push((PartitionId(place.partition), vec![what])),
            }
        }
        wanted
    }
}

impl Broker {
    /// A session in the log loses its connection: from now on its messages are left to the log.
    pub(crate) fn begin_lag(&mut self, id: SessionId) {
        let Some(index) = self.recorded_index(id) else { return };
        let (Some(durable), Some(session)) = (&self.durable, self.sessions.get_mut(id)) else {
            return;
        };
        if session.is_persistent() && session.outbound.frontier() == IN_STEP {
            session.outbound.set_frontier(durable.partitions[index].state.next_posting());
        }
    }

    /// The session is away and its position is recorded: nothing stays in memory that the log has.
    pub(crate) fn leave_to_log(&mut self, id: SessionId) {
        let Some(index) = self.recorded_index(id) else { return };
        self.close_window(id);
        let Self { durable: Some(durable), sessions, metrics, .. } = self else { return };
        let Some(session) = sessions.get_mut(id) else { return };
        let state = &durable.partitions[index].state;
        let Some(slot) = state.find(session.client_id.as_str()) else { return };
        let Some(outbound) = session.outbound.existing() else { return };
        let place_of = |packet_id: Option<u16>, pending: &Pending| {
            let exchange = packet_id.filter(|_| pending.qos == QoS::ExactlyOnce);
            let exchange = exchange.map(|packet_id| state.exchange_place(slot, packet_id));
            exchange.unwrap_or_else(|| state.place_of(slot, pending.posting))
        };
        let (messages, bytes) = (outbound.queue_len(), outbound.queue_bytes());
        outbound.leave_to_log(place_of, &durable.catch_ups.nothing);
        metrics.queued_messages.sub((messages - outbound.queue_len()) as u64);
        metrics.queued_bytes.sub((bytes - outbound.queue_bytes()) as u64);
        // A full disk takes no record of a position. What lies behind it is looked at only where
        // nothing is in flight: this comes for each exchange that is recorded while nobody is there.
        let says_all = |frontier: u64| {
            let recorded = state.session(slot).map_or(0, |session| session.position);
            state.owed(slot, recorded, 1).first().is_none_or(|owed| frontier <= owed.posting)
        };
        if outbound.is_empty() && says_all(outbound.frontier()) {
            // Its recorded position says all.
            session.outbound.reset();
        }
    }

    /// The session has a connection again: it is behind if something is posted for it.
    pub(crate) fn begin_catch_up(&mut self, id: SessionId) {
        let Some(index) = self.recorded_index(id) else { return };
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let Some(session) = sessions.get_mut(id) else { return };
        let state = &durable.partitions[index].state;
        let Some(slot) = state.find(session.client_id.as_str()) else { return };
        let frontier = match session.outbound.frontier() {
            IN_STEP => state.session(slot).map_or(0, |session| session.position),
            frontier => frontier,
        };
        let is_behind = !state.owed(slot, frontier, 1).is_empty();
        if is_behind {
            session.outbound.set_frontier(frontier);
        } else if let Some(outbound) = session.outbound.existing() {
            outbound.set_frontier(IN_STEP);
        }
    }

    /// Whether the log has a posting for a session. Another session may be why a message is posted,
    /// while the subscription that matched it is not recorded yet.
    pub(crate) fn is_posted_for(&self, id: SessionId, posting: u64) -> bool {
        let found = || {
            let index = self.recorded_index(id)?;
            let (durable, session) = (self.durable.as_ref()?, self.sessions.get(id)?);
            let state = &durable.partitions[index].state;
            state.place_of(state.find(session.client_id.as_str())?, posting)
        };
        posting != NOT_POSTED && found().is_some()
    }

    /// A message that comes behind all others does not fit into a session's queue. True if it is
    /// left to the log. The frontier of a session that is behind already is never moved back: what
    /// lies between may be in memory.
    pub(crate) fn falls_behind(&mut self, id: SessionId, pending: &Pending) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let outbound = &session.outbound;
        if outbound.frontier() != IN_STEP {
            return false;
        }
        let full =
            QUEUE_MESSAGES_MAX <= outbound.queue_len() || QUEUE_BYTES_MAX <= outbound.queue_bytes();
        if !full || !self.is_posted_for(id, pending.posting) {
            return false;
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.outbound.set_frontier(pending.posting);
            self.metrics.sessions_behind.add(1);
        }
        true
    }

    /// Asks for the next window of a session that is behind, if it has room for one.
    pub(crate) fn catch_up(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let outbound = &session.outbound;
        let needs_log = outbound.frontier() != IN_STEP || outbound.next_resend_is_away();
        if !needs_log || session.link.is_none() {
            return;
        }
        let Some(durable) = &self.durable else { return };
        if durable.catch_ups.open.contains_key(&id) {
            return;
        }
        let again = session.outbound.away(WINDOW_MESSAGES);
        if !again.is_empty() {
            let again = again.into_iter().map(|(packet_id, place)| (place, What::Again(packet_id)));
            return self.open_window(turn, id, Window::new(again, false));
        }
        let frontier = session.outbound.frontier();
        let room = session.primings.is_empty() && session.outbound.queue_len() <= REFILL;
        if frontier == IN_STEP || !room {
            return;
        }
        let entries = self.owed_entries(id, frontier);
        if entries.is_empty() {
            if let Some(session) = self.sessions.get_mut(id) {
                session.outbound.set_frontier(IN_STEP);
                self.replays.wake(id);
            }
            return;
        }
        self.open_window(turn, id, Window::new(entries.into_iter(), false));
    }

    /// The next messages that a session is owed and that are not in flight; none if it is in step.
    pub(super) fn owed_entries(&self, id: SessionId, frontier: u64) -> Vec<(Place, What)> {
        let Some(index) = self.recorded_index(id) else { return Vec::new() };
        let (Some(durable), Some(session)) = (&self.durable, self.sessions.get(id)) else {
            return Vec::new();
        };
        let state = &durable.partitions[index].state;
        let Some(slot) = state.find(session.client_id.as_str()) else { return Vec::new() };
        let in_flight = session.outbound.in_flight_from(frontier);
        let mut from = frontier;
        // None is left out that lies behind a whole window of those in flight.
        loop {
            let mut owed = state.owed(slot, from, WINDOW_MESSAGES);
            let Some(last) = owed.last() else { return Vec::new() };
            from = last.posting + 1;
            owed.retain(|owed| !in_flight.contains(&owed.posting));
            if !owed.is_empty() {
                return owed.into_iter().map(|owed| (owed.place, What::Owed(owed))).collect();
            }
        }
    }

    /// The message of an exchange was read.
    fn bring_back(
        &mut self,
        turn: &Turn<'_>,
        id: SessionId,
        packet_id: u16,
        message: Message,
        unix_ms: u64,
    ) {
        let outbound = self.sessions.get(id).map(|session| &session.outbound);
        let message = match outbound.and_then(|outbound| outbound.replayed(packet_id)) {
            Some(ticket) => self.with_place(turn, id, &ticket, message, unix_ms),
            None => message,
        };
        if let Some(session) = self.sessions.get_mut(id) {
            session.outbound.bring_back(packet_id, message);
        }
    }

    /// The message of an exchange is not there any more. One with QoS 2 is ended with PUBREL: whether
    /// the client had the message is not known, and either way the packet identifier is free then.
    fn give_up(&mut self, turn: &mut Turn<'_>, id: SessionId, packet_id: u16) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.outbound.release_unread(packet_id) {
            self.metrics.dropped_postings.add(1);
            if let Some(connection) = session.link.as_ref().map(|link| link.connection) {
                self.answer(turn, connection, |out, version| {
                    encode::pubrel(out, version, packet_id, ReasonCode::SUCCESS, None);
                });
            }
            return;
        }
        let Some(pending) = session.outbound.give_up(packet_id) else { return };
        self.metrics.inflight_messages.sub(1);
        self.metrics.dropped_postings.add(1);
        self.note_moved(id);
        self.settle_ticket(turn, id, &pending);
        self.pump_at_end(id);
    }

    pub(super) fn open_window(&mut self, turn: &mut Turn<'_>, id: SessionId, window: Window) {
        let Some(durable) = &mut self.durable else { return };
        let CatchUps { open, waiting, is_waiting, .. } = &mut durable.catch_ups;
        if WINDOWS_MAX <= open.len() {
            if is_waiting.insert(id) {
                waiting.push_back(id);
            }
            return;
        }
        open.insert(id, window);
        self.ask_owners(turn, id);
    }

    fn ask_owners(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(durable) = &mut self.durable else { return };
        let CatchUps { open, next, .. } = &mut durable.catch_ups;
        let Some(window) = open.get_mut(&id) else { return };
        *next += 1;
        let wanted = window.ask(*next);
        let (request, bytes_max) = (*next, WINDOW_BYTES / wanted.len().max(1));
        for (partition, places) in wanted {
            let owner = self.placement.owner(partition);
            let by = FetchBy::Session(id);
            let fetch = Fetch { by, request, partition, places, bytes_max };
            self.send_mail(turn, owner, Mail::Fetch(Box::new(fetch)));
        }
    }

    /// A window, or a part of it, is there.
    pub(crate) fn on_fetched(&mut self, turn: &mut Turn<'_>, fetched: Fetched) {
        let id = match fetched.by {
            FetchBy::Session(id) => id,
            FetchBy::Group(id) => return self.on_group_fetched(turn, id, fetched),
        };
        let Fetched { request, partition, found, .. } = fetched;
        let Some(durable) = &mut self.durable else { return };
        let window = durable.catch_ups.open.get_mut(&id);
        let Some(window) = window.filter(|window| window.request == request) else { return };
        window.take_in(partition, found);
        let (is_whole, is_sweep) = (window.has_all(), window.is_sweep());
        let taken = window.take_found();
        if is_sweep {
            self.sweep_window(turn, id, taken);
        } else {
            self.deliver_window(turn, id, taken);
        }
        if is_whole {
            self.end_round(turn, id);
        }
        if is_sweep {
            self.open_sweeps(turn);
        }
        self.pump(turn, id);
    }

    /// All have answered: what is left is asked for again, and a window that is done makes room.
    fn end_round(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(durable) = &self.durable else { return };
        let window = durable.catch_ups.open.get(&id);
        let is_done = window.is_none_or(|window| window.entries.is_empty());
        if is_done || self.sessions.get(id).is_none() {
            self.close_window(id);
        } else {
            self.ask_owners(turn, id);
        }
    }

    /// A window makes room for the next one. Who has still to answer is told that it need not.
    pub(crate) fn close_window(&mut self, id: SessionId) {
        let Some(durable) = &mut self.durable else { return };
        if let Some(window) = durable.catch_ups.open.remove(&id) {
            durable.take_back(window, FetchBy::Session(id));
        }
    }

    /// End of turn: while there is room for windows, those that wait for one have their turn. The
    /// gone and the absent are passed over, and whoever does not take its room leaves it to others
    /// in the next turn.
    pub(crate) fn open_waiting(&mut self, turn: &mut Turn<'_>) {
        self.take_back_unwanted(turn);
        let Self { durable: Some(durable), sessions, pump_ready, .. } = self else { return };
        let CatchUps { open, waiting, is_waiting, .. } = &mut durable.catch_ups;
        let mut room = WINDOWS_MAX.saturating_sub(open.len());
        while room > 0
            && let Some(next) = waiting.pop_front()
        {
            is_waiting.remove(&next);
            if sessions.get(next).is_some_and(|session| session.link.is_some()) {
                pump_ready.push(next);
                room -= 1;
            }
        }
    }

    fn take_back_unwanted(&mut self, turn: &mut Turn<'_>) {
        let Some(durable) = &mut self.durable else { return };
        for unfetch in core::mem::take(&mut durable.catch_ups.unwanted) {
            let owner = self.placement.owner(unfetch.partition);
            self.send_mail(turn, owner, Mail::Unfetch(unfetch));
        }
    }

    fn deliver_window(&mut self, turn: &mut Turn<'_>, id: SessionId, taken: Vec<(What, Found)>) {
        for (what, found) in taken {
            match (what, found) {
                (What::Again(packet_id), Found::Message(message, unix_ms)) => {
                    self.bring_back(turn, id, packet_id, message, unix_ms);
                }
                (What::Again(packet_id), Found::Gone | Found::Damaged) => {
                    self.give_up(turn, id, packet_id);
                }
                (What::Owed(owed), found) => self.deliver_owed(turn, id, &owed, found),
            }
        }
    }

    /// The next message of a session that is behind.
    fn deliver_owed(&mut self, turn: &Turn<'_>, id: SessionId, owed: &OwedPosting, found: Found) {
        let Self { sessions, metrics, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return };
        if owed.posting < session.outbound.frontier() {
            // It was let go of meanwhile.
            return;
        }
        session.outbound.set_frontier(owed.posting + 1);
        match found {
            Found::Message(message, _) if message.head().expires_at <= turn.now => {
                metrics.dropped_expired.add(1);
            }
            Found::Message(message, _) => {
                if let Some(pending) = pending_of(session.client_hash, owed, message) {
                    metrics.queued_messages.add(1);
                    metrics.queued_bytes.add(pending.cost_bytes() as u64);
                    session.outbound.push_queue(pending);
                    return;
                }
            }
            Found::Gone => metrics.dropped_postings.add(1),
            Found::Damaged => metrics.dropped_damaged.add(1),
        }
        self.note_moved(id);
    }

    /// From which posting on what a session is owed is in the log only; `None` if it is in step.
    pub(crate) fn frontier(&self, id: SessionId) -> Option<u64> {
        let session = self.sessions.get(id)?;
        match session.outbound.frontier() {
            IN_STEP if session.link.is_some() => None,
            IN_STEP => {
                let index = self.recorded_index(id)?;
                let state = &self.durable.as_ref()?.partitions[index].state;
                state.position(session.client_id.as_str())
            }
            frontier => Some(frontier),
        }
    }
}

/// What a session gets of a message, overlapping subscriptions as one; `None` if No Local keeps all
/// of it away.
fn pending_of(client_hash: u64, owed: &OwedPosting, message: Message) -> Option<Pending> {
    let own = message.head().publisher == client_hash;
    let options = owed.options.iter().filter(|options| !(options.no_local && own));
    let options: Vec<&SubscriptionOptions> = options.collect();
    let qos = options.iter().map(|options| options.qos).max()?.min(message.head().qos);
    let retain = message.head().retain && options.iter().any(|o| o.retain_as_published);
    let ids: Vec<u32> = options.iter().map(|o| o.id).filter(|id| *id != 0).collect();
    Some(Pending {
        message,
        qos: QoS::from_u8(qos)?,
        retain,
        ids: SubscriptionIds::from_slice(&ids),
        ticket: None,
        posting: owed.posting,
    })
}
