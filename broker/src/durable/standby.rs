//! What makes a takeover warm: the sessions of a core, and who wants what, as the states of its partitions say.
//!
//! A core that follows keeps this in step with each record that it applies, and leads with it. A state that is there
//! as a whole, at a start or because a checkpoint of the leader came, is taken in bit by bit over many
//! turns; what is missing when the core leads, on a single node all, is taken in then.
//! What only a few sessions have is left to [`restore`](super::restore).

use super::model::PartitionState;
use super::records::{StateRecord, SubscriptionOptions};
use super::session::{SessionState, WillState};
use super::start::CoreState;
use crate::delivery::{PostedFilters, Routes, Subscriber, TakenOut, Target};
use crate::groups::{GroupKey, is_group};
use crate::session::{
    SessionId, SessionStore, Subscription, SubscriptionKind, Subscriptions, Upkeep, WillMessage,
};
use ringlane_dataplane::ids::{CoreId, PartitionId};
use ringlane_dataplane::routing::Placement;
use ringlane_mqtt::QoS;
use ringlane_mqtt::topic::TopicFilter;
use std::cmp::Ordering;
use std::rc::Rc;

/// The sessions of a core without their clients, and the filters that they hold.
#[derive(Debug)]
pub(crate) struct Standby {
    placement: Placement,
    /// In rising order.
    parts: Vec<Part>,
    pub(crate) sessions: SessionStore,
    pub(crate) routes: Routes,
    /// Subscriptions of all sessions, and the shared ones of them.
    pub(crate) subscriptions: u64,
    pub(crate) shared_subscriptions: u64,
}

/// How far the state of a partition was taken in.
#[derive(Debug)]
struct Part {
    id: PartitionId,
    /// Of its filters those with numbers below, and those that changed since.
    filters: u32,
    /// Of its sessions those in slots below.
    sessions: u32,
}

impl Standby {
    /// Of partitions that have nothing yet.
    pub(crate) fn new(core: CoreId, placement: Placement, sessions_max: usize) -> Self {
        let parts = placement.owned(core).map(|id| Part { id, filters: 0, sessions: 0 });
        Self {
            placement,
            parts: parts.collect(),
            sessions: SessionStore::new(sessions_max),
            routes: Routes::new(core),
            subscriptions: 0,
            shared_subscriptions: 0,
        }
    }

