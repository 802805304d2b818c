//! A new subscription and its retained messages [MQTT-3.3.1-9].
//!
//! The filter is installed on all cores before the owners are asked. From then on live matches of
//! the subscription are held back behind the answers, so that an old message never follows a new
//! one, and neither is missed. A retained message whose own publish is among those held back is
//! left to the live copy. Batches are pulled, so that a slow subscriber paces its own flood.

use crate::delivery::View;
use crate::lazy::Lazy;
use crate::mail::{Mail, ProbeFor, RetainedMail};
use crate::service::{Broker, Turn};
use crate::session::{NOT_POSTED, Pending, Session, SessionId, SubscriptionIds, SubscriptionKind};
use hashbrown::HashSet;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::routing::{CoreSet, RecordId, is_wildcard, matches};
use ringlane_mqtt::QoS;

/// A live message that waits behind retained ones.
#[derive(Debug)]
struct Held {
    record: Option<RecordId>,
    pending: Pending,
}

/// One subscription whose retained messages are on their way.
#[derive(Debug)]
pub(crate) struct Priming {
    query: u32,
    filter: Box<str>,
    /// Owners to ask; the last one is being asked.
    owners: Vec<CoreId>,
    after: Option<Box<str>>,
    answers: Vec<(Message, RecordId)>,
    probes_left: usize,
    /// The next batch is not asked for until the client has taken the last one.
    waits_for_client: bool,
    held: Vec<Held>,
    held_bytes: usize,
}

impl Priming {
    /// Begins with the subscription itself: live matches are held back from its first moment.
    pub(crate) fn reserve(session: &mut Session, filter: &str) {
        if session.primings.iter().any(|priming| *priming.filter == *filter) {
            return;
        }
        let query = session.next_query;
        session.next_query = session.next_query.wrapping_add(1);
        session.primings.push(Self {
            query,
            filter: filter.into(),
            owners: Vec::new(),
            after: None,
            answers: Vec::new(),
            probes_left: 0,
            waits_for_client: false,
            held: Vec::new(),
            held_bytes: 0,
        });
    }

    /// The lowest posting number among the live messages that are held back.
    pub(crate) fn owed_from(&self) -> Option<u64> {
        let postings = self.held.iter().map(|held| held.pending.posting);
        postings.filter(|posting| *posting != NOT_POSTED).min()
    }
}

/// Live messages are held back up to this many bytes. Then QoS 0 is dropped and counted, and the
/// rest of the retained messages no longer waits for the client: all of it goes to the session's
/// backlog, which has a bound.
const HELD_BYTES_MAX: usize = 1 << 20;

impl Broker {
    /// Asks for the retained messages of a subscription; every core has its filter.
    pub(crate) fn start_priming(&mut self, turn: &mut Turn<'_>, id: SessionId, filter: &str) {
        let owners = self.retained_owners(filter);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(priming) = existing(&mut session.primings).find(|p| *p.filter == *filter) else {
            return;
        };
        let query = session.next_query;
        session.next_query = session.next_query.wrapping_add(1);
        // A subscription that was made again meanwhile begins anew.
        priming.query = query;
        priming.owners = owners;
        priming.after = None;
        priming.answers.clear();
        priming.probes_left = 0;
        priming.waits_for_client = false;
        self.ask_owner(turn, id, query);
    }

    fn retained_owners(&self, filter: &str) -> Vec<CoreId> {
        if is_wildcard(filter) {
            (0..self.cores()).map(CoreId).collect()
        } else {
            vec![self.placement.topic_owner(filter)]
        }
    }

    /// Asks for the next batch, or ends if every owner has answered.
    fn ask_owner(&mut self, turn: &mut Turn<'_>, id: SessionId, query: u32) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(priming) = find(session, query) else { return };
        let Some(owner) = priming.owners.last().copied() else {
            return self.finish_priming(turn, id, query);
        };
        let mail = RetainedMail::Query {
            session: id,
            query,
            filter: priming.filter.clone(),
            after: priming.after.clone(),
        };
        self.send_mail(turn, owner, Mail::Retained(Box::new(mail)));
    }

