//! State records: what a partition's log says of its sessions. `docs/formats/state.md` has the
//! layout with vectors.
//!
//! Every record is absolute: it names the state after it and not a difference, so that applying one
//! twice, or applying it to a checkpoint that was written while it was appended, ends in the same
//! state as applying it once.

use super::bytes::{Input, Output};
use super::postings::{Place, PostingRange};
use super::record_parts::{
    decode_bool, decode_cursor, decode_filters, decode_held, decode_offset, decode_open,
    decode_options, decode_pair, decode_place, decode_range_of_numbers, decode_replay,
    decode_retained, decode_sent, decode_sent_beside, encode_cursor, encode_filters, encode_held,
    encode_offset, encode_options, encode_pair, encode_place, encode_posting_of, encode_replay,
    encode_retained, encode_sent, encode_sent_beside, encode_will,
};
use crate::replay::Position;

/// The version of all bodies that this release writes, in their first byte.
const VERSION: u8 = 1;
/// An interval that never ends, and a time that never comes.
pub(super) const NEVER: u32 = u32::MAX;

/// Bytes of one range of postings.
pub(super) const RANGE_BYTES: usize = 41;
/// What records of one range may take in their log, so that sums do not run over.
pub(super) const BYTES_MAX: u64 = 1 << 48;

/// What kind of record it is; the number in its head. Below 16 are no state records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    SessionOpen = 16,
    SessionClosed = 17,
    SessionEnd = 18,
    WillGone = 19,
    Subscribe = 20,
    Unsubscribe = 21,
    Postings = 22,
    Positions = 23,
    Sent = 24,
    Received = 25,
    Completed = 26,
    Release = 27,
    Retained = 28,
    Incoming = 29,
    Delivered = 30,
    Epochs = 31,
    PostingsPart = 32,
    Replay = 33,
    ReplayEnd = 34,
    RetainedCursors = 35,
    SentBeside = 36,
    ReplayBegin = 37,
    ReplayDelivered = 38,
    DeliveredRanges = 39,
    GroupKept = 40,
    GroupHeld = 41,
}

impl Kind {
    const ALL: [Self; 26] = [
        Self::SessionOpen,
        Self::SessionClosed,
        Self::SessionEnd,
        Self::WillGone,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Postings,
        Self::Positions,
        Self::Sent,
        Self::Received,
        Self::Completed,
        Self::Release,
        Self::Retained,
        Self::Incoming,
        Self::Delivered,
        Self::Epochs,
        Self::PostingsPart,
        Self::Replay,
        Self::ReplayEnd,
        Self::RetainedCursors,
        Self::SentBeside,
        Self::ReplayBegin,
        Self::ReplayDelivered,
        Self::DeliveredRanges,
        Self::GroupKept,
        Self::GroupHeld,
    ];

    fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A will, as CONNECT brought it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WillBody<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    /// Forwarded properties in MQTT 5 wire form.
    pub(crate) properties: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) delay_secs: u32,
    pub(crate) message_expiry_secs: Option<u32>,
}

/// The options of a subscription [MQTT5 §3.8.3.1], without Retain Handling, which ends with SUBACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SubscriptionOptions {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// The subscription identifier, 0 for none.
    pub(crate) id: u32,
}

/// How far a partition has matched the log of another one: the records of one level, which become
/// committed in the order of their offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cursor {
    pub(crate) partition: u32,
    /// Records of the level `memory`; of `local_disk` otherwise.
    pub(crate) memory: bool,
    /// The epoch of that log when it was matched.
    pub(crate) epoch: u64,
    /// The first offset that is not matched.
    pub(crate) next: u64,
}

/// The new postings of one filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FilterPostings<'a> {
    pub(crate) filter: &'a str,
    pub(crate) ranges: Vec<PostingRange>,
}

/// A QoS 2 message on its way to a subscriber: enough to send the same PUBLISH again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SentBody {
    /// Its number among the postings of the session's partition; 0 for a message [`Beside`] them.
    pub(crate) posting: u64,
    pub(crate) place: Place,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
}

/// What a QoS 2 message is of that is no posting of its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beside {
    /// A retained message for a new subscription, or one of a subscription that has ended: it is
    /// not read again after a crash, but its packet identifier is released before it is used again.
    Unread,
    /// A replay, which the record's topic names by its filter part; one that has ended if that is
    /// empty.
    Replay,
    /// A shared group, by its keyed hash, which has to note that the message is not to be given to
    /// another member.
    Group(u64),
}

