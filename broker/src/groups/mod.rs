//! Shared-subscription groups [MQTT5 §4.8.2].
//!
//! A group (share name, filter) has one owner on one core. It subscribes like a session, picks a
//! connected member with a free window for each message, and keeps what is pending when there is
//! none. Members answer for every message: done, or given back.
//!
//! A group with a member whose session outlives its connection is in the log of its partition, as a
//! session under a name that no client can have: with its filter, its position, and the postings
//! above that which are done with (`log`, `durable`). What waits while nobody is there, and what
//! does not fit into memory, is read from the log (`read`), as sessions do (`durable::catch_up`). Where that is
//! too much, what has expired is let go of (`expiring`).
//!
//! QoS 2 is handed over: once the member's log has the exchange, the message is the member's, and the
//! group has only to note that. Until the group's log has noted it the member remembers the message,
//! also when it is completed, and says so at the next start.

mod durable;
mod expiring;
mod group;
mod log;
mod member;
mod owner;
mod read;
mod store;

pub(crate) use durable::{GroupsAtStart, is_group};
pub(crate) use group::{Dispatch, Group, Offered};
pub(crate) use log::GroupLog;
pub(crate) use member::queue_ticket;
pub(crate) use store::GroupStore;

use crate::durable::Place;
use crate::replay::Ticket as ReplayTicket;
use crate::session::SessionId;
use ringlane_dataplane::ids::CoreId;
use ringlane_mqtt::QoS;

/// What names a group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GroupKey {
    /// The share name.
    pub name: Box<str>,
    /// The filter, without `$share/{name}/`.
    pub filter: Box<str>,
}

/// A group of one core: a slot and the generation that tells its users apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupId {
    /// Position in the owner's table.
    pub slot: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

/// A message's place in the order of its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Seq {
    /// Its posting number in the group's partition, or the last one that was there before it.
    pub at: u64,
    /// 0 if it is posted; rising among those that are not.
    pub beside: u64,
}

impl Seq {
    /// A posted message.
    pub(crate) fn posted(at: u64) -> Self {
        Self { at, beside: 0 }
    }

    /// Its posting number, if it has one.
    pub(crate) fn posting(self) -> Option<u64> {
        (self.beside == 0).then_some(self.at)
    }
}

/// What names a member: a session of a core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemberKey {
    /// The core of the session.
    pub core: CoreId,
    /// The session.
    pub session: SessionId,
}

/// A member as its subscription made it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The session.
    pub key: MemberKey,
    /// The granted QoS [MQTT-4.8.2-3].
    pub qos: QoS,
    /// The subscription identifier, 0 for none.
    pub subscription_id: u32,
    /// Whether RETAIN is forwarded as published.
    pub retain_as_published: bool,
    /// Messages that it takes at once; 0 while it is away.
    pub window: u16,
    /// Whether its session outlives the broker.
    pub is_durable: bool,
}

/// What a member needs to answer for a message.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The core that owns the group.
    pub owner: CoreId,
    /// The group.
    pub group: GroupId,
    /// The group's keyed hash.
    pub hash: u64,
    /// The message's place in the order of the group.
    pub seq: Seq,
    /// Where it lies in the log, if it is posted.
    pub(crate) place: Option<Place>,
    /// The member's subscription identifier, 0 for none.
    pub subscription_id: u32,
    /// The RETAIN flag to deliver with.
    pub retain: bool,
}

/// Who is told when a session is done with a message.
#[derive(Clone, Copy, Debug)]
pub enum Errand {
    /// The owner of a shared-subscription group.
    Group(Ticket),
    /// A replay of the session.
    Replay(ReplayTicket),
}

/// Messages that a member may hold unanswered once it has answered as many: enough to cover a turn
/// of both cores, few enough that a member that stalls later holds little back from the others.
pub(crate) const MEMBER_WINDOW: u16 = 64;
