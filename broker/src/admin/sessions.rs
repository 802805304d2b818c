//! Sessions: listed, and ended.

use super::Page;
use crate::connection::End;
use crate::ctl::glob;
use crate::ctl::rows::{OldestRow, Outcome, SessionChoice, SessionRow, WillRow};
use crate::service::{Broker, Turn};
use crate::session::{NEVER_EXPIRES, Session, SessionId, WillMessage};
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_mqtt::ReasonCode;

/// Sessions that are looked at for one page.
const SESSIONS_PER_PAGE: u32 = 256;
/// Ranges of postings that are looked at for one page, about.
const RANGES_PER_PAGE: usize = 16 * 1024;
/// Subscriptions of sessions that are ended behind one another, about.
const SUBSCRIPTIONS_PER_MAIL: usize = 1024;
/// Ranges of postings that are counted for one session or group.
pub(super) const RANGES_PER_SESSION: usize = 64 * 1024;

impl Broker {
    pub(super) fn list_sessions(
        &self,
        turn: &Turn<'_>,
        from: u32,
        choose: &SessionChoice,
    ) -> Page<SessionRow, u32> {
        let (mut rows, mut ranges) = (Vec::new(), 0);
        let slots = self.sessions.slots();
        let end = from.saturating_add(SESSIONS_PER_PAGE).min(slots);
        let mut slot = from;
        while slot < end && ranges < RANGES_PER_PAGE {
            let session = self.sessions.at(slot);
            if let Some(session) = session.filter(|found| self.is_chosen(turn, found, choose)) {
                let (row, looked_at) = self.session_row(turn, session);
                ranges += looked_at;
                if !choose.owed || is_owed(&row) {
                    rows.push(row);
                }
            }
            slot += 1;
        }
        Page { rows, next: (slot < slots).then_some(slot) }
    }

    pub(super) fn show_session(&self, turn: &Turn<'_>, client_id: &str) -> Option<SessionRow> {
        let id = self.session_of_client(client_id)?;
        self.sessions.get(id).map(|session| self.session_row(turn, session).0)
    }

    pub(super) fn session_of_client(&self, client_id: &str) -> Option<SessionId> {
        self.sessions.find(client_id, self.placement.client_hash(client_id))
    }

    /// With how many ranges of postings were looked at.
    fn session_row(&self, turn: &Turn<'_>, session: &Session) -> (SessionRow, usize) {
        let connected = self.has_client(session);
        let absent_since_ms =
            if connected { None } else { self.absent_since_ms(session.partition, session) };
        let expiry_secs = Some(session.expiry_secs).filter(|secs| *secs != NEVER_EXPIRES);
        let expires = |since: u64| Some(since + u64::from(expiry_secs?) * 1000);
        let (pending, oldest, ranges) = self.pending_of(turn, session);
        let link = session.link.as_ref().map(|link| link.connection);
        let connected_since_ms = link.and_then(|link| self.connected_since_ms(turn, link));
        let address = link.and_then(|link| turn.sockets.peer(link)).map(|peer| peer.to_string());
        let row = SessionRow {
            client_id: session.client_id.as_str().to_owned(),
            partition: session.partition.0,
            core: self.core.0,
            connected,
            connected_since_ms,
            address,
            absent_since_ms,
            expiry_secs,
            expires_ms: absent_since_ms.and_then(expires),
            durable: session.recorded,
            subscriptions: session.subscriptions.len() as u64,
            in_flight: session.outbound.inflight_len() as u64,
            pending,
            pending_bytes: session.outbound.queue_bytes() as u64
                + self.log_backlog_bytes(session.id),
            oldest,
            will: session.will.as_deref().map(will_row),
        };
        (row, ranges)
    }

    fn connected_since_ms(&self, turn: &Turn<'_>, id: ConnectionId) -> Option<u64> {
        let connected_for = self.connections.get(id)?.connected_for(turn.now);
        let connected_ms = u64::try_from(connected_for.as_millis()).unwrap_or(u64::MAX);
        Some(self.unix_ms(turn.now).saturating_sub(connected_ms))
    }

    fn absent_since_ms(&self, partition: PartitionId, session: &Session) -> Option<u64> {
        self.durable_state(partition)?.absent_since_ms(session.client_id.as_str())
    }