    /// Of the same partitions, and nothing of them yet.
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.routes.core(), self.placement, self.sessions.sessions_max())
    }

    /// Takes in what is left of a state, until `budget` subscriptions and filters were. Whether it was enough.
    pub(crate) fn fill(
        &mut self,
        index: usize,
        state: &PartitionState,
        budget: &mut usize,
    ) -> bool {
        while *budget > 0 && self.parts[index].filters < state.filters.slots() {
            self.take_in_filter(index, state);
            *budget -= 1;
        }
        while *budget > 0 && self.parts[index].sessions < state.sessions.slots() {
            let taken = self.take_in_session(index, state);
            *budget = budget.saturating_sub(taken + 1);
        }
        let Part { filters, sessions, .. } = self.parts[index];
        filters >= state.filters.slots() && sessions >= state.sessions.slots()
    }

    /// The filters of all partitions that records are posted for: they are away until [`Standby::begin`].
    pub(crate) fn take_posted<'a>(
        &mut self,
        states: impl Iterator<Item = (usize, &'a PartitionState)>,
    ) -> PostedFilters {
        for (index, state) in states {
            while self.parts[index].filters < state.filters.slots() {
                self.take_in_filter(index, state);
            }
        }
        self.routes.take_posted()
    }

    /// The core leads with these states: all of them is here from now on.
    pub(crate) fn begin(&mut self, core: &mut CoreState) {
        self.routes.put_posted(core::mem::take(&mut core.posted));
        for (index, state) in core.partitions.iter().enumerate() {
            self.parts[index].filters = state.filters.slots();
            self.fill(index, state, &mut { usize::MAX });
        }
    }

    fn take_in_filter(&mut self, index: usize, state: &PartitionState) {
        let number = self.parts[index].filters;
        self.parts[index].filters += 1;
        if let Some(filter) = state.filters.get(number).filter(|filter| filter.holders > 0) {
            self.routes.set_posted(&filter.name, index as u16, Some(number));
        }
    }

    /// How many subscriptions the next session has.
    fn take_in_session(&mut self, index: usize, state: &PartitionState) -> usize {
        let slot = self.parts[index].sessions;
        self.parts[index].sessions += 1;
        let Some(session) = state.session(slot) else { return 0 };
        let Some(id) = self.sync_session(index, session) else { return 0 };
        for held in &session.subscriptions {
            if let Some(filter) = state.filter(held.filter) {
                self.subscribe(id, &filter.name, held.options);
            }
        }
        session.subscriptions.len()
    }

    // ---- records ----

    /// Applies a record of the partition in this place to its state, and to what is made of that.
    pub(crate) fn apply(
        &mut self,
        index: usize,
        state: &mut PartitionState,
        record: &StateRecord<'_>,
    ) {
        match record {
            StateRecord::SessionOpen { client_id, clean, .. } => {
                match clean {
                    true => self.apply_end(index, state, record),
                    false => state.apply(record),
                }
                self.sync(index, state, client_id);
            }
            StateRecord::SessionEnd { .. } => self.apply_end(index, state, record),
            StateRecord::SessionClosed { client_id, .. } | StateRecord::WillGone { client_id } => {
                state.apply(record);
                self.sync(index, state, client_id);
            }
            StateRecord::Subscribe { client_id, filter, .. } => {
                state.apply(record);
                self.sync_posted(index, state, filter);
                let options = state.options_of(client_id, filter);
                if let (Some(id), Some(options)) = (self.find(client_id), options) {
                    self.subscribe(id, filter, options);
                }
            }
            StateRecord::Unsubscribe { client_id, filter } => {
                state.apply(record);
                self.sync_posted(index, state, filter);
                if let Some(id) = self.find(client_id) {
                    self.unsubscribe(id, filter);
                }
            }
            // All others say nothing of what is here.
            _ => state.apply(record),
        }
    }

    /// A record that ends a session.
    fn apply_end(&mut self, index: usize, state: &mut PartitionState, record: &StateRecord<'_>) {
        let filters = state.filters_of(record.client_id());
        state.apply(record);
        for filter in &filters {
            self.sync_posted(index, state, filter);
        }
        let Some(id) = self.find(record.client_id()) else { return };
        let held = self.sessions.get(id).map(|session| session.subscriptions.filters());
        for filter in held.into_iter().flatten() {
            self.unsubscribe(id, &filter);
        }
        self.sessions.remove(id);
    }

    fn sync_posted(&mut self, index: usize, state: &PartitionState, filter: &str) {
        let number = state.posted_number(filter);
        self.routes.set_posted(filter, index as u16, number);
        // It is the next one, as a new filter is behind all that were taken in.
        let filters = &mut self.parts[index].filters;
        *filters += u32::from(number == Some(*filters));
    }

    fn find(&self, client_id: &str) -> Option<SessionId> {
        self.sessions.find(client_id, self.placement.client_hash(client_id))
    }

    /// Something of a session has changed beside its subscriptions; it may be new.
    fn sync(&mut self, index: usize, state: &PartitionState, client_id: &str) {
        let Some(slot) = state.find(client_id) else { return };
        match slot.cmp(&self.parts[index].sessions) {
            Ordering::Less => {
                if let Some(session) = state.session(slot) {
                    self.sync_session(index, session);
                }
            }
            // It is the next one, as a new session is behind all that were taken in.
            Ordering::Equal => _ = self.take_in_session(index, state),
            Ordering::Greater => {}
        }
    }

    /// The session, made if it is not there; groups are none.
    fn sync_session(&mut self, index: usize, session: &SessionState) -> Option<SessionId> {
        if is_group(&session.client_id) {
            return None;
        }
        let id = self.find(&session.client_id).unwrap_or_else(|| {
            let hash = self.placement.client_hash(&session.client_id);
            self.sessions.create(&session.client_id, hash, self.parts[index].id)
        });
        let held = self.sessions.get_mut(id)?;
        (held.recorded, held.upkeep) = (true, Upkeep::Unsettled);
        held.expiry_secs = session.expiry_secs;
        held.will = session.will.as_deref().map(|will| Box::new(will_message(will)));
        Some(id)
    }

    // ---- subscriptions ----

    /// Puts a subscription in, or changes it.
    fn subscribe(&mut self, id: SessionId, filter: &str, options: SubscriptionOptions) {
        let Self { sessions, routes, .. } = self;
        let Some(held) = sessions.get_mut(id) else { return };
        let qos = QoS::from_u8(options.qos).unwrap_or(QoS::AtMostOnce);
        let kind = match GroupKey::of_filter(filter) {
            Some(key) => SubscriptionKind::Shared { key: Rc::new(key) },
            None => {
                let subscriber = Subscriber {
                    target: Target::Session(id.slot),
                    subscription_id: options.id,
                    qos,
                    no_local: options.no_local,
                    retain_as_published: options.retain_as_published,
                    priming: false,
                };
                let position = put_in(routes, &held.subscriptions, filter, subscriber);
                SubscriptionKind::Plain { position }
            }
        };
        let shared = u64::from(matches!(kind, SubscriptionKind::Shared { .. }));
        if held.subscriptions.insert(filter, Subscription { qos, kind }).is_none() {
            self.subscriptions += 1;
            self.shared_subscriptions += shared;
        }
    }

    fn unsubscribe(&mut self, id: SessionId, filter: &str) {
        let held = self.sessions.get_mut(id);
        let Some(held) = held.and_then(|held| held.subscriptions.remove(filter)) else { return };
        self.subscriptions -= 1;
        match held.kind {
            SubscriptionKind::Shared { .. } => self.shared_subscriptions -= 1,
            SubscriptionKind::Plain { position } => {
                let taken = self.routes.take_out(filter, position);
                if let TakenOut::Moved(Target::Session(slot)) = taken {
                    self.sessions.set_position(slot, filter, position);
                }
            }
        }
    }
}

