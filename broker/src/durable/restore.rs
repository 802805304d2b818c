//! The first turn of a core: its sessions are there again, as they were before the start.

use super::model::{PartitionState, RetainedState};
use super::records::{Beside, StateRecord, SubscriptionOptions};
use super::session::{Presence, SentState, SessionState, WillState};
use super::start::CoreState;
use crate::delivery::{Subscriber, Target};
use crate::groups::{Errand, GroupKey, Member, is_group};
use crate::service::{Broker, Timer, Turn};
use crate::session::{
    NEVER_EXPIRES, NOT_POSTED, Pending, SessionId, Subscription, SubscriptionIds, SubscriptionKind,
    WillMessage,
};
use ringlane_dataplane::batch::Level;
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::stored::Clocks;
use ringlane_dataplane::message::MessageHead;
use ringlane_dataplane::routing::RecordId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use ringlane_mqtt::topic::TopicFilter;
use std::rc::Rc;
use std::time::Duration;

/// How long the wills of clients that were connected wait for them to return.
const WILL_GRACE: Duration = Duration::from_secs(10);

impl Broker {
    /// Takes over what the logs say, before anything else happens on this core.
    pub(crate) fn restore(&mut self, turn: &mut Turn<'_>, core: CoreState) {
        let partitions: Vec<PartitionId> = self.placement.owned(self.core).collect();
        let restored: u64 = (core.partitions.iter()).map(|s| s.session_count() as u64).sum();
        for (index, mut state) in core.partitions.into_iter().enumerate() {
            for (number, filter) in state.posted_filters() {
                self.routes.set_posted(filter, index as u16, Some(number));
            }
            // Nothing was appended in this run: its epoch begins where the log ends.
            state.note_epoch(core.epoch, self.partitions[index].next_offset().0);
            let retained = core::mem::take(&mut state.retained);
            let again = core::mem::take(&mut state.retained_again);
            let (mut ids, mut ended) = (Vec::new(), Vec::new());
            for (slot, session) in state.sessions() {
                if is_group(&session.client_id) {
                    let groups = &core.groups;
                    ended.extend(self.restore_group(index, (slot, session), &state, groups));
                } else {
                    ids.push(self.restore_session(turn, partitions[index], &state, session));
                }
            }
            if let Some(durable) = &mut self.durable {
                durable.partitions[index].state = state;
            }
            self.end_restored_groups(turn, index, ended);
            for (topic, body) in &again {
                let retained = body.body();
                self.record(turn, index, &StateRecord::Retained { topic, retained });
            }
            for (topic, retained) in retained {
                self.restore_retained(turn, &topic, &retained);
            }
            for id in ids {
                self.begin_absence(turn, index, id);
            }
        }
        self.metrics.sessions.set(self.sessions.len() as u64);
        if restored > 0 {
            tracing::info!(core = self.core.0, sessions = restored, "sessions restored");
        }
    }

    fn restore_session(
        &mut self,
        turn: &mut Turn<'_>,
        partition: PartitionId,
        state: &PartitionState,
        session: &SessionState,
    ) -> SessionId {
        let hash = self.placement.client_hash(&session.client_id);
        let id = self.sessions.create(&session.client_id, hash, partition);
        for held in &session.subscriptions {
            if let Some(filter) = state.filter(held.filter) {
                self.restore_subscription(turn, id, &filter.name, held.options);
            }
        }
        self.restore_replays(id, &session.replays);
        let Some(held) = self.sessions.get_mut(id) else { return id };
        held.recorded = true;
        held.expiry_secs = session.expiry_secs;
        held.will = session.will.as_deref().map(|will| Box::new(will_message(will)));
        for packet_id in session.incoming() {
            held.received_qos2.insert(packet_id);
        }
        self.restore_exchanges(id, session);
        self.tell_held(turn, id, &session.held());
        id
    }