/// A retained message; cleared if the payload is empty [MQTT-3.3.1-6].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RetainedBody<'a> {
    /// The record that it comes from, and whether that is of the level `memory`.
    pub(crate) place: Place,
    pub(crate) memory: bool,
    /// Keyed hash of the publisher's client identifier.
    pub(crate) publisher: u64,
    /// Broker time when it was accepted, unix ms.
    pub(crate) accepted_ms: u64,
    /// Seconds from then on until it expires.
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) qos: u8,
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// A replay subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReplayBody {
    pub(crate) options: SubscriptionOptions,
    /// How far the client is done with each partition, in rising order.
    pub(crate) positions: Vec<Position>,
}

/// One state record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StateRecord<'a> {
    /// A client is connected. With `clean`, what was there before is gone.
    SessionOpen {
        client_id: &'a str,
        clean: bool,
        expiry_secs: u32,
        will: Option<WillBody<'a>>,
    },
    /// The connection ended; the session goes on for `expiry_secs` from then (unix ms).
    SessionClosed {
        client_id: &'a str,
        since_ms: u64,
        expiry_secs: u32,
        will_gone: bool,
    },
    SessionEnd {
        client_id: &'a str,
    },
    /// The will was published, or is not to be.
    WillGone {
        client_id: &'a str,
    },
    /// Messages with posting numbers below `since` are not for this subscription.
    Subscribe {
        client_id: &'a str,
        filter: &'a str,
        options: SubscriptionOptions,
        since: u64,
    },
    Unsubscribe {
        client_id: &'a str,
        filter: &'a str,
    },
    /// What was matched; and how far, in the same record.
    Postings {
        next: u64,
        cursors: Vec<Cursor>,
        filters: Vec<FilterPostings<'a>>,
    },
    /// Postings that the `Postings` record right behind it counts as its own: a record has a bound.
    PostingsPart {
        filters: Vec<FilterPostings<'a>>,
    },
    /// Everything below a session's posting number was acknowledged with QoS 1, or was `Sent`.
    Positions {
        positions: Vec<(&'a str, u64)>,
    },
    /// About to be sent with QoS 2 under this packet identifier.
    Sent {
        client_id: &'a str,
        packet_id: u16,
        sent: SentBody,
    },
    /// The same of a message that is no posting of the session.
    SentBeside {
        client_id: &'a str,
        name: &'a str,
        packet_id: u16,
        what: Beside,
        sent: SentBody,
    },
    /// PUBREC was seen.
    Received {
        client_id: &'a str,
        packet_id: u16,
    },
    /// PUBCOMP was seen, or a PUBREC that ends the exchange.
    Completed {
        client_id: &'a str,
        packet_id: u16,
    },
    /// An incoming QoS 2 identifier is free again.
    Release {
        client_id: &'a str,
        packet_id: u16,
    },
    Retained {
        topic: &'a str,
        retained: RetainedBody<'a>,
    },
    /// Checkpoints only: incoming QoS 2 identifiers that are not released.
    Incoming {
        client_id: &'a str,
        packet_ids: Vec<u16>,
    },
    /// Checkpoints only: QoS 2 postings at or above the position that were completed.
    Delivered {
        client_id: &'a str,
        postings: Vec<u64>,
    },
    /// A replay subscription, by its filter part, and how far it has come.
    Replay {
        client_id: &'a str,
        name: &'a str,
        replay: ReplayBody,
    },
    ReplayEnd {
        client_id: &'a str,
        name: &'a str,
    },
    /// A replay subscription was granted: what there was of its filter is gone.
    ReplayBegin {
        client_id: &'a str,
        name: &'a str,
        replay: ReplayBody,
    },
    /// Checkpoints only: messages at or above a replay's position that were completed with QoS 2, by
    /// partition and offset.
    ReplayDelivered {
        client_id: &'a str,
        name: &'a str,
        done: Vec<(u32, u64)>,
    },
    /// Postings at or above the position that are done with, as ranges from a first number up to one
    /// behind: of a shared group, and of sessions in checkpoints.
    DeliveredRanges {
        client_id: &'a str,
        ranges: Vec<(u64, u64)>,
    },
    /// A shared group, by its keyed hash, has noted that these messages were given to the session.
    GroupKept {
        client_id: &'a str,
        group: u64,
        places: Vec<Place>,
    },
    /// Checkpoints only: messages of shared groups that were completed with QoS 2 and that their group
    /// has not noted.
    GroupHeld {
        client_id: &'a str,
        held: Vec<(u64, Place)>,
    },
    /// Checkpoints only: the epochs of this log, with the first offset of each.
    Epochs {
        epochs: Vec<(u64, u64)>,
    },
    /// Checkpoints only: up to where retained messages of each log were applied.
    RetainedCursors {
        cursors: Vec<Cursor>,
    },
}

