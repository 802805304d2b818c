//! Shared-subscription groups [MQTT5 §4.8.2].
//!
//! A group (share name, filter) has one owner on one core. It subscribes like a session, picks a
//! connected member with a free window for each message, and keeps what is pending when there is
//! none. Members answer for every message: done, or given back.

mod group;
mod member;
mod owner;
mod store;

pub(crate) use group::{Dispatch, Group, Offered};
pub(crate) use member::queue_ticket;
pub(crate) use store::GroupStore;

use crate::replay;
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
}

/// What a member needs to answer for a message.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The core that owns the group.
    pub owner: CoreId,
    /// The group.
    pub group: GroupId,
    /// The message's number in the group.
    pub seq: u64,
    /// The member's subscription identifier, 0 for none.
    pub subscription_id: u32,
    /// The RETAIN flag to deliver with.
    pub retain: bool,
}

/// Who is told when a session is done with a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Errand {
    /// The owner of a shared-subscription group.
    Group(Ticket),
    /// A replay of the session.
    Replay(replay::Ticket),
}

/// Messages that a member may hold unanswered once it has answered as many: enough to cover a turn
/// of both cores, few enough that a member that stalls later holds little back from the others.
pub(crate) const MEMBER_WINDOW: u16 = 64;