    pub(super) fn on_answer(
        &mut self,
        turn: &mut Turn<'_>,
        from: CoreId,
        id: SessionId,
        query: u32,
        messages: Vec<(Message, RecordId)>,
        after: Option<Box<str>>,
    ) {
        let (placement, own) = (&self.placement, self.core);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(priming) = find(session, query) else { return };
        if after.is_none() {
            priming.owners.pop();
        }
        priming.after = after;
        // What this core's own store knows came through the same mailbox as the live messages.
        let mut publishers = CoreSet::default();
        if from != own {
            for (_, record) in &messages {
                publishers.insert(placement.owner(record.partition));
            }
            publishers.remove(own);
        }
        priming.answers = messages;
        priming.probes_left = publishers.len();
        if publishers.is_empty() {
            return self.deliver_answers(turn, id, query);
        }
        for publisher in publishers.iter() {
            let probe = RetainedMail::Probe(ProbeFor::Subscriber { session: id, query });
            self.send_mail(turn, publisher, Mail::Retained(Box::new(probe)));
        }
    }

    pub(super) fn on_probe_done(&mut self, turn: &mut Turn<'_>, id: SessionId, query: u32) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(priming) = find(session, query) else { return };
        priming.probes_left = priming.probes_left.saturating_sub(1);
        if priming.probes_left == 0 {
            self.deliver_answers(turn, id, query);
        }
    }

    fn deliver_answers(&mut self, turn: &mut Turn<'_>, id: SessionId, query: u32) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let hash = session.client_hash;
        let Some(priming) = find(session, query) else { return };
        let mut answers = core::mem::take(&mut priming.answers);
        let held: HashSet<_> = priming.held.iter().filter_map(|held| held.record).collect();
        answers.retain(|(_, record)| !held.contains(record));
        let filter = priming.filter.clone();
        let Some(options) = self.subscription_options(id, &filter) else { return };
        for (message, _) in answers {
            if options.no_local && message.head().publisher == hash {
                continue;
            }
            let qos = QoS::from_u8(message.head().qos).unwrap_or(QoS::AtMostOnce);
            let ids = match options.subscription_id {
                0 => SubscriptionIds::None,
                id => SubscriptionIds::One(id),
            };
            let qos = qos.min(options.qos);
            let posting = NOT_POSTED;
            let pending = Pending { message, qos, retain: true, ids, ticket: None, posting };
            self.owe_or_send(turn, id, pending);
        }
        self.continue_priming(turn, id, query);
    }

    /// The next batch, as soon as the client has room for it.
    fn continue_priming(&mut self, turn: &mut Turn<'_>, id: SessionId, query: u32) {
        let high = self.sizes.output_bytes_refill;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let connection = session.link.as_ref().map(|link| link.connection);
        let unsent = connection.map_or(0, |connection| turn.sockets.unsent_bytes(connection));
        let queued = session.outbound.queue_len();
        let Some(priming) = find(session, query) else { return };
        let paced = priming.held_bytes < HELD_BYTES_MAX;
        let full = connection.is_some() && paced && (unsent > high / 2 || queued > 0);
        if full && !priming.owners.is_empty() {
            priming.waits_for_client = true;
            return;
        }
        self.ask_owner(turn, id, query);
    }

    /// The client took what was sent, or is back: primings that waited for it go on.
    pub(crate) fn resume_primings(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.primings.is_empty() {
            return;
        }
        let waiting = session.primings.iter_mut().filter(|priming| priming.waits_for_client);
        let queries: Vec<u32> = waiting
            .map(|priming| {
                priming.waits_for_client = false;
                priming.query
            })
            .collect();
        for query in queries {
            self.continue_priming(turn, id, query);
        }
    }

    /// Everything was handed to the kernel: there is room for more.
    pub(crate) fn on_drained(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ringlane_dataplane::ids::ConnectionId,
    ) {
        let Some(held) = self.connections.get(connection) else { return };
        let crate::connection::Phase::Connected(id) = held.phase else { return };
        self.replays.wake(id);
        // With QoS 0 and acknowledgements nothing waits for room.
        let Some(session) = self.sessions.get_mut(id) else { return };
        let outbound = &session.outbound;
        if !outbound.is_in_step() || session.backlog_full {
            self.pump(turn, id);
        }
        self.resume_primings(turn, id);
    }