/// Why a state record cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum StateRecordError {
    /// A later release wrote it.
    #[error("kind {kind} of state record in version {version} is not known to this release")]
    Unknown { kind: u8, version: u8 },
    /// Its checksum is right and its content is not.
    #[error("state record of kind {kind} does not have the form of its kind")]
    Malformed { kind: u8 },
}

impl<'a> StateRecord<'a> {
    /// The kind, as in the record's head.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::SessionOpen { .. } => Kind::SessionOpen,
            Self::SessionClosed { .. } => Kind::SessionClosed,
            Self::SessionEnd { .. } => Kind::SessionEnd,
            Self::WillGone { .. } => Kind::WillGone,
            Self::Subscribe { .. } => Kind::Subscribe,
            Self::Unsubscribe { .. } => Kind::Unsubscribe,
            Self::Postings { .. } => Kind::Postings,
            Self::Positions { .. } => Kind::Positions,
            Self::Sent { .. } => Kind::Sent,
            Self::Received { .. } => Kind::Received,
            Self::Completed { .. } => Kind::Completed,
            Self::Release { .. } => Kind::Release,
            Self::Retained { .. } => Kind::Retained,
            Self::Incoming { .. } => Kind::Incoming,
            Self::Delivered { .. } => Kind::Delivered,
            Self::Epochs { .. } => Kind::Epochs,
            Self::PostingsPart { .. } => Kind::PostingsPart,
            Self::Replay { .. } => Kind::Replay,
            Self::ReplayEnd { .. } => Kind::ReplayEnd,
            Self::RetainedCursors { .. } => Kind::RetainedCursors,
            Self::SentBeside { .. } => Kind::SentBeside,
            Self::ReplayBegin { .. } => Kind::ReplayBegin,
            Self::ReplayDelivered { .. } => Kind::ReplayDelivered,
            Self::DeliveredRanges { .. } => Kind::DeliveredRanges,
            Self::GroupKept { .. } => Kind::GroupKept,
            Self::GroupHeld { .. } => Kind::GroupHeld,
        }
    }

    /// The client identifier of the record's head; empty where there is none.
    pub(crate) fn client_id(&self) -> &'a str {
        match self {
            Self::SessionOpen { client_id, .. }
            | Self::SessionClosed { client_id, .. }
            | Self::SessionEnd { client_id }
            | Self::WillGone { client_id }
            | Self::Subscribe { client_id, .. }
            | Self::Unsubscribe { client_id, .. }
            | Self::Sent { client_id, .. }
            | Self::Received { client_id, .. }
            | Self::Completed { client_id, .. }
            | Self::Release { client_id, .. }
            | Self::Incoming { client_id, .. }
            | Self::Delivered { client_id, .. }
            | Self::Replay { client_id, .. }
            | Self::SentBeside { client_id, .. }
            | Self::ReplayBegin { client_id, .. }
            | Self::ReplayDelivered { client_id, .. }
            | Self::DeliveredRanges { client_id, .. }
            | Self::GroupKept { client_id, .. }
            | Self::GroupHeld { client_id, .. }
            | Self::ReplayEnd { client_id, .. } => client_id,
            Self::Postings { .. }
            | Self::PostingsPart { .. }
            | Self::Positions { .. }
            | Self::Retained { .. }
            | Self::RetainedCursors { .. }
            | Self::Epochs { .. } => "",
        }
    }

    /// The same record of another client.
    pub(crate) fn of<'b>(self, client: &'b str) -> StateRecord<'b>
    where
        'a: 'b,
    {
        let mut record: StateRecord<'b> = self;
        match &mut record {
            StateRecord::SessionOpen { client_id, .. }
            | StateRecord::SessionClosed { client_id, .. }
            | StateRecord::SessionEnd { client_id }
            | StateRecord::WillGone { client_id }
            | StateRecord::Subscribe { client_id, .. }
            | StateRecord::Unsubscribe { client_id, .. }
            | StateRecord::Sent { client_id, .. }
            | StateRecord::Received { client_id, .. }
            | StateRecord::Completed { client_id, .. }
            | StateRecord::Release { client_id, .. }
            | StateRecord::Incoming { client_id, .. }
            | StateRecord::Delivered { client_id, .. }
            | StateRecord::Replay { client_id, .. }
            | StateRecord::SentBeside { client_id, .. }
            | StateRecord::ReplayBegin { client_id, .. }
            | StateRecord::ReplayDelivered { client_id, .. }
            | StateRecord::DeliveredRanges { client_id, .. }
            | StateRecord::GroupKept { client_id, .. }
            | StateRecord::GroupHeld { client_id, .. }
            | StateRecord::ReplayEnd { client_id, .. } => *client_id = client,
            StateRecord::Postings { .. }
            | StateRecord::PostingsPart { .. }
            | StateRecord::Positions { .. }
            | StateRecord::Retained { .. }
            | StateRecord::RetainedCursors { .. }
            | StateRecord::Epochs { .. } => {}
        }
        record
    }

    /// The topic of the record's head: a filter, or a topic name; empty where there is none.
    pub(crate) fn topic(&self) -> &'a str {
        match self {
            Self::Subscribe { filter, .. } | Self::Unsubscribe { filter, .. } => filter,
            Self::Retained { topic, .. } => topic,
            Self::Replay { name, .. }
            | Self::ReplayEnd { name, .. }
            | Self::ReplayBegin { name, .. }
            | Self::ReplayDelivered { name, .. }
            | Self::SentBeside { name, .. } => name,
            _ => "",
        }
    }

    /// Writes the body at the end of a buffer.
    pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
        let out = &mut Output(buffer);
        out.u8(VERSION);
        match self {
            Self::SessionOpen { clean, expiry_secs, will, .. } => {
                out.u8(u8::from(*clean) | u8::from(will.is_some()) << 1);
                out.u32(*expiry_secs);
                will.iter().for_each(|will| encode_will(out, will));
            }
            Self::SessionClosed { since_ms, expiry_secs, will_gone, .. } => {
                out.u8(u8::from(*will_gone));
                out.u32(*expiry_secs);
                out.u64(*since_ms);
            }
            Self::SessionEnd { .. }
            | Self::WillGone { .. }
            | Self::Unsubscribe { .. }
            | Self::ReplayEnd { .. } => {}
            Self::Subscribe { options, since, .. } => {
                out.u8(encode_options(options));
                out.u32(options.id);
                out.u64(*since);
            }
            Self::Postings { next, cursors, filters } => {
                out.u64(*next);
                out.list(cursors.iter(), encode_cursor);
                encode_filters(out, filters);
            }
            Self::PostingsPart { filters } => encode_filters(out, filters),
            Self::RetainedCursors { cursors } => out.list(cursors.iter(), encode_cursor),
            Self::Positions { positions } => {
                out.list(positions.iter(), encode_posting_of);
            }
            Self::Sent { packet_id, sent, .. } => {
                out.u16(*packet_id);
                encode_sent(out, sent);
            }
            Self::SentBeside { packet_id, what, sent, .. } => {
                out.u16(*packet_id);
                encode_sent_beside(out, *what, sent);
            }
            Self::Received { packet_id, .. }
            | Self::Completed { packet_id, .. }
            | Self::Release { packet_id, .. } => out.u16(*packet_id),
            Self::Retained { retained, .. } => encode_retained(out, retained),
            Self::Incoming { packet_ids, .. } => {
                out.list(packet_ids.iter(), |out, id| out.u16(*id));
            }
            Self::Delivered { postings, .. } => {
                out.list(postings.iter(), |out, posting| out.u64(*posting));
            }
            Self::Replay { replay, .. } | Self::ReplayBegin { replay, .. } => {
                encode_replay(out, replay);
            }
            Self::ReplayDelivered { done, .. } => out.list(done.iter(), encode_offset),
            Self::DeliveredRanges { ranges, .. } => out.list(ranges.iter(), encode_pair),
            Self::GroupKept { group, places, .. } => {
                out.u64(*group);
                out.list(places.iter(), encode_place);
            }
            Self::GroupHeld { held, .. } => out.list(held.iter(), encode_held),
            Self::Epochs { epochs } => out.list(epochs.iter(), encode_pair),
        }
    }

    /// Reads a record from its head's kind, client identifier and topic, and its body.
    ///
    /// # Errors
    /// What the release does not know, and what is not well-formed.
    pub(crate) fn decode(
        kind: u8,
        client_id: &'a str,
        topic: &'a str,
        body: &'a [u8],
    ) -> Result<Self, StateRecordError> {
        let version = body.first().copied().unwrap_or_default();
        let known = Kind::from_u8(kind).filter(|_| version == VERSION);
        let Some(known) = known else {
            return Err(StateRecordError::Unknown { kind, version });
        };
        let mut input = Input(&body[1..]);
        let record = decode_body(known, client_id, topic, &mut input);
        record.filter(|_| input.is_empty()).ok_or(StateRecordError::Malformed { kind })
    }
}