/// Puts a subscriber into the list of a filter, or in the place that it has there. Where it lies.
fn put_in(routes: &mut Routes, known: &Subscriptions, filter: &str, subscriber: Subscriber) -> u32 {
    let list = routes.entry(filter);
    let known = known.get(filter).and_then(|held| match held.kind {
        SubscriptionKind::Plain { position } => Some(position),
        SubscriptionKind::Shared { .. } => None,
    });
    if let Some(position) = known
        && let Some(entry) = list.get_mut(position as usize)
    {
        *entry = subscriber;
        return position;
    }
    list.push(subscriber);
    list.len() as u32 - 1
}

impl GroupKey {
    /// The group of a shared subscription's filter; `None` of another filter.
    fn of_filter(filter: &str) -> Option<Self> {
        if !filter.starts_with("$share/") {
            return None;
        }
        let parsed = TopicFilter::parse(filter).ok()?;
        Some(Self { name: parsed.share?.into(), filter: parsed.filter.into() })
    }
}

fn will_message(will: &WillState) -> WillMessage {
    WillMessage {
        topic: will.topic.clone(),
        payload: will.payload.clone(),
        properties: will.properties.clone(),
        qos: QoS::from_u8(will.qos).unwrap_or(QoS::AtMostOnce),
        retain: will.retain,
        delay_secs: will.delay_secs,
        message_expiry_secs: will.message_expiry_secs,
    }
}
