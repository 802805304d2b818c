//! Connections: the life of one socket, from the first byte to the last.
//!
//! A connection's state ends the moment its end is decided; what the driver reports of its socket
//! afterwards finds nothing here.

mod end;
mod greeting;
mod link;
mod log_budget;
mod moving;
mod receive;

pub(crate) use end::End;
pub(crate) use link::{AliasTable, Delivery, Link, Written, remaining_secs, write_packet};
pub(crate) use log_budget::LogBudget;

use crate::lazy::{Empty, Lazy};
use crate::service::ListenerKind;
use crate::session::SessionId;
use crate::websocket;
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_dataplane::runtime::TimerId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::{ReasonCode, Version};
use std::collections::VecDeque;
use std::time::Duration;

/// How bytes of the socket become bytes of MQTT.
#[derive(Debug)]
pub(crate) enum Stream {
    /// They are the same.
    Plain,
    /// The header of the PROXY protocol is not complete; its bytes wait in the inbox.
    /// Then comes what the listener speaks.
    Proxied(ListenerKind),
    /// The WebSocket handshake is not complete; its bytes wait in the inbox.
    Upgrade,
    /// WebSocket frames.
    WebSocket(Box<websocket::State>),
}

impl Stream {
    /// What comes first on a listener, behind what a load balancer may say.
    pub(crate) fn begin(kind: ListenerKind) -> Self {
        match kind {
            ListenerKind::Tcp => Self::Plain,
            ListenerKind::WebSocket => Self::Upgrade,
        }
    }
}

/// How far the client has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// CONNECT is not complete.
    Greeting,
    /// CONNECT is complete and the client belongs to another core.
    Moving(CoreId),
    /// CONNECT waits until its session is in the log; `present` if the session was there before.
    Opening { session: SessionId, present: bool },
    /// CONNECT was accepted.
    Connected(SessionId),
}

/// An acknowledgement that is owed to the client, in the order of its PUBLISH packets
/// [MQTT-4.6.0-2], [MQTT-4.6.0-3].
#[derive(Debug)]
pub(crate) struct OwedAck {
    pub(crate) packet_id: u16,
    /// PUBREC rather than PUBACK.
    pub(crate) qos2: bool,
    pub(crate) ready: bool,
    pub(crate) reason: ReasonCode,
}

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// The acknowledgements that are owed to one client.
#[derive(Debug, Default)]
pub(crate) struct OwedAcks {
    pub(crate) queue: VecDeque<OwedAck>,
    /// Number of the first entry of the queue.
    pub(crate) base: u64,
    /// QoS 1 entries of the queue: they count against Receive Maximum.
    pub(crate) qos1: u32,
}

impl Empty for OwedAcks {
    fn empty() -> &'static Self {
        const { &Self { queue: VecDeque::new(), base: 0, qos1: 0 } }
    }
}

/// Topics by alias less one.
pub(crate) type Aliases = Vec<Option<Box<str>>>;

impl Empty for Aliases {
    fn empty() -> &'static Self {
        const { &Self::new() }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    pub(crate) stream: Stream,
    /// Bytes that make no whole packet yet, or that wait for back-pressure to end.
    pub(crate) inbox: Vec<u8>,
    /// Not read from; see `service::stall`.
    pub(crate) stalled: bool,
    pub(crate) heard_at: Nanos,
    /// Since when a quota has held up its publish, or [`Nanos::NEVER`].
    pub(crate) quota_since: Nanos,
    /// SUBACKs that wait for other cores.
    pub(crate) subacks_pending: u8,
    /// When CONNACK went out, in seconds of the process's clock: what is idle takes little.
    connected_secs: u32,
    /// 1.5 keep alive intervals in milliseconds [MQTT-3.1.2-22]; zero for none.
    silence_max_ms: u32,
    pub(crate) deadline: Option<TimerId>,
    pub(crate) version: Version,
    /// Topics by alias, as the client set them [MQTT5 §3.3.2.3.4].
    pub(crate) aliases: Lazy<Aliases>,
    pub(crate) acks: Lazy<OwedAcks>,
    pub(crate) ack_ready: bool,
}

impl Connection {
    pub(crate) fn new(stream: Stream, now: Nanos) -> Self {
        Self {
            phase: Phase::Greeting,
            stream,
            inbox: Vec::new(),
            stalled: false,
            heard_at: now,
            quota_since: Nanos::NEVER,
            subacks_pending: 0,
            connected_secs: 0,
            silence_max_ms: 0,
            deadline: None,
            version: Version::V311,
            aliases: Lazy::new(),
            acks: Lazy::new(),
            ack_ready: false,
        }
    }

    /// 1.5 keep alive intervals; zero for none.
    pub(crate) fn silence_max(&self) -> Duration {
        Duration::from_millis(u64::from(self.silence_max_ms))
    }

    /// CONNACK goes out.
    pub(crate) fn set_connected(&mut self, now: Nanos) {
        self.connected_secs = u32::try_from(now.0 / NANOS_PER_SEC).unwrap_or(u32::MAX);
    }

    /// For how long its client has been connected, in whole seconds.
    pub(crate) fn connected_for(&self, now: Nanos) -> Duration {
        Duration::from_secs((now.0 / NANOS_PER_SEC).saturating_sub(self.connected_secs.into()))
    }

    pub(crate) fn set_keep_alive(&mut self, seconds: u16) {
        self.silence_max_ms = u32::from(seconds) * 1500;
    }

    /// Gives back the room for acknowledgements that have been sent.
    pub(crate) fn release_idle(&mut self) {
        // Whoever waited for an entry has seen it go, so that numbers may begin anew.
        if self.acks.queue.is_empty() {
            self.acks.reset();
        }
    }

    pub(crate) fn websocket(&mut self) -> Option<&mut websocket::State> {
        match &mut self.stream {
            Stream::WebSocket(state) => Some(state),
            Stream::Plain | Stream::Proxied(_) | Stream::Upgrade => None,
        }
    }

    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self.stream, Stream::WebSocket(_))
    }
}

/// The connections of one core, by the slot that the driver gave them.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Option<(u32, Connection)>>,
}

impl Connections {
    pub(crate) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        if id.index() >= self.slots.len() {
            self.slots.resize_with(id.index() + 1, || None);
        }
        self.slots[id.index()] = Some((id.generation, connection));
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        match self.slots.get(id.index())? {
            Some((generation, connection)) if *generation == id.generation => Some(connection),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        match self.slots.get_mut(id.index())? {
            Some((generation, connection)) if *generation == id.generation => Some(connection),
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get(id)?;
        self.slots[id.index()].take().map(|(_, connection)| connection)
    }

    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter_map(|(slot, entry)| {
                let (generation, _) = entry.as_ref()?;
                Some(ConnectionId { slot: slot as u32, generation: *generation })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_by_its_own_generation_only() {
        let mut connections = Connections::default();
        let old = ConnectionId { slot: 3, generation: 0 };
        let new = ConnectionId { slot: 3, generation: 1 };
        connections.insert(old, Connection::new(Stream::Plain, Nanos(0)));
        assert!(connections.remove(new).is_none());
        assert!(connections.remove(old).is_some());
        connections.insert(new, Connection::new(Stream::Upgrade, Nanos(0)));
        assert!(connections.get(old).is_none());
        assert!(connections.get_mut(new).is_some());
        assert_eq!(connections.ids(), [new]);
    }
}
