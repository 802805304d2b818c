//! What one core tells another.
//!
//! A mail names a record or carries a message; it never names the sessions that shall get it: the
//! receiving core matches again in its own turn, so that a takeover and a fan-out cannot cross.

use crate::admin::Ask;
use crate::durable::Place;
use crate::groups::{Errand, GroupId, GroupKey, Member, MemberKey, Seq};
use crate::replay::mail::ReplayMail;
use crate::replicated::control_mail::ToCore;
use crate::replicated::mail::CoreMail;
use crate::session::SessionId;
use crate::websocket;
use ringlane_dataplane::ids::{ListenerId, Offset, PartitionId};
use ringlane_dataplane::message::Message;
use ringlane_dataplane::routing::RecordId;
use ringlane_mqtt::{QoS, Version};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A mail between two cores, or from the control thread.
#[derive(Debug)]
pub enum Mail {
    /// A committed record: match it, or keep it as retained message, or both.
    Fanout {
        /// The record's message.
        message: Message,
        /// Where it lies.
        record: RecordId,
        /// Whether sessions of the receiving core may want it.
        deliver: bool,
        /// Whether the receiving core owns the topic of this retained message.
        retain: bool,
    },
    /// QoS 0 that is in no log.
    Volatile(Volatile),
    /// The owner of a topic has applied a retained message.
    RetainApplied {
        /// The publisher's partition.
        partition: PartitionId,
        /// The record.
        offset: Offset,
        /// False if the store was at its bound.
        stored: bool,
    },
    /// The first session of the sending core holds this filter now.
    FilterAdd {
        /// The sender's announcement number, rising by one.
        seq: u64,
        /// The filter.
        filter: Box<str>,
    },
    /// The last holder of this filter on the sending core is gone.
    FilterRemove {
        /// The filter.
        filter: Box<str>,
    },
    /// Of the sessions that the sender had before its start, all filters were told, and all memberships in
    /// shared groups.
    Settled,
    /// How far partitions of the sender are committed: what the receiver was to be told of them
    /// below that, it was.
    LogMarks {
        /// Partitions with changes.
        marks: Vec<LogMark>,
    },
    /// What a partition of the sender needs of the logs of all partitions: the rest may go.
    LogNeeds {
        /// Which one.
        partition: PartitionId,
        /// The lowest offset that it needs, by partition.
        needs: Vec<u64>,
    },
    /// All announcements of the receiver below `seq` are installed at the sender.
    FilterAck {
        /// The first announcement that is not installed.
        seq: u64,
    },
    /// A connection moves to the core that owns its client identifier.
    Adopt(Box<Adoption>),
    /// About retained messages that a new subscription gets.
    Retained(Box<RetainedMail>),
    /// A message for a member of a shared-subscription group.
    GroupDeliver {
        /// The member's session on the receiving core.
        session: SessionId,
        /// The message.
        message: Message,
        /// The QoS to deliver with.
        qos: QoS,
        /// What the member answers with.
        errand: Box<Errand>,
    },
    /// A member is done with a message of a group.
    GroupDone {
        /// The group on the receiving core.
        group: GroupId,
        /// The member.
        member: MemberKey,
        /// The message.
        seq: Seq,
    },
    /// Everything else about groups.
    Group(Box<GroupMail>),
    /// A session of the sending core can take no more messages of this filter.
    BacklogFull {
        /// The filter.
        filter: Box<str>,
    },
    /// The opposite of `BacklogFull`, once for each of them.
    BacklogFree {
        /// The filter.
        filter: Box<str>,
    },
    /// About subscriptions that read again.
    Replay(Box<ReplayMail>),
    /// A session of the sending core wants records of a log of the receiver.
    Fetch(Box<Fetch>),
    /// What was found of them.
    Fetched(Box<Fetched>),
    /// About replicas, in a cluster.
    Cluster(Box<CoreMail>),
    /// Nobody waits for the answer to a [`Fetch`] any more.
    Unfetch(Unfetch),
    /// From the control thread.
    Control(Box<ControlMail>),
}

/// Who wants records of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchBy {
    /// A session of the asking core.
    Session(SessionId),
    /// A shared-subscription group of the asking core.
    Group(GroupId),
}

/// Names a [`Fetch`] of the sending core.
#[derive(Debug)]
pub struct Unfetch {
    /// As in the question.
    pub by: FetchBy,
    /// As in the question.
    pub request: u64,
    /// As in the question.
    pub partition: PartitionId,
}

/// Records that a session or a group is owed, or that are to be sent again.
#[derive(Debug)]
pub struct Fetch {
    /// Who asks.
    pub by: FetchBy,
    /// The asking core's number for it, which comes back.
    pub request: u64,
    /// Whose log.
    pub partition: PartitionId,
    /// Epochs and offsets of the records, in the order in which they are wanted.
    pub places: Vec<(u64, Offset)>,
    /// No more is read once the messages found take this much.
    pub bytes_max: usize,
}

/// The answer to a [`Fetch`].
#[derive(Debug)]
pub struct Fetched {
    /// As in the question.
    pub by: FetchBy,
    /// As in the question.
    pub request: u64,
    /// As in the question.
    pub partition: PartitionId,
    /// What became of the first of the records, at least of one.
    pub found: Vec<Found>,
}