fn decode_body<'a>(
    kind: Kind,
    client_id: &'a str,
    topic: &'a str,
    input: &mut Input<'a>,
) -> Option<StateRecord<'a>> {
    Some(match kind {
        Kind::SessionOpen => decode_open(client_id, input)?,
        Kind::SessionClosed => {
            let will_gone = decode_bool(input)?;
            let (expiry_secs, since_ms) = (input.u32()?, input.u64()?);
            StateRecord::SessionClosed { client_id, since_ms, expiry_secs, will_gone }
        }
        Kind::SessionEnd => StateRecord::SessionEnd { client_id },
        Kind::WillGone => StateRecord::WillGone { client_id },
        Kind::Subscribe => {
            let options = decode_options(input)?;
            StateRecord::Subscribe { client_id, filter: topic, options, since: input.count()? }
        }
        Kind::Unsubscribe => StateRecord::Unsubscribe { client_id, filter: topic },
        Kind::Postings => StateRecord::Postings {
            next: input.count()?,
            cursors: input.list(21, decode_cursor)?,
            filters: decode_filters(input)?,
        },
        Kind::RetainedCursors => {
            StateRecord::RetainedCursors { cursors: input.list(21, decode_cursor)? }
        }
        Kind::PostingsPart => StateRecord::PostingsPart { filters: decode_filters(input)? },
        Kind::Positions => {
            let positions = input.list(10, |input| Some((input.text()?, input.count()?)))?;
            StateRecord::Positions { positions }
        }
        Kind::Sent => {
            StateRecord::Sent { client_id, packet_id: input.u16()?, sent: decode_sent(input)? }
        }
        Kind::Received => StateRecord::Received { client_id, packet_id: input.u16()? },
        Kind::Completed => StateRecord::Completed { client_id, packet_id: input.u16()? },
        Kind::Release => StateRecord::Release { client_id, packet_id: input.u16()? },
        Kind::Retained => StateRecord::Retained { topic, retained: decode_retained(input)? },
        Kind::Incoming => {
            StateRecord::Incoming { client_id, packet_ids: input.list(2, |input| input.u16())? }
        }
        Kind::Delivered => {
            StateRecord::Delivered { client_id, postings: input.list(8, |input| input.count())? }
        }
        Kind::SentBeside => {
            let packet_id = input.u16()?;
            let (what, sent) = decode_sent_beside(input)?;
            StateRecord::SentBeside { client_id, name: topic, packet_id, what, sent }
        }
        Kind::DeliveredRanges => {
            let ranges = input.list(16, decode_range_of_numbers)?;
            StateRecord::DeliveredRanges { client_id, ranges }
        }
        Kind::GroupKept => {
            let group = input.u64()?;
            StateRecord::GroupKept { client_id, group, places: input.list(20, decode_place)? }
        }
        Kind::GroupHeld => StateRecord::GroupHeld { client_id, held: input.list(28, decode_held)? },
        Kind::Replay => {
            StateRecord::Replay { client_id, name: topic, replay: decode_replay(input)? }
        }
        Kind::ReplayBegin => {
            StateRecord::ReplayBegin { client_id, name: topic, replay: decode_replay(input)? }
        }
        Kind::ReplayDelivered => {
            let done = input.list(12, decode_offset)?;
            StateRecord::ReplayDelivered { client_id, name: topic, done }
        }
        Kind::ReplayEnd => StateRecord::ReplayEnd { client_id, name: topic },
        Kind::Epochs => StateRecord::Epochs { epochs: input.list(16, decode_pair)? },
    })
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