    /// QoS 2 goes on where it was; what has to be sent again is read from the log then.
    fn restore_exchanges(&mut self, id: SessionId, session: &SessionState) {
        let (Some(durable), Some(held)) = (&self.durable, self.sessions.get_mut(id)) else {
            return;
        };
        for state in session.sent() {
            let SentState { packet_id, sent, beside, .. } = state;
            let replay = beside.as_ref().filter(|(what, _)| *what == Beside::Replay);
            let replay = replay.and_then(|(_, f)| self.replays.restore_exchange(id, f, sent.place));
            let pending = Pending {
                message: durable.catch_ups.nothing(),
                qos: QoS::ExactlyOnce,
                retain: sent.retain,
                ids: SubscriptionIds::from_slice(&sent.subscription_ids),
                ticket: replay.map(|ticket| Box::new(Errand::Replay(ticket))),
                posting: state.posting().unwrap_or(NOT_POSTED),
            };
            held.outbound.restore(*packet_id, pending, state.place());
            held.outbound.set_frontier(session.position);
            self.metrics.inflight_messages.add(1);
        }
    }

    fn restore_subscription(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        filter: &str,
        options: SubscriptionOptions,
    ) {
        let qos = QoS::from_u8(options.qos).unwrap_or(QoS::AtMostOnce);
        let share = TopicFilter::parse(filter).ok().and_then(|parsed| {
            Some(GroupKey { name: parsed.share?.into(), filter: parsed.filter.into() })
        });
        let kind = match share {
            Some(key) => {
                let member = Member {
                    key: self.member_key(id),
                    qos,
                    subscription_id: options.id,
                    retain_as_published: options.retain_as_published,
                    window: 0,
                    is_durable: true,
                };
                self.metrics.shared_subscriptions.add(1);
                self.send_join(turn, key.clone(), member, 0);
                SubscriptionKind::Shared { key: Rc::new(key) }
            }
            None => {
                let list = self.routes.entry(filter);
                let position = list.len() as u32;
                list.push(Subscriber {
                    target: Target::Session(id.slot),
                    subscription_id: options.id,
                    qos,
                    no_local: options.no_local,
                    retain_as_published: options.retain_as_published,
                    priming: false,
                });
                SubscriptionKind::Plain { position }
            }
        };
        self.metrics.subscriptions.add(1);
        if let Some(held) = self.sessions.get_mut(id) {
            held.subscriptions.insert(filter, Subscription { qos, kind });
        }
    }

    /// This moment by the core's clock and by the time of day.
    pub(crate) fn clocks(&self, now: Nanos) -> Clocks {
        Clocks { now, unix_ms: self.unix_ms(now) }
    }

    fn restore_retained(&mut self, turn: &mut Turn<'_>, topic: &str, retained: &RetainedState) {
        let head = MessageHead {
            publisher: retained.publisher,
            qos: retained.qos,
            retain: true,
            ..self.clocks(turn.now).head(retained.accepted_ms, retained.expiry_secs)
        };
        let message = self.maker.make(head, topic, &retained.properties, &retained.payload);
        let (partition, offset) =
            (PartitionId(retained.place.partition), Offset(retained.place.offset));
        let level = if retained.memory { Level::Memory } else { Level::LocalDisk };
        self.keep_retained(turn, &message, RecordId { partition, offset, level });
    }

    /// The expiry interval and the will delay of a session without a connection go on counting. One
    /// that was connected when the broker ended counts from now.
    fn begin_absence(&mut self, turn: &mut Turn<'_>, index: usize, id: SessionId) {
        let clocks = self.clocks(turn.now);
        let (Some(durable), Some(session)) = (&self.durable, self.sessions.get_mut(id)) else {
            return;
        };
        let state = &durable.partitions[index].state;
        let found = state.find(session.client_id.as_str()).and_then(|slot| state.session(slot));
        let presence = found.map_or(Presence::Connected, |found| found.presence);
        let since_ms = match presence {
            Presence::Connected => clocks.unix_ms,
            Presence::Closed(since_ms) => since_ms,
        };
        let due = |after: Duration| clocks.due(since_ms, after);
        let delay = session.will.as_ref().map(|will| will.delay_secs);
        let will_after = delay.map(|secs| Duration::from_secs(u64::from(secs)).max(WILL_GRACE));
        let expiry_after = match session.expiry_secs {
            NEVER_EXPIRES => None,
            0 => Some(will_after.unwrap_or_default()),
            secs => Some(Duration::from_secs(u64::from(secs))),
        };
        session.expiry_timer =
            expiry_after.map(|after| turn.timers.schedule(due(after), Timer::SessionExpiry(id)));
        session.will_timer =
            will_after.map(|after| turn.timers.schedule(due(after), Timer::WillDelay(id)));
        if presence == Presence::Connected {
            self.record_closed(turn, id);
        }
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