/// What became of a record that was asked for.
#[derive(Debug)]
pub enum Found {
    /// The message, and when it was accepted (Unix time, ms).
    Message(Message, u64),
    /// It is not in the log any more, or never was flushed (level `memory`).
    Gone,
    /// It cannot be read.
    Damaged,
}

/// How far one partition is committed, per level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogMark {
    /// Which one.
    pub partition: PartitionId,
    /// Every publish of the level `memory` below is committed.
    pub memory: Offset,
    /// Every publish of the level `local_disk` below is committed.
    pub disk: Offset,
}

/// QoS 0 messages on their way to another core: one, or a run of one topic.
#[derive(Debug)]
pub struct Volatile {
    /// The message. Of a run, the payload is its packets, one behind the other.
    pub message: Message,
    /// What its packets are, if it is a run.
    pub run: Option<RunPackets>,
}

/// The packets of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunPackets {
    /// The version that they are written in.
    pub version: Version,
    /// How many there are.
    pub count: u32,
}

impl Volatile {
    /// Messages in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.run.map_or(1, |run| run.count as usize)
    }
}

/// What the control thread asks of a core.
#[derive(Debug)]
pub enum ControlMail {
    /// Publish a message of the broker's own, QoS 0.
    Publish {
        /// The topic name.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
        /// Whether it is retained.
        retain: bool,
    },
    /// Disconnect all clients, then stop.
    Drain,
    /// An operator wants to know or to delete something.
    Ask(Ask),
    /// About the cluster that this node is part of.
    Cluster(Box<ToCore>),
}

/// A connection on its way from the core that accepted it to the one that owns its client.
#[derive(Debug)]
pub struct Adoption {
    /// The socket, with no operation in flight.
    pub socket: OwnedFd,
    /// Where it came in.
    pub listener: ListenerId,
    /// The peer's address.
    pub peer: SocketAddr,
    /// MQTT bytes read so far: the whole CONNECT and what came behind it.
    pub inbox: Vec<u8>,
    /// The state of the WebSocket, if the connection is one.
    pub websocket: Option<Box<websocket::State>>,
}

/// The pull protocol for retained messages: one batch, one answer.
#[derive(Debug)]
pub enum RetainedMail {
    /// Asks the owner for the next batch.
    Query {
        /// The subscriber's session on the asking core.
        session: SessionId,
        /// Which of the session's queries.
        query: u32,
        /// The filter.
        filter: Box<str>,
        /// Resume strictly after this topic.
        after: Option<Box<str>>,
    },
    /// A batch.
    Answer {
        /// As in the query.
        session: SessionId,
        /// As in the query.
        query: u32,
        /// Retained messages with the records they come from.
        messages: Vec<(Message, RecordId)>,
        /// Where to resume, or `None` if the owner has no more.
        after: Option<Box<str>>,
    },
    /// Asks a publisher's core to answer once it has mailed all that it has committed.
    Probe(ProbeFor),
    /// Everything that was committed at the probed core before the probe has been mailed.
    ProbeDone(ProbeFor),
}

/// Who waits for a probe's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeFor {
    /// A subscriber's core, before it delivers a batch.
    Subscriber {
        /// The session.
        session: SessionId,
        /// Which of the session's queries.
        query: u32,
    },
    /// A topic's owner, before it answers the first batch of a query.
    Owner {
        /// Which of the owner's waiting queries.
        token: u32,
    },
}

/// The life of shared-subscription groups.
#[derive(Debug)]
pub enum GroupMail {
    /// A session subscribes.
    Join {
        /// The group.
        key: GroupKey,
        /// The member.
        member: Member,
        /// The subscriber's pending SUBACK.
        suback: u64,
    },
    /// The group's filter is installed on every core.
    Joined {
        /// As in the join.
        suback: u64,
        /// The session.
        session: SessionId,
    },
    /// A session unsubscribes or ends.
    Leave {
        /// The group.
        key: GroupKey,
        /// The member.
        member: MemberKey,
    },
    /// A member's connection came or went.
    Presence {
        /// The group.
        key: GroupKey,
        /// The member.
        member: MemberKey,
        /// Messages that it takes at once; 0 while it is away.
        window: u16,
    },
    /// The log of a member's session has a QoS 2 message: no other member gets it, whatever happens.
    Taken {
        /// The group's keyed hash.
        group: u64,
        /// The member.
        member: MemberKey,
        /// The message, unless that was before the start.
        seq: Option<Seq>,
        /// Where it lies.
        place: Place,
    },
    /// The log of the group says so, too.
    Kept {
        /// The member's session.
        session: SessionId,
        /// The group's keyed hash.
        group: u64,
        /// The messages.
        places: Vec<Place>,
    },
    /// A member gives a message back undelivered: another one shall get it.
    Return {
        /// The group.
        group: GroupId,
        /// The member.
        member: MemberKey,
        /// The message's place in the order of its group.
        seq: Seq,
        /// Where it lies in the log, if it does.
        place: Option<Place>,
        /// The message.
        message: Message,
    },
}
