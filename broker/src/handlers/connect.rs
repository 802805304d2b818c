//! CONNECT of a client that this core owns [MQTT5 §3.1].

use super::Flow;
use crate::connection::{AliasTable, End, Link, Phase, write_packet};
use crate::service::{Broker, Timer, Turn};
use crate::session::{SessionId, WillMessage};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::log::writer::Admission;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::{ConnackProperties, Connect, ReasonCode, encode, topic};

impl Broker {
    pub(crate) fn on_connect(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        connect: &Connect<'_>,
        bytes: usize,
    ) -> Flow {
        let phase = self.connections.get(id).map(|connection| connection.phase);
        if let Some(Phase::Opening { session, present }) = phase {
            return self.accept_connect(turn, id, session, present, connect, bytes);
        }
        if let Err(reason) = self.check_connect(connect) {
            return self.refuse(turn, id, connect.version, reason);
        }
        let assigned = if connect.client_id.is_empty() { Some(self.assign_id()) } else { None };
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        let partition = self.placement.partition_of(self.placement.client_hash(client_id));
        if self.is_poisoned(partition) {
            return self.refuse(turn, id, connect.version, ReasonCode::SERVER_UNAVAILABLE);
        }
        match self.connect_admission(partition, client_id, connect) {
            Admission::Open | Admission::Poisoned => {}
            Admission::Full => {
                self.metrics.sessions_refused.add(1);
                return self.refuse(turn, id, connect.version, ReasonCode::QUOTA_EXCEEDED);
            }
            Admission::Busy => {
                self.stall_for_retry(turn, id);
                return Flow::Stall;
            }
        }
        let Some((session, present)) = self.open_session(turn, client_id, connect.clean_start)
        else {
            self.metrics.sessions_refused.add(1);
            return self.refuse(turn, id, connect.version, ReasonCode::QUOTA_EXCEEDED);
        };
        if self.begin_opening(turn, id, session, present, connect) {
            return Flow::Stall;
        }
        self.accept_connect(turn, id, session, present, connect, bytes)
    }

