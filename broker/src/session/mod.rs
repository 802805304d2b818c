//! Sessions: what outlives a connection.
//!
//! A session lives on the core that owns its client identifier's partition, and so does every
//! connection of that client: a takeover is a change of one field on one core.

mod client_id;
mod lifecycle;
mod outbound;
mod packet_ids;
mod store;
mod subscriptions;
mod will;

pub(crate) use client_id::ClientId;
pub(crate) use outbound::{IN_STEP, Inflight, NOT_POSTED, Outbound, Pending, SubscriptionIds};
pub(crate) use packet_ids::PacketIds;
pub(crate) use store::SessionStore;
pub(crate) use subscriptions::Subscriptions;
pub(crate) use will::WillMessage;

use crate::connection::Link;
use crate::groups::GroupKey;
use crate::lazy::{Empty, Lazy};
use crate::retained::Priming;
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::runtime::TimerId;
use ringlane_mqtt::QoS;
use std::rc::Rc;

/// A session of one core: a slot and the generation that tells its users apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionId {
    /// Position in the core's session table.
    pub slot: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

/// The session expiry interval that never passes [MQTT5 §3.1.2.11.2].
pub(crate) const NEVER_EXPIRES: u32 = u32::MAX;

/// What a session holds of one of its subscriptions.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) qos: QoS,
    pub(crate) kind: SubscriptionKind,
}

/// Where the subscription is matched.
#[derive(Debug)]
pub(crate) enum SubscriptionKind {
    /// In this core's tree, at this position of the filter's list.
    Plain { position: u32 },
    /// By the group's owner.
    Shared { key: Rc<GroupKey> },
}

/// Whether a session is on its core's upkeep list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Upkeep {
    /// It is not: it was there before the broker, and nobody has come for it; see `durable::settle`.
    Unsettled,
    /// It is not: it has nothing in flight, and no room for it.
    Off,
    /// It has sent or received with QoS 1 or 2 since the last look.
    Busy,
    /// It was listed and had not.
    Quiet,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) client_id: ClientId,
    pub(crate) client_hash: u64,
    pub(crate) partition: PartitionId,
    /// Seconds that the session outlives its connection.
    pub(crate) expiry_secs: u32,
    /// The connection, while there is one.
    pub(crate) link: Option<Link>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) outbound: Lazy<Outbound>,
    /// QoS 2 packet identifiers received and not yet released [MQTT-4.3.3-10].
    pub(crate) received_qos2: Lazy<PacketIds>,
    pub(crate) will: Option<Box<WillMessage>>,
    pub(crate) will_timer: Option<TimerId>,
    pub(crate) expiry_timer: Option<TimerId>,
    /// New subscriptions whose retained messages are still on their way.
    pub(crate) primings: Lazy<Vec<Priming>>,
    pub(crate) next_query: u32,
    /// Whether the other cores were told that this session's backlog is full.
    pub(crate) backlog_full: bool,
    /// Whether its buffers are looked after; see `delivery::upkeep`.
    pub(crate) upkeep: Upkeep,
    /// Whether its partition's log knows it; see `durable`.
    pub(crate) recorded: bool,
    /// Whether its position may have changed since it was recorded.
    pub(crate) moved: bool,
}

impl Empty for Vec<Priming> {
    fn empty() -> &'static Self {
        const { &Self::new() }
    }
}

impl Session {
    pub(crate) fn new(
        id: SessionId,
        client_id: &str,
        client_hash: u64,
        partition: PartitionId,
    ) -> Self {
        Self {
            id,
            client_id: client_id.into(),
            client_hash,
            partition,
            expiry_secs: 0,
            link: None,
            subscriptions: Subscriptions::new(),
            outbound: Lazy::new(),
            received_qos2: Lazy::new(),
            will: None,
            will_timer: None,
            expiry_timer: None,
            primings: Lazy::new(),
            next_query: 0,
            backlog_full: false,
            upkeep: Upkeep::Off,
            recorded: false,
            moved: false,
        }
    }

    /// Gives back the room for messages that have been and gone.
    pub(crate) fn release_idle(&mut self) {
        if self.outbound.is_idle() {
            self.outbound.reset();
        }
        if self.received_qos2.len() == 0 {
            self.received_qos2.reset();
        }
    }

    /// Whether a live message is left to the log, where it is posted: the session is away, or
    /// behind.
    pub(crate) fn leaves_to_log(&self, posting: u64) -> bool {
        let frontier = self.outbound.frontier();
        let away = self.link.is_none() && frontier == IN_STEP;
        posting != NOT_POSTED && (away || frontier <= posting)
    }

    /// Whether its absence does not count yet.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.upkeep == Upkeep::Unsettled
    }

    /// Whether its QoS 2 exchanges are in the log.
    pub(crate) fn records_exchanges(&self) -> bool {
        self.recorded && self.is_persistent()
    }

    /// Whether messages are kept for the session while no connection is there.
    pub(crate) fn is_persistent(&self) -> bool {
        self.expiry_secs > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle client's memory is these two and a few words in the tables beside them.
    #[test]
    fn what_an_idle_client_takes_is_small() {
        assert!(size_of::<Option<Session>>() <= 168, "{}", size_of::<Option<Session>>());
        let connection = size_of::<Option<(u32, crate::connection::Connection)>>();
        assert!(connection <= 112, "{connection}");
    }
}