    /// A live match of a subscription whose retained messages are on their way.
    pub(crate) fn hold(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        view: &mut View<'_>,
        qos: QoS,
        retain: bool,
        posting: u64,
    ) {
        let posting = if self.is_posted_for(id, posting) { posting } else { NOT_POSTED };
        let Self { sessions, maker, scratch, metrics, .. } = self;
        let ids = SubscriptionIds::from_slice(&scratch.ids);
        let Some(session) = sessions.get_mut(id) else { return };
        let index =
            session.primings.iter().position(|priming| matches(&priming.filter, view.topic));
        let message = view.lasting(maker);
        let pending = Pending { message, qos, retain, ids, ticket: None, posting };
        let Some(index) = index else {
            // Another subscription of the session is priming, and this topic is not its.
            return self.owe_or_send(turn, id, pending);
        };
        let priming = &mut session.primings[index];
        if qos == QoS::AtMostOnce && priming.held_bytes >= HELD_BYTES_MAX {
            metrics.dropped_slow.add(1);
            return;
        }
        priming.held_bytes += pending.cost_bytes();
        priming.held.push(Held { record: view.record, pending });
        if priming.held_bytes >= HELD_BYTES_MAX && priming.waits_for_client {
            priming.waits_for_client = false;
            let query = priming.query;
            self.continue_priming(turn, id, query);
        }
    }

    /// Every owner has answered: live messages follow, and go straight through from now on.
    fn finish_priming(&mut self, turn: &mut Turn<'_>, id: SessionId, query: u32) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(index) = session.primings.iter().position(|priming| priming.query == query) else {
            return;
        };
        let priming = take(session, index);
        self.clear_priming_mark(id, &priming.filter);
        self.release_held(turn, id, priming.held);
        // What it is owed from the log has waited for this.
        self.pump_at_end(id);
    }

    /// Live messages go out, or on behind another subscription that has not had its retained
    /// messages either.
    fn release_held(&mut self, turn: &mut Turn<'_>, id: SessionId, held: Vec<Held>) {
        for held in held {
            let Some(session) = self.sessions.get_mut(id) else { return };
            let topic = held.pending.message.topic();
            let next = existing(&mut session.primings).find(|p| matches(&p.filter, topic));
            match next {
                Some(priming) => {
                    priming.held_bytes += held.pending.cost_bytes();
                    priming.held.push(held);
                }
                None => self.owe_or_send_late(turn, id, held.pending),
            }
        }
    }

    /// The subscription goes before its retained messages have come.
    pub(crate) fn stop_priming(&mut self, turn: &mut Turn<'_>, id: SessionId, filter: &str) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let found = session.primings.iter().position(|priming| *priming.filter == *filter);
        let Some(index) = found else { return };
        let priming = take(session, index);
        self.clear_priming_mark(id, filter);
        self.release_held(turn, id, priming.held);
        self.pump_at_end(id);
    }

    fn clear_priming_mark(&mut self, id: SessionId, filter: &str) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(held) = session.subscriptions.get(filter) else { return };
        let SubscriptionKind::Plain { position } = held.kind else { return };
        if let Some(list) = self.routes.get_mut(filter)
            && let Some(entry) = list.get_mut(position as usize)
        {
            entry.priming = false;
        }
    }

    pub(crate) fn subscription_options(
        &self,
        id: SessionId,
        filter: &str,
    ) -> Option<crate::delivery::Subscriber> {
        let held = self.sessions.get(id)?.subscriptions.get(filter)?;
        let SubscriptionKind::Plain { position } = held.kind else { return None };
        self.routes.get(filter)?.get(position as usize).copied()
    }
}

/// Takes a priming out; after the last one the session keeps no room for another.
fn take(session: &mut Session, index: usize) -> Priming {
    let priming = session.primings.remove(index);
    if session.primings.is_empty() {
        session.primings.reset();
    }
    priming
}

fn find(session: &mut Session, query: u32) -> Option<&mut Priming> {
    existing(&mut session.primings).find(|priming| priming.query == query)
}

fn existing(primings: &mut Lazy<Vec<Priming>>) -> impl Iterator<Item = &mut Priming> {
    primings.existing().into_iter().flatten()
}
