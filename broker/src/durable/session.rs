//! What is durable of one session.

use super::postings::Place;
use super::ranges::Ranges;
use super::records::{Beside, SentBody, StateRecord, SubscriptionOptions, WillBody};
use crate::replay::ReplayState;
use crate::session::PacketIds;
use std::collections::{BTreeSet, VecDeque};

/// Whether the session has a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Connected,
    /// Since this broker time, unix ms.
    Closed(u64),
}

/// A will that was neither published nor given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WillState {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Box<[u8]>,
    pub(crate) properties: Box<[u8]>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) delay_secs: u32,
    pub(crate) message_expiry_secs: Option<u32>,
}

impl WillState {
    pub(super) fn new(body: &WillBody<'_>) -> Self {
        Self {
            topic: body.topic.into(),
            payload: body.payload.into(),
            properties: body.properties.into(),
            qos: body.qos,
            retain: body.retain,
            delay_secs: body.delay_secs,
            message_expiry_secs: body.message_expiry_secs,
        }
    }

    pub(super) fn body(&self) -> WillBody<'_> {
        WillBody {
            topic: &self.topic,
            payload: &self.payload,
            properties: &self.properties,
            qos: self.qos,
            retain: self.retain,
            delay_secs: self.delay_secs,
            message_expiry_secs: self.message_expiry_secs,
        }
    }
}

/// A subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SubscriptionState {
    /// The filter's number in its partition.
    pub(crate) filter: u32,
    pub(crate) options: SubscriptionOptions,
    /// Messages with posting numbers below are not for it.
    pub(crate) since: u64,
}

/// What a subscription owes still although it has QoS 0 since: what was posted for it before that
/// [MQTT-3.8.4-4].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TailState {
    /// As the subscription was then.
    pub(crate) before: SubscriptionState,
    /// Messages with this posting number and above are not for it.
    pub(crate) until: u64,
}

/// Tails of one session; beyond that the last one is made longer, and what was sent with QoS 0
/// meanwhile may come once more.
const TAILS_MAX: usize = 16;

/// A QoS 2 exchange with a subscriber.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SentState {
    pub(crate) packet_id: u16,
    /// PUBREC was seen: the message is not sent again, PUBREL is.
    pub(crate) received: bool,
    pub(crate) sent: SentBody,
    /// What it is of, if it is no posting of the session, and the name of that.
    pub(crate) beside: Option<(Beside, Box<str>)>,
}

impl SentState {
    /// Its posting number, if it is a posting of the session.
    pub(crate) fn posting(&self) -> Option<u64> {
        self.beside.is_none().then_some(self.sent.posting)
    }

    /// Where the message lies that is to be sent again.
    pub(crate) fn place(&self) -> Option<Place> {
        let is_read = !matches!(self.beside, Some((Beside::Unread, _)));
        (is_read && !self.received).then_some(self.sent.place)
    }
}

/// What only a few sessions have: those that use QoS 2, and those that have tails.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// In the order in which they were sent.
    pub(super) sent: VecDeque<SentState>,
    /// Completed ones at or above the position.
    pub(super) delivered: Ranges,
    /// Incoming identifiers that are not released.
    pub(super) incoming: PacketIds,
    /// Completed messages of shared groups, by hash, that their group has not noted: after a start it
    /// would give them to another member.
    held: BTreeSet<(u64, Place)>,
    /// In the order in which they were cut off.
    tails: Vec<TailState>,
}

/// One session.
#[derive(Debug)]
pub(crate) struct SessionState {
    pub(crate) client_id: Box<str>,
    pub(crate) presence: Presence,
    pub(crate) expiry_secs: u32,
    pub(crate) will: Option<Box<WillState>>,
    pub(crate) subscriptions: Vec<SubscriptionState>,
    /// Every posting below was acknowledged, or is one of the exchanges.
    pub(crate) position: u64,
    pub(crate) replays: Vec<ReplayState>,
    exchanges: Option<Box<Exchanges>>,
}

impl SessionState {
    pub(super) fn new(client_id: &str) -> Self {
        Self {
            client_id: client_id.into(),
            presence: Presence::Connected,
            expiry_secs: 0,
            will: None,
            subscriptions: Vec::new(),
            position: 0,
            replays: Vec::new(),
            exchanges: None,
        }
    }

