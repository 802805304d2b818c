//! Sessions and their subscriptions as they come and go: recorded before the client is told, where
//! it is told something that must hold after a crash.

use super::overdue::Ended;
use super::records::{StateRecord, SubscriptionOptions, WillBody};
use super::waits::Wait;
use crate::connection::{Phase, write_packet};
use crate::delivery::Subscriber;
use crate::service::{Broker, PendingSuback, Timer, Turn};
use crate::session::{NEVER_EXPIRES, SessionId, WillMessage};
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::log::writer::Admission;
use ringlane_mqtt::{Connect, ReasonCode, Version, encode};
use std::time::Duration;

impl WillMessage {
    fn body(&self) -> WillBody<'_> {
        WillBody {
            topic: &self.topic,
            payload: &self.payload,
            properties: &self.properties,
            qos: self.qos as u8,
            retain: self.retain,
            delay_secs: self.delay_secs,
            message_expiry_secs: self.message_expiry_secs,
        }
    }
}

fn options_of(subscriber: &Subscriber) -> SubscriptionOptions {
    SubscriptionOptions {
        qos: subscriber.qos as u8,
        no_local: subscriber.no_local,
        retain_as_published: subscriber.retain_as_published,
        id: subscriber.subscription_id,
    }
}

impl Broker {
    /// The session expiry interval that CONNECT is granted.
    pub(crate) fn granted_expiry(&self, connect: &Connect<'_>) -> u32 {
        let cap = self.session_expiry_cap();
        match connect.version {
            Version::V5 => connect.properties.session_expiry_secs.unwrap_or(0).min(cap),
            _ if connect.clean_start => 0,
            _ => cap,
        }
    }

    /// Whether the log of a partition has no room for what a client would have to wait for.
    pub(crate) fn refuses_state(&self, partition: PartitionId) -> bool {
        let index = self.durable_index(partition);
        index.is_some_and(|index| self.state_admission(index) == Admission::Full)
    }

    /// Whether the log of a partition has too much before it to take records of state now.
    pub(crate) fn delays_state(&self, partition: PartitionId) -> bool {
        let index = self.durable_index(partition);
        index.is_some_and(|index| self.state_admission(index) == Admission::Busy)
    }

    /// Whether what is recorded of a session has to wait for its log: it is busy, or full.
    pub(crate) fn state_waits(&self, session: SessionId) -> bool {
        let index = self.recorded_index(session);
        index.is_some_and(|index| {
            matches!(self.state_admission(index), Admission::Busy | Admission::Full)
        })
    }

    /// Whether the log takes what a CONNECT records, be it that the session before is gone. What became of the client's earlier session comes before
    /// that, and so does the will of a connection that is taken over.
    pub(crate) fn connect_admission(
        &self,
        partition: PartitionId,
        client_id: &str,
        connect: &Connect<'_>,
    ) -> Admission {
        let Some(index) = self.durable_index(partition) else { return Admission::Open };
        let known = self.sessions.find(client_id, self.placement.client_hash(client_id));
        let known = known.and_then(|id| self.sessions.get(id));
        let is_overdue = self.is_overdue(partition, client_id);
        let is_known = is_overdue || known.is_some_and(|session| session.recorded);
        if !is_known && connect.will.is_none() && self.granted_expiry(connect) == 0 {
            return Admission::Open;
        }
        let has_will = known.is_some_and(|held| held.link.is_some() && held.will.is_some());
        let admission = match self.state_admission(index) {
            Admission::Open if has_will => self.partitions[index].admission(),
            admission => admission,
        };
        match admission {
            Admission::Open if self.waits_for_overdue(partition, client_id) => Admission::Busy,
            admission => admission,
        }
    }

    /// Records a session that outlives its connection, or has a will: CONNECT is taken again once
    /// that is durable. False if there is nothing to record.
    pub(crate) fn begin_opening(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        present: bool,
        connect: &Connect<'_>,
    ) -> bool {
        let expiry_secs = self.granted_expiry(connect);
        let Some(held) = self.sessions.get(session) else { return false };
        let Some(index) = self.durable_index(held.partition) else { return false };
        if expiry_secs == 0 && connect.will.is_none() && !held.recorded {
            return false;
        }
        let Some(held) = self.sessions.get_mut(session) else { return false };
        held.recorded = true;
        held.expiry_secs = expiry_secs;
        let will = connect.will.as_ref().map(WillMessage::from_connect);
        let open = StateRecord::SessionOpen {
            client_id: "",
            clean: !present,
            expiry_secs,
            will: will.as_ref().map(WillMessage::body),
        };
        let client_id = self.sessions.get(session).map(|held| held.client_id.as_str().to_owned());
        let client_id = client_id.unwrap_or_default();
        let filters = self.reopen_overdue(index, &client_id);
        self.record_of(turn, session, open);
        for filter in filters {
            self.sync_posted(index, &filter);
        }
        if let Some(connection) = self.connections.get_mut(id) {
            connection.phase = Phase::Opening { session, present };
            connection.version = connect.version;
        }
        if let Some(durable) = &mut self.durable {
            durable.openings.insert(session, id);
        }
        self.stall_for_record(turn, id);
        self.wait_flushed(index, Wait::Connack(id));
        true
    }

    /// The record of a session is durable: its CONNECT is taken again.
    pub(super) fn finish_opening(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        self.end_stall(turn, id);
    }

