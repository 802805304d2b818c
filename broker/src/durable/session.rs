//! What is durable of one session.

use super::postings::Place;
use super::records::{SentBody, SubscriptionOptions, WillBody};
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

/// A QoS 2 exchange with a subscriber.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SentState {
    pub(crate) packet_id: u16,
    /// PUBREC was seen: the message is not sent again, PUBREL is.
    pub(crate) received: bool,
    pub(crate) sent: SentBody,
}

/// What only sessions have that use QoS 2.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// In the order in which they were sent.
    pub(super) sent: VecDeque<SentState>,
    /// Completed ones at or above the position.
    pub(super) delivered: BTreeSet<u64>,
    /// Incoming identifiers that are not released.
    pub(super) incoming: PacketIds,
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

    /// The QoS 2 exchanges that are open, in the order of their first PUBLISH.
    pub(crate) fn sent(&self) -> impl Iterator<Item = &SentState> {
        self.exchanges.iter().flat_map(|exchanges| &exchanges.sent)
    }

    /// Incoming QoS 2 identifiers that are not released, in rising order.
    pub(crate) fn incoming(&self) -> Vec<u16> {
        self.exchanges.as_ref().map(|all| all.incoming.to_vec()).unwrap_or_default()
    }

    /// Postings at or above the position that were completed with QoS 2.
    pub(crate) fn delivered(&self) -> impl Iterator<Item = u64> {
        self.exchanges.iter().flat_map(|exchanges| &exchanges.delivered).copied()
    }

    /// Whether a posting at or above the position is not to be sent: it is in an exchange, or was.
    pub(crate) fn has_handled(&self, posting: u64) -> bool {
        self.exchanges.as_ref().is_some_and(|exchanges| {
            exchanges.delivered.contains(&posting)
                || exchanges.sent.iter().any(|state| state.sent.posting == posting)
        })
    }

    /// No later posting is in an exchange, or was.
    pub(crate) fn last_handled(&self) -> u64 {
        let sent = self.sent().map(|state| state.sent.posting);
        sent.chain(self.delivered().last()).max().unwrap_or(0)
    }

    /// The first posting that a subscription may still owe.
    pub(crate) fn owed_from(&self, subscription: &SubscriptionState) -> u64 {
        self.position.max(subscription.since)
    }

    pub(super) fn exchanges(&mut self) -> &mut Exchanges {
        self.exchanges.get_or_insert_default()
    }

    pub(super) fn set_position(&mut self, position: u64) {
        self.position = position;
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.delivered = exchanges.delivered.split_off(&position);
        }
        self.release_idle();
    }

    pub(super) fn begin_exchange(&mut self, packet_id: u16, sent: SentBody) {
        let exchanges = self.exchanges();
        exchanges.sent.retain(|state| state.packet_id != packet_id);
        exchanges.sent.push_back(SentState { packet_id, received: false, sent });
    }

    pub(super) fn on_received(&mut self, packet_id: u16) {
        let Some(exchanges) = &mut self.exchanges else { return };
        if let Some(state) = exchanges.sent.iter_mut().find(|state| state.packet_id == packet_id) {
            state.received = true;
        }
    }

    pub(super) fn on_completed(&mut self, packet_id: u16) {
        let position = self.position;
        let Some(exchanges) = &mut self.exchanges else { return };
        let found = exchanges.sent.iter().position(|state| state.packet_id == packet_id);
        let Some(state) = found.and_then(|index| exchanges.sent.remove(index)) else { return };
        if state.sent.posting >= position {
            exchanges.delivered.insert(state.sent.posting);
        }
        self.release_idle();
    }

    pub(super) fn release(&mut self, packet_id: u16) {
        let Some(exchanges) = &mut self.exchanges else { return };
        exchanges.incoming.remove(packet_id);
        self.release_idle();
    }

    /// The records of other logs that are needed to send exchanges again.
    pub(super) fn pinned(&self) -> impl Iterator<Item = Place> {
        self.sent().filter(|state| !state.received).map(|state| state.sent.place)
    }

    /// A replay began, began anew, or has come further.
    pub(super) fn set_replay(&mut self, replay: ReplayState) {
        match self.replays.iter_mut().find(|held| held.is_same(&replay.name)) {
            Some(held) => *held = replay,
            None => self.replays.push(replay),
        }
    }

    pub(super) fn end_replay(&mut self, name: &str) {
        self.replays.retain(|held| !held.is_same(name));
    }

    fn release_idle(&mut self) {
        let idle = self.exchanges.as_ref().is_some_and(|all| {
            all.sent.is_empty() && all.delivered.is_empty() && all.incoming.len() == 0
        });
        if idle {
            self.exchanges = None;
        }
    }
}