    /// Applies a record that is of nothing but this session.
    pub(super) fn apply(&mut self, record: &StateRecord<'_>) {
        match record {
            StateRecord::WillGone { .. } => self.will = None,
            StateRecord::Sent { packet_id, sent, .. } => {
                self.begin_exchange(*packet_id, sent.clone(), None);
            }
            StateRecord::SentBeside { name, packet_id, what, sent, .. } => {
                let beside = Some((*what, Box::from(*name)));
                self.begin_exchange(*packet_id, sent.clone(), beside);
            }
            StateRecord::Received { packet_id, .. } => self.on_received(*packet_id),
            StateRecord::Completed { packet_id, .. } => self.on_completed(*packet_id),
            StateRecord::Release { packet_id, .. } => self.release(*packet_id),
            StateRecord::Delivered { postings, .. } => {
                let ranges: Vec<_> = postings.iter().map(|number| (*number, *number + 1)).collect();
                self.add_done(&ranges);
            }
            StateRecord::DeliveredRanges { ranges, .. } => self.add_done(ranges),
            StateRecord::GroupKept { group, places, .. } => self.forget_held(*group, places),
            StateRecord::GroupHeld { held, .. } => self.add_held(held),
            StateRecord::Replay { name, replay, .. } => {
                self.set_replay(ReplayState::new(name, replay));
            }
            StateRecord::ReplayBegin { name, replay, .. } => {
                self.begin_replay(ReplayState::new(name, replay));
            }
            StateRecord::ReplayDelivered { name, done, .. } => self.add_delivered(name, done),
            StateRecord::ReplayEnd { name, .. } => self.end_replay(name),
            // Those of a partition, and those that change what its filters hold.
            _ => {}
        }
    }

    /// Whether it has more than subscriptions and a position: replays, or messages on their way.
    pub(crate) fn is_busy(&self) -> bool {
        self.exchanges.is_some() || !self.replays.is_empty()
    }