    /// Messages that wait, the oldest one that was not acknowledged, and how many ranges of
    /// postings were looked at.
    fn pending_of(&self, turn: &Turn<'_>, session: &Session) -> (u64, Option<OldestRow>, usize) {
        let outbound = &*session.outbound;
        let queued = outbound.queue_len() as u64;
        let accepted_at = outbound.oldest_accepted_at();
        let age_ms = accepted_at.map(|at| turn.now.since(at).as_millis() as u64);
        let in_memory =
            age_ms.map(|age_ms| OldestRow { age_ms: Some(age_ms), ..OldestRow::default() });
        let index = self.durable_index(session.partition).filter(|_| session.recorded);
        let (Some(index), Some(durable)) = (index, &self.durable) else {
            return (queued, in_memory, 1);
        };
        let state = &durable.partitions[index].state;
        let Some(slot) = state.find(session.client_id.as_str()) else {
            return (queued, in_memory, 1);
        };
        let recorded = || state.session(slot).map(|session| session.position);
        let from = session.position(state).or_else(recorded).unwrap_or(state.next_posting());
        let backlog = state.backlog(slot, from, RANGES_PER_SESSION);
        let sent = outbound.inflight_postings() as u64;
        let pending = queued.max(backlog.messages.saturating_sub(sent));
        let oldest = backlog.oldest.map(|(place, matched)| OldestRow {
            age_ms,
            partition: Some(place.partition),
            offset: Some(place.offset),
            behind: Some(matched.saturating_sub(place.offset)),
        });
        (pending, oldest.or(in_memory), backlog.ranges + 1)
    }

    /// Whether a session has a connection, or one whose CONNACK waits for the log.
    fn has_client(&self, session: &Session) -> bool {
        session.link.is_some() || self.is_opening(session.id)
    }

    /// Whether a session is among those that were chosen, leaving aside what it is owed.
    fn is_chosen(&self, turn: &Turn<'_>, session: &Session, choose: &SessionChoice) -> bool {
        let SessionChoice { clients, connected, absent_secs, owed: _ } = choose;
        let is_connected = self.has_client(session);
        let is_absent_for = |least: u64| {
            let since = self.absent_since_ms(session.partition, session).filter(|_| !is_connected);
            let least_ms = least.saturating_mul(1000);
            since.is_some_and(|since| self.unix_ms(turn.now).saturating_sub(since) >= least_ms)
        };
        connected.is_none_or(|wanted| wanted == is_connected)
            && clients.as_ref().is_none_or(|p| glob::matches(p, session.client_id.as_str()))
            && absent_secs.is_none_or(is_absent_for)
    }

    /// Ends sessions of one partition, as far as they are still among those that were chosen. A client
    /// that is connected is told (0x98), a will is published. What would make the turn long, or
    /// announce more than other cores take, is left for another mail.
    pub(super) fn end_sessions(
        &mut self,
        turn: &mut Turn<'_>,
        partition: PartitionId,
        clients: &[String],
        choose: &SessionChoice,
    ) -> Vec<Outcome> {
        let mut ended_subscriptions = 0;
        let end = |client: &String| match self.refuses_end(partition, client) {
            Some(refused) => refused,
            None if ended_subscriptions > SUBSCRIPTIONS_PER_MAIL => Outcome::Busy,
            None if self.post.is_congested() => Outcome::Busy,
            None => self.end_session_of(turn, client, choose, &mut ended_subscriptions),
        };
        clients.iter().map(end).collect()
    }

    fn end_session_of(
        &mut self,
        turn: &mut Turn<'_>,
        client_id: &str,
        choose: &SessionChoice,
        ended_subscriptions: &mut usize,
    ) -> Outcome {
        let Some(id) = self.session_of_client(client_id) else { return Outcome::NotFound };
        let Some(session) = self.sessions.get(id) else { return Outcome::NotFound };
        let is_owed = |session| is_owed(&self.session_row(turn, session).0);
        if !self.is_chosen(turn, session, choose) || (choose.owed && !is_owed(session)) {
            return Outcome::NotChosen;
        }
        *ended_subscriptions += session.subscriptions.len();
        let link = session.link.as_ref().map(|link| link.connection);
        if let Some(opening) = self.take_opening(id)
            && let Some(version) = self.connections.get(opening).map(|found| found.version)
        {
            self.refuse(turn, opening, version, ReasonCode::ADMINISTRATIVE_ACTION);
        }
        if let Some(connection) = link {
            self.send_disconnect(turn, connection, ReasonCode::ADMINISTRATIVE_ACTION, None);
            self.end_connection(turn, connection, End::Unclean);
        }
        self.end_session(turn, id);
        Outcome::Deleted
    }
}

fn is_owed(row: &SessionRow) -> bool {
    row.pending + row.in_flight > 0
}

fn will_row(will: &WillMessage) -> WillRow {
    WillRow {
        topic: will.topic.to_string(),
        qos: will.qos as u8,
        retain: will.retain,
        delay_secs: will.delay_secs,
        payload_bytes: will.payload.len() as u64,
    }
}
