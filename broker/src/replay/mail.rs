//! What subscribers and owners of partitions tell each other about replays.

use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::message::Message;

/// A replay of one core; never used again.
pub(crate) type ReplayId = u64;

/// Where a partition is to be read from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// The first record that is kept.
    Earliest,
    /// Behind everything that is flushed.
    Latest,
    /// The first record that was accepted at this time (Unix time, ms) or later.
    Time(u64),
    /// A record of the present epoch, whatever its number.
    Offset(u64),
    /// Where reading came to in an epoch.
    Position { epoch: u64, next: u64 },
}

/// What is to be read.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) start: Start,
    pub(crate) filter: Box<str>,
    /// Messages of this publisher are not (No Local).
    pub(crate) not_of: Option<Box<str>>,
    /// Whether user properties say where a message lies.
    pub(crate) says_where: bool,
}

/// A stored message on its way to a subscriber.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) message: Message,
    pub(crate) offset: u64,
    /// The epoch of the record.
    pub(crate) epoch: u64,
    /// When it was accepted (Unix time, ms).
    pub(crate) unix_ms: u64,
}

impl Stored {
    /// What it counts against the window.
    pub(crate) fn bytes(&self) -> u64 {
        self.message.memory_bytes() as u64
    }
}

/// A mail between the core of a subscriber and the owner of a partition.
#[derive(Debug)]
pub enum ReplayMail {
    /// To the owner: begin to read.
    Open(Box<Opening>),
    /// To the owner: the client has taken so much.
    Credit(Credit),
    /// To the owner: nothing more is wanted.
    Close(Source),
    /// To the subscriber: reading begins.
    Opened(Opened),
    /// To the subscriber: what was read.
    Batch(Batch),
}

/// Which partition for which replay of a core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Source {
    pub(crate) replay: ReplayId,
    /// How often the replay was begun again: what is under way for an earlier run is ignored.
    pub(crate) run: u32,
    pub(crate) partition: PartitionId,
}

/// See [`ReplayMail::Open`].
#[derive(Debug)]
pub struct Opening {
    pub(crate) source: Source,
    pub(crate) wanted: Wanted,
}

/// See [`ReplayMail::Credit`].
#[derive(Debug)]
pub struct Credit {
    pub(crate) source: Source,
    pub(crate) amount: super::part::Amount,
}

/// See [`ReplayMail::Opened`].
#[derive(Debug)]
pub struct Opened {
    pub(crate) source: Source,
    /// Where.
    pub(crate) next: u64,
    /// What is stored now ends here.
    pub(crate) stored_end: u64,
    /// What the client is to know.
    pub(crate) note: Option<String>,
}

/// See [`ReplayMail::Batch`].
#[derive(Debug)]
pub struct Batch {
    pub(crate) source: Source,
    pub(crate) stored: Vec<Stored>,
    /// Up to here was read.
    pub(crate) read: u64,
    /// Whether there was nothing more.
    pub(crate) at_end: bool,
    /// Ranges that could not be read: the client is to know.
    pub(crate) lost: Vec<String>,
}

impl Batch {
    /// Messages in it.
    pub(super) fn len(&self) -> u64 {
        self.stored.len() as u64
    }
}

#[cfg(test)]
pub(super) fn stored_for_tests(offset: u64, unix_ms: u64) -> Stored {
    use ringlane_dataplane::message::MessageHead;
    use ringlane_dataplane::time::Nanos;
    let head = MessageHead {
        publisher: 0,
        accepted_at: Nanos(0),
        expires_at: Nanos::NEVER,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: 0,
        retain: false,
    };
    let message = Message::new(head, "t", &[], b"", &mut Vec::new());
    Stored { message, offset, epoch: 1, unix_ms }
}