    /// Everything that has to be in the log before CONNACK is.
    fn accept_connect(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        present: bool,
        connect: &Connect<'_>,
        bytes: usize,
    ) -> Flow {
        self.take_opening(session);
        let assigned = self.sessions.get(session).filter(|_| connect.client_id.is_empty());
        let assigned = assigned.map(|session| session.client_id.as_str().to_owned());
        self.link_session(turn, id, session, connect);
        self.send_connack(turn, id, connect, present, assigned.as_deref());
        self.metrics.connects_accepted.add(1);
        self.metrics.connections.add(1);
        let window = self.member_window(session);
        self.set_presence(turn, session, window);
        self.resume_outbound(turn, session);
        self.resume_replays(turn, session);
        self.resume_primings(turn, session);
        Flow::Next(bytes)
    }

    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), ReasonCode> {
        let mqtt = &self.config.mqtt;
        if self.draining {
            return Err(ReasonCode::SERVER_UNAVAILABLE);
        }
        if connect.properties.authentication_method.is_some() {
            // No method exists yet [MQTT-4.12.0-1].
            return Err(ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        if connect.client_id.len() > usize::from(mqtt.max_client_id_length) {
            return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        // A 3.1.1 client without identifier must ask for a clean session [MQTT-3.1.3-8]; 3.1
        // knows no empty identifier.
        if connect.client_id.is_empty() && !connect.version.is_v5() && !connect.clean_start {
            return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        if !self.allows_user_properties(connect.properties.user_properties) {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        let Some(will) = &connect.will else { return Ok(()) };
        if !self.allows_user_properties(will.properties.user_properties) {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        if will.topic.len() > usize::from(mqtt.max_topic_length)
            || topic::level_count(will.topic) > usize::from(mqtt.max_topic_levels)
        {
            return Err(ReasonCode::TOPIC_NAME_INVALID);
        }
        if will.topic == "$SYS" || will.topic.starts_with("$SYS/") {
            return Err(ReasonCode::NOT_AUTHORIZED);
        }
        Ok(())
    }

    /// An identifier whose partition this core owns [MQTT-3.1.3-6]. It is a keyed hash of a
    /// count, so that nobody can tell the next one from it.
    fn assign_id(&mut self) -> String {
        loop {
            self.next_assigned = self.next_assigned.wrapping_add(1);
            let count = format!("assigned {} {}", self.core, self.next_assigned);
            let id = format!("auto-{:016x}", self.placement.client_hash(&count));
            let hash = self.placement.client_hash(&id);
            let owned = self.placement.owner(self.placement.partition_of(hash)) == self.core;
            if owned && self.sessions.find(&id, hash).is_none() {
                return id;
            }
        }
    }

    /// The client's session: resumed, or new. `None` if there is no room for a new one.
    fn open_session(
        &mut self,
        turn: &mut Turn<'_>,
        client_id: &str,
        clean_start: bool,
    ) -> Option<(SessionId, bool)> {
        let hash = self.placement.client_hash(client_id);
        let known = self.find_settled(turn, client_id, hash);
        let old = known.and_then(|id| self.sessions.get(id));
        let was_recorded = old.is_some_and(|session| session.recorded);
        if let Some(id) = known {
            self.take_over(turn, id, !clean_start);
            if clean_start {
                self.end_session(turn, id);
            } else if self.sessions.get(id).is_some() {
                return Some((id, true));
            }
        }
        // A client that is known takes the room that its old session had.
        let no_room = self.sessions.is_full() || self.meter.bytes() > self.memory_bytes;
        if known.is_none() && no_room {
            return None;
        }
        let partition = self.placement.partition_of(hash);
        let id = self.sessions.create(client_id, hash, partition);
        if was_recorded && let Some(session) = self.sessions.get_mut(id) {
            // CONNACK says that the old session is gone: that has to be durable as well.
            session.recorded = true;
        }
        self.metrics.sessions.set(self.sessions.len() as u64);
        Some((id, false))
    }

    /// Ends the connection that the session has, if any [MQTT-3.1.4-3].
    fn take_over(&mut self, turn: &mut Turn<'_>, id: SessionId, resumed: bool) {
        if let Some(opening) = self.take_opening(id) {
            self.end_connection(turn, opening, End::Unclean);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let persistent = session.is_persistent();
        if let Some(timer) = session.expiry_timer.take() {
            turn.timers.cancel(timer);
        }
        let old = session.link.as_ref().map(|link| link.connection);
        if let Some(old) = old {
            self.send_disconnect(turn, old, ReasonCode::SESSION_TAKEN_OVER, None);
            // A v3 session that was not to be kept ends with its connection.
            let resumed =
                resumed && self.sessions.get(id).is_some_and(|session| session.is_persistent());
            self.end_connection(turn, old, End::TakenOver { resumed });
            if !resumed {
                self.end_session(turn, id);
            }
        } else if resumed {
            // The client is back before the delay has passed: no will [MQTT-3.1.3-9].
            self.cancel_will(turn, id);
            if !persistent {
                // After a restart it was only kept for its will.
                self.end_session(turn, id);
            }
        }
    }

    fn link_session(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        connect: &Connect<'_>,
    ) {
        let mqtt = &self.config.mqtt;
        let expiry_secs = self.granted_expiry(connect);
        let keep_alive = self.keep_alive_secs(connect);
        let properties = &connect.properties;
        let alias_maximum =
            properties.topic_alias_maximum.unwrap_or(0).min(mqtt.topic_alias_maximum_out);
        let receive_maximum = properties.receive_maximum.unwrap_or(u16::MAX);
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.phase = Phase::Connected(session);
        connection.version = connect.version;
        connection.set_keep_alive(keep_alive);
        connection.set_connected(turn.now);
        if let Some(deadline) = connection.deadline.take() {
            turn.timers.cancel(deadline);
        }
        if keep_alive > 0 {
            let due = turn.now + connection.silence_max();
            connection.deadline = Some(turn.timers.schedule(due, Timer::KeepAlive(id)));
        }
        turn.sockets.establish(id);
        let link = Link {
            connection: id,
            version: connect.version,
            websocket: connection.is_websocket(),
            packet_bytes_max: properties.packet_bytes_max.map_or(usize::MAX, |max| max as usize),
            window: receive_maximum.min(mqtt.max_inflight_messages),
            problem_information: properties.request_problem_information,
            aliases: AliasTable::new(alias_maximum),
            full_since: Nanos::NEVER,
        };
        let Some(held) = self.sessions.get_mut(session) else { return };
        held.expiry_secs = expiry_secs;
        held.will = connect.will.as_ref().map(|will| Box::new(WillMessage::from_connect(will)));
        held.link = Some(link);
    }

    /// The keep alive that holds. Only an MQTT 5 client can be told a shorter one
    /// [MQTT-3.2.2-21].
    fn keep_alive_secs(&self, connect: &Connect<'_>) -> u16 {
        let max = self.config.mqtt.max_keep_alive.as_secs();
        let max = u16::try_from(max).unwrap_or(u16::MAX);
        let wanted = connect.keep_alive_secs;
        if connect.version.is_v5() && max > 0 && (wanted == 0 || wanted > max) {
            return max;
        }
        wanted
    }

    fn send_connack(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        connect: &Connect<'_>,
        present: bool,
        assigned: Option<&str>,
    ) {
        let mqtt = &self.config.mqtt;
        let keep_alive = self.keep_alive_secs(connect);
        let expiry = connect.properties.session_expiry_secs.unwrap_or(0);
        let granted = expiry.min(self.session_expiry_cap());
        let alias_maximum = mqtt.topic_alias_maximum;
        let properties = ConnackProperties {
            session_expiry_secs: (granted != expiry).then_some(granted),
            receive_maximum: (mqtt.receive_maximum != u16::MAX).then_some(mqtt.receive_maximum),
            packet_bytes_max: Some(mqtt.max_packet_size),
            topic_alias_maximum: (alias_maximum > 0).then_some(alias_maximum),
            assigned_client_id: assigned,
            server_keep_alive_secs: (keep_alive != connect.keep_alive_secs).then_some(keep_alive),
            ..ConnackProperties::default()
        };
        let websocket = self.connections.get(id).is_some_and(|c| c.is_websocket());
        write_packet(turn.sockets, id, websocket, |out| {
            encode::connack(out, connect.version, present, ReasonCode::SUCCESS, &properties);
        });
        self.metrics.packets_sent.add(1);
    }
}