    /// The QoS 2 exchanges that are open, in the order of their first PUBLISH.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &SentState> {
        self.exchanges.iter().flat_map(|exchanges| &exchanges.sent)
    }

    /// Incoming QoS 2 identifiers that are not released, in rising order.
    pub(crate) fn incoming(&self) -> Vec<u16> {
        self.exchanges.as_ref().map(|all| all.incoming.to_vec()).unwrap_or_default()
    }

    /// Postings at or above the position that were completed with QoS 2, or by a shared group.
    pub(crate) fn delivered(&self) -> Option<&Ranges> {
        self.exchanges.as_ref().map(|exchanges| &exchanges.delivered)
    }

    /// Messages of shared groups that this session had, or has, and that their group has not noted.
    pub(crate) fn held(&self) -> Vec<(u64, Place)> {
        let open = self.sent().filter_map(|state| match state.beside {
            Some((Beside::Group(group), _)) => Some((group, state.sent.place)),
            Some((Beside::Unread | Beside::Replay, _)) | None => None,
        });
        self.completed_of_groups().into_iter().chain(open).collect()
    }

    /// Those of them that were completed.
    pub(super) fn completed_of_groups(&self) -> Vec<(u64, Place)> {
        self.exchanges.iter().flat_map(|exchanges| &exchanges.held).copied().collect()
    }

    fn add_held(&mut self, held: &[(u64, Place)]) {
        self.exchanges().held.extend(held);
    }

    /// A group has noted that messages were given to this session.
    fn forget_held(&mut self, group: u64, places: &[Place]) {
        let Some(exchanges) = &mut self.exchanges else { return };
        for place in places {
            exchanges.held.remove(&(group, *place));
        }
        for state in &mut exchanges.sent {
            let is_of_it = matches!(state.beside, Some((Beside::Group(of), _)) if of == group);
            if is_of_it && places.contains(&state.sent.place) {
                state.beside = Some((Beside::Replay, "".into()));
            }
        }
        self.release_idle();
    }

    /// Whether a posting at or above the position is not to be sent: it is in an exchange, or was.
    pub(crate) fn has_handled(&self, posting: u64) -> bool {
        self.exchanges.as_ref().is_some_and(|exchanges| {
            exchanges.delivered.contains(posting)
                || exchanges.sent.iter().any(|state| state.posting() == Some(posting))
        })
    }

    /// No later posting is in an exchange, or was.
    pub(crate) fn last_handled(&self) -> u64 {
        let sent = self.sent().filter_map(SentState::posting);
        let delivered = self.delivered().map_or(0, Ranges::end);
        sent.max().unwrap_or(0).max(delivered)
    }

    /// The first posting that a subscription may still owe.
    pub(crate) fn owed_from(&self, subscription: &SubscriptionState) -> u64 {
        self.position.max(subscription.since)
    }

    /// Subscriptions, and what they owe from before they had QoS 0: up to where each of them is owed
    /// something.
    pub(crate) fn owing(&self) -> impl Iterator<Item = (&SubscriptionState, u64)> {
        let subscriptions = self.subscriptions.iter().map(|held| (held, u64::MAX));
        subscriptions.chain(self.tails().map(|tail| (&tail.before, tail.until)))
    }

    pub(super) fn tails(&self) -> impl Iterator<Item = &TailState> {
        self.exchanges.iter().flat_map(|exchanges| &exchanges.tails)
    }

    /// A subscription has QoS 0 from a posting number on. True if that makes one tail more.
    pub(super) fn cut_off(&mut self, before: SubscriptionState, until: u64) -> bool {
        if until <= self.owed_from(&before) {
            return false;
        }
        let tails = &mut self.exchanges().tails;
        let is_full = tails.len() >= TAILS_MAX;
        let same = |tail: &&mut TailState| {
            let TailState { before: known, .. } = tail;
            known.filter == before.filter && (is_full || known.since == before.since)
        };
        match tails.iter_mut().rev().find(same) {
            Some(tail) => {
                tail.until = until.max(tail.until);
                false
            }
            None => {
                tails.push(TailState { before, until });
                true
            }
        }
    }

    /// Takes out the tails of a filter: their subscription ends.
    pub(super) fn end_tails(&mut self, filter: u32) -> usize {
        let Some(exchanges) = &mut self.exchanges else { return 0 };
        let before = exchanges.tails.len();
        exchanges.tails.retain(|tail| tail.before.filter != filter);
        let ended = before - exchanges.tails.len();
        self.release_idle();
        ended
    }

    pub(super) fn exchanges(&mut self) -> &mut Exchanges {
        self.exchanges.get_or_insert_default()
    }

    /// Postings are done with, as a group has noted, or a checkpoint.
    fn add_done(&mut self, ranges: &[(u64, u64)]) {
        let position = self.position;
        let delivered = &mut self.exchanges().delivered;
        ranges.iter().for_each(|(first, end)| delivered.add(position.max(*first), *end));
        self.release_idle();
    }

    /// Everything below was acknowledged. The filters of the tails that end by it.
    pub(super) fn set_position(&mut self, position: u64) -> Vec<u32> {
        self.position = position;
        let mut ended = Vec::new();
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.delivered.trim(position);
            exchanges.tails.retain(|tail| {
                let is_owed = position < tail.until;
                ended.extend((!is_owed).then_some(tail.before.filter));
                is_owed
            });
        }
        self.release_idle();
        ended
    }

    fn begin_exchange(
        &mut self,
        packet_id: u16,
        sent: SentBody,
        beside: Option<(Beside, Box<str>)>,
    ) {
        let exchanges = self.exchanges();
        exchanges.sent.retain(|state| state.packet_id != packet_id);
        exchanges.sent.push_back(SentState { packet_id, received: false, sent, beside });
    }

    fn on_received(&mut self, packet_id: u16) {
        let Some(exchanges) = &mut self.exchanges else { return };
        if let Some(state) = exchanges.sent.iter_mut().find(|state| state.packet_id == packet_id) {
            state.received = true;
        }
    }

    fn on_completed(&mut self, packet_id: u16) {
        let position = self.position;
        let Some(exchanges) = &mut self.exchanges else { return };
        let found = exchanges.sent.iter().position(|state| state.packet_id == packet_id);
        let Some(state) = found.and_then(|index| exchanges.sent.remove(index)) else { return };
        match (&state.beside, state.sent.place) {
            (None, _) if state.sent.posting >= position => {
                exchanges.delivered.insert(state.sent.posting);
            }
            (Some((Beside::Replay, filter)), Place { partition, offset, .. }) => {
                let replay = self.replays.iter_mut().find(|replay| replay.filter() == &**filter);
                replay.into_iter().for_each(|replay| replay.add_delivered(partition, offset));
            }
            (Some((Beside::Group(group), _)), place) => {
                exchanges.held.insert((*group, place));
            }
            (None | Some((Beside::Unread, _)), _) => {}
        }
        self.release_idle();
    }

    fn release(&mut self, packet_id: u16) {
        let Some(exchanges) = &mut self.exchanges else { return };
        exchanges.incoming.remove(packet_id);
        self.release_idle();
    }

    /// The records of other logs that are needed to send exchanges again.
    pub(super) fn pinned(&self) -> impl Iterator<Item = Place> {
        self.sent().filter_map(SentState::place)
    }

    /// A replay has come further, or is in a checkpoint.
    fn set_replay(&mut self, replay: ReplayState) {
        match self.replays.iter_mut().find(|held| held.is_same(&replay.name)) {
            Some(held) => held.go_on(replay),
            None => self.replays.push(replay),
        }
    }

    /// A replay began, or began anew: what there was of its filter is no part of it.
    fn begin_replay(&mut self, replay: ReplayState) {
        self.end_replay(&replay.name);
        self.replays.push(replay);
    }

    fn end_replay(&mut self, name: &str) {
        self.replays.retain(|held| !held.is_same(name));
        let Some(exchanges) = &mut self.exchanges else { return };
        let filter = ReplayState::filter_of(name);
        for (what, of) in exchanges.sent.iter_mut().filter_map(|state| state.beside.as_mut()) {
            if *what == Beside::Replay && **of == *filter {
                *of = "".into();
            }
        }
    }

    /// Messages of a replay that were completed with QoS 2.
    fn add_delivered(&mut self, name: &str, done: &[(u32, u64)]) {
        let Some(replay) = self.replays.iter_mut().find(|held| held.is_same(name)) else { return };
        done.iter().for_each(|(partition, offset)| replay.add_delivered(*partition, *offset));
    }

    fn release_idle(&mut self) {
        let idle = self.exchanges.as_ref().is_some_and(|all| {
            all.sent.is_empty()
                && all.delivered.is_empty()
                && all.incoming.len() == 0
                && all.tails.is_empty()
                && all.held.is_empty()
        });
        if idle {
            self.exchanges = None;
        }
    }
}