    /// Whether a connection's CONNACK waits for the record of a session.
    pub(crate) fn is_opening(&self, session: SessionId) -> bool {
        self.durable.as_ref().is_some_and(|durable| durable.openings.contains_key(&session))
    }

    /// The connection whose CONNACK a session waits for is the session's now, or is gone.
    pub(crate) fn take_opening(&mut self, session: SessionId) -> Option<ConnectionId> {
        self.durable.as_mut()?.openings.remove(&session)
    }

    /// A connection ended before its CONNACK: its session goes on without one, and has no will.
    pub(crate) fn abandon_opening(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        connection: ConnectionId,
    ) {
        let Some(durable) = &mut self.durable else { return };
        if durable.openings.get(&session) != Some(&connection) {
            return;
        }
        durable.openings.remove(&session);
        let Some(held) = self.sessions.get_mut(session) else { return };
        held.will = None;
        if !held.is_persistent() {
            return self.end_session(turn, session);
        }
        self.arm_expiry(turn, session);
        self.record_closed(turn, session);
        self.leave_to_log(session);
    }

    /// A session without a connection ends after its expiry interval.
    pub(crate) fn arm_expiry(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.expiry_secs != NEVER_EXPIRES {
            let at = turn.now + Duration::from_secs(u64::from(session.expiry_secs));
            session.expiry_timer = Some(turn.timers.schedule(at, Timer::SessionExpiry(id)));
        }
    }

    /// A session lost its connection and goes on. Nobody waits for that record.
    pub(crate) fn record_closed(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        self.record_position(turn, id);
        let since_ms = self.unix_ms(turn.now);
        let Some(session) = self.sessions.get(id) else { return };
        let (expiry_secs, will_gone) = (session.expiry_secs, session.will.is_none());
        self.record_ended(turn, id, Ended::Connection { since_ms, expiry_secs, will_gone });
    }

    /// A will was published, or is not to be.
    pub(crate) fn record_will_gone(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        self.record_ended(turn, id, Ended::Will);
    }

    /// A session ends.
    pub(crate) fn record_end(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        self.record_ended(turn, id, Ended::Session);
    }

    /// Every core has the filters of a SUBSCRIBE: it is recorded, and SUBACK waits for that, if the
    /// session outlives its connection.
    pub(crate) fn record_subscriptions(&mut self, turn: &mut Turn<'_>, suback: PendingSuback) {
        let id = suback.session;
        let persistent = self.sessions.get(id).is_some_and(|session| session.is_persistent());
        let Some(index) = self.recorded_index(id).filter(|_| persistent) else {
            return self.send_suback(turn, suback);
        };
        self.advance_own_cursors();
        for (filter, granted) in &suback.granted {
            self.record_subscription(turn, index, id, filter, *granted);
        }
        self.record_replays(turn, id);
        self.wait_flushed(index, Wait::Suback(Box::new(suback)));
    }

    fn record_subscription(
        &mut self,
        turn: &Turn<'_>,
        index: usize,
        id: SessionId,
        filter: &str,
        granted: SubscriptionOptions,
    ) {
        // It may have ended, or have been made again with other options, since.
        let held = self.sessions.get(id).is_some_and(|s| s.subscriptions.contains(filter));
        let (Some(durable), true) = (&self.durable, held) else { return };
        let plain = self.subscription_options(id, filter);
        let options = plain.map_or(granted, |subscriber| options_of(&subscriber));
        let state = &durable.partitions[index].state;
        let Some(session) = self.sessions.get(id) else { return };
        let since = state.since(session.client_id.as_str(), filter, options);
        let subscribe = StateRecord::Subscribe { client_id: "", filter, options, since };
        self.record_of(turn, id, subscribe);
        self.sync_posted(index, filter);
    }

    /// Records that a subscription ended. Where the session's partition stands, or `None` if the log
    /// does not have it.
    pub(crate) fn record_unsubscribe(
        &mut self,
        turn: &Turn<'_>,
        id: SessionId,
        filter: &str,
    ) -> Option<usize> {
        let index = self.recorded_index(id)?;
        let session = self.sessions.get(id)?;
        let state = &self.durable.as_ref()?.partitions[index].state;
        if !state.has_subscription(session.client_id.as_str(), filter) {
            return None;
        }
        self.record_of(turn, id, StateRecord::Unsubscribe { client_id: "", filter })?;
        self.sync_posted(index, filter);
        Some(index)
    }

    pub(crate) fn send_unsuback(
        &self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet_id: u16,
        reasons: &[ReasonCode],
    ) {
        let Some(connection) = self.connections.get(id) else { return };
        let version = connection.version;
        write_packet(turn.sockets, id, connection.is_websocket(), |out| {
            encode::unsuback(out, version, packet_id, reasons, None);
        });
        self.metrics.packets_sent.add(1);
    }

    /// UNSUBACK goes out once the log of partition `index` is flushed, or at once.
    pub(crate) fn answer_unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        index: Option<usize>,
        connection: ConnectionId,
        packet_id: u16,
        reasons: Vec<ReasonCode>,
    ) {
        match index {
            Some(index) => {
                self.wait_flushed(index, Wait::Unsuback { connection, packet_id, reasons });
            }
            None => self.send_unsuback(turn, connection, packet_id, &reasons),
        }
    }
}
