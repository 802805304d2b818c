//! The batch buffer: what a partition accepts is copied into it once, one message behind the
//! other, and everybody who reads the messages reads them there.
//!
//! A batch is filled by its partition alone; after that it never changes, and each handle on one
//! of its messages keeps all of it. It has a fixed size, and the pool of its core takes it back
//! when the last handle has gone, so that a steady flow allocates nothing. A message too large for
//! that has a batch of its own, which goes with its last handle.
//!
//! In a partition with a log the bytes of a batch are its body on disk ([`crate::log::record`]):
//! the disk writes them from where the subscribers read them, and links send them from there. So that a device can,
//! they lie in a few large pieces of memory ([`Arena`]).

mod arena;
mod raw;
mod shelf;

pub use arena::Arena;
pub use raw::{Arrived, Foreign};

pub(crate) use raw::Seen;

use crate::ids::Offset;
use crate::log::record::{self, RecordFlags, RecordHead, RecordKind, RecordSeed, Variable};
use crate::message::{Charge, Message, MessageHead, MessageMeter};
use crate::time::Nanos;
use arena::Bytes;
use shelf::Shelf;
use triomphe::Arc;

/// How much goes into a batch. The first batch of a turn is a small one, so that few messages do
/// not hold memory that is made for many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    Small,
    Large,
    /// As much as its one message needs. No pool takes it back.
    Own,
}

impl Size {
    /// Bytes of topic names.
    const fn topic_bytes(self) -> usize {
        match self {
            Self::Small => 512,
            Self::Large => 8 * 1024,
            Self::Own => 0,
        }
    }

    /// Bytes of records.
    const fn bytes(self) -> usize {
        match self {
            Self::Small => 2 * 1024,
            Self::Large => 48 * 1024,
            Self::Own => 0,
        }
    }

    /// Messages.
    const fn records(self) -> usize {
        match self {
            Self::Small => 8,
            Self::Large => 256,
            Self::Own => 1,
        }
    }

    /// Memory of one batch.
    const fn memory_bytes(self) -> usize {
        self.topic_bytes() + self.bytes() + self.records() * size_of::<Record>()
    }

    fn fits(self, parts: &Parts<'_>) -> bool {
        parts.topic.len() <= self.topic_bytes() && parts.record_bytes() <= self.bytes()
    }
}

/// Messages above this size get a batch of their own: a slow reader would hold much more than it
/// reads, and the copy costs more than the allocation.
const RECORD_BYTES_MAX: usize = 8 * 1024;
/// Batches looked at for handles that have gone, for each one that is given out.
const LOOKS: usize = 4;
/// A body on disk is padded with zeros to a multiple of this.
const ALIGN: usize = 8;

/// Where a record has to be for it to be committed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Accepted by the owning core. Survives nothing.
    Memory,
    /// Flushed on this node. Survives the end of the process and the loss of power.
    LocalDisk,
}

/// What the acknowledgement of a record promises: where the record is, and whether a majority of
/// the replicas has it there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Promise {
    /// Where it is.
    pub level: Level,
    /// Whether a majority of the replicas has it there, and not this node alone.
    pub quorum: bool,
}

impl From<Level> for Promise {
    fn from(level: Level) -> Self {
        Self { level, quorum: false }
    }
}

#[derive(Debug)]
struct Record {
    head: MessageHead,
    topic_at: u32,
    bytes_at: u32,
    payload_bytes: u32,
    kind: RecordKind,
    level: Level,
}

/// A message as its parts, on its way into a batch. The lengths in the head are set from them.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The head.
    pub head: MessageHead,
    /// The publisher's client identifier, UTF-8; what is in no log does not keep it.
    pub client_id: &'a [u8],
    /// The packet identifier of a QoS 2 publish, else 0.
    pub packet_id: u16,
    /// The broker's time, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The topic name.
    pub topic: &'a str,
    /// The properties that are forwarded, in MQTT 5 wire form.
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

impl Parts<'_> {
    /// Bytes that it has on disk.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        self.variable().record_bytes()
    }

    fn variable(&self) -> Variable<'_> {
        let Self { client_id, topic, properties, payload, .. } = *self;
        Variable { client_id, topic, properties, payload }
    }

    fn expiry_secs(&self) -> u32 {
        if self.head.expires_at == Nanos::NEVER {
            return record::EXPIRY_NONE;
        }
        let secs = self.head.expires_at.since(self.head.accepted_at).as_secs();
        secs.min(u64::from(record::EXPIRY_NONE - 1)) as u32
    }

    fn flags(&self, entry: &Entry) -> RecordFlags {
        let MessageHead { qos, retain, .. } = self.head;
        let mut flags = RecordFlags::new(qos, retain);
        if entry.is_will {
            flags = flags.with_will();
        }
        if entry.promise.level == Level::Memory {
            flags = flags.with_memory();
        }
        if qos == 0 && !retain { flags.with_captured() } else { flags }
    }
}

/// What a record is beside the parts of its message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: RecordKind,
    pub(crate) promise: Promise,
    /// Whether it is the will of its client.
    pub(crate) is_will: bool,
    /// If it goes into a log.
    pub(crate) logged: Option<Logged>,
}

/// A record's place in its log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    pub(crate) offset: Offset,
    pub(crate) epoch: u64,
}

/// Messages one behind the other.
#[derive(Debug)]
pub struct Batch {
    records: Vec<Record>,
    /// Kept apart, so that a name need not be checked again when it is read.
    topics: String,
    bytes: Bytes,
    /// Bytes of the body without its padding; 0 until it is sealed.
    body_bytes: u32,
    memory_records: u32,
    /// Whether a majority is to have some record, of [`Level::Memory`] and of [`Level::LocalDisk`].
    quorum: [bool; 2],
    /// Records that came with their bytes and are in no other list ([`BatchPool::copy_records`]).
    raw_records: u32,
    /// Whether those are known to be messages and nothing else ([`RecordHead::is_plain`]).
    is_plain: bool,
    size: Size,
    _charge: Option<Charge>,
}

impl Batch {
    fn new(size: Size, bytes: Bytes) -> Self {
        Self::with_room(size, size.topic_bytes(), bytes, None)
    }

    fn own(parts: &Parts<'_>, meter: &'static MessageMeter) -> Self {
        let (topic, bytes) = (parts.topic.len(), parts.record_bytes());
        let charge = Charge::new(meter, (topic + bytes + size_of::<Self>()) as u64);
        Self::with_room(Size::Own, topic, Arena::own(bytes + ALIGN), Some(charge))
    }

    fn with_room(size: Size, topic: usize, bytes: Bytes, charge: Option<Charge>) -> Self {
        Self {
            records: Vec::with_capacity(size.records()),
            topics: String::with_capacity(topic),
            bytes,
            body_bytes: 0,
            memory_records: 0,
            quorum: [false; 2],
            raw_records: 0,
            is_plain: false,
            size,
            _charge: charge,
        }
    }

    fn clear(&mut self) {
        self.records.clear();
        self.topics.clear();
        self.bytes.clear();
        self.body_bytes = 0;
        self.memory_records = 0;
        self.quorum = [false; 2];
        self.raw_records = 0;
        self.is_plain = false;
    }

    /// Messages in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len() + self.raw_records as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body as it is on disk, padded with zeros to a multiple of 8. Only of a batch that is
    /// sealed and was made for a log.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that its body lies in.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        self.bytes.arena()
    }

    /// Bytes of the body without its padding.
    #[must_use]
    pub fn body_bytes(&self) -> u32 {
        self.body_bytes
    }

    /// Records that are committed as soon as they are accepted.
    pub(crate) fn memory_records(&self) -> u32 {
        self.memory_records
    }

    /// Whether a majority of the replicas is to have its records of a level.
    pub(crate) fn needs_quorum(&self, level: Level) -> bool {
        self.quorum[level as usize]
    }

    pub(crate) fn level(&self, index: u32) -> Level {
        self.record(index).level
    }

    pub(crate) fn kind(&self, index: u32) -> RecordKind {
        self.record(index).kind
    }

    /// Nothing comes behind what is in it, all of which is in a log: checksums and pads the body.
    pub(crate) fn seal(&mut self, seed: RecordSeed) {
        record::put_checksums(seed, &mut self.bytes);
        self.body_bytes = self.bytes.len() as u32;
        self.bytes.pad(ALIGN);
    }

    fn has_room(&self, parts: &Parts<'_>) -> bool {
        self.records.len() < self.records.capacity()
            && self.topics.capacity() - self.topics.len() >= parts.topic.len()
            && self.bytes.room() >= parts.record_bytes() + ALIGN
    }

    fn push(&mut self, parts: &Parts<'_>, entry: &Entry) {
        let mut head = parts.head;
        head.topic_bytes = parts.topic.len() as u16;
        head.properties_bytes = parts.properties.len() as u32;
        let topic_at = self.topics.len() as u32;
        self.topics.push_str(parts.topic);
        match &entry.logged {
            Some(logged) => self.encode(parts, entry, logged),
            None => {
                self.bytes.extend_from_slice(parts.properties);
                self.bytes.extend_from_slice(parts.payload);
            }
        }
        let tail = parts.properties.len() + parts.payload.len();
        let Promise { level, quorum } = entry.promise;
        self.memory_records += u32::from(level == Level::Memory);
        self.quorum[level as usize] |= quorum;
        self.records.push(Record {
            head,
            topic_at,
            bytes_at: (self.bytes.len() - tail) as u32,
            payload_bytes: parts.payload.len() as u32,
            kind: entry.kind,
            level,
        });
    }

    fn encode(&mut self, parts: &Parts<'_>, entry: &Entry, logged: &Logged) {
        let is_state = entry.kind.is_state();
        let head = RecordHead {
            offset: logged.offset,
            unix_ms: parts.unix_ms,
            epoch: logged.epoch,
            kind: entry.kind,
            flags: if is_state { RecordFlags::default() } else { parts.flags(entry) },
            packet_id: parts.packet_id,
            expiry_secs: parts.expiry_secs(),
        };
        record::put(&head, &parts.variable(), &mut self.bytes);
    }

    fn record(&self, index: u32) -> &Record {
        &self.records[index as usize]
    }

    pub(crate) fn head(&self, index: u32) -> &MessageHead {
        &self.record(index).head
    }

    pub(crate) fn topic(&self, index: u32) -> &str {
        let record = self.record(index);
        let at = record.topic_at as usize;
        &self.topics[at..at + usize::from(record.head.topic_bytes)]
    }

    pub(crate) fn properties(&self, index: u32) -> &[u8] {
        let record = self.record(index);
        let at = record.bytes_at as usize;
        &self.bytes[at..at + record.head.properties_bytes as usize]
    }

    pub(crate) fn payload(&self, index: u32) -> &[u8] {
        let record = self.record(index);
        let at = record.bytes_at as usize + record.head.properties_bytes as usize;
        &self.bytes[at..at + record.payload_bytes as usize]
    }

    /// Bytes of one message in it, without its head.
    pub(crate) fn record_bytes(&self, index: u32) -> usize {
        let record = self.record(index);
        usize::from(record.head.topic_bytes)
            + record.head.properties_bytes as usize
            + record.payload_bytes as usize
    }

    /// Whether a handle on a message keeps nothing but that message.
    pub(crate) fn is_own(&self) -> bool {
        self.size == Size::Own
    }
}

/// A message where it lies, before anybody has a handle on it.
#[derive(Clone, Copy, Debug)]
pub enum MessageRef<'a> {
    /// It has a handle already.
    Handle(&'a Message),
    /// At this position of a batch.
    InBatch(&'a Arc<Batch>, u32),
}

impl<'a> MessageRef<'a> {
    /// The head.
    #[must_use]
    pub fn head(self) -> &'a MessageHead {
        match self {
            Self::Handle(message) => message.head(),
            Self::InBatch(batch, index) => batch.head(index),
        }
    }

    /// The topic name.
    #[must_use]
    pub fn topic(self) -> &'a str {
        match self {
            Self::Handle(message) => message.topic(),
            Self::InBatch(batch, index) => batch.topic(index),
        }
    }

    /// The forwarded properties.
    #[must_use]
    pub fn properties(self) -> &'a [u8] {
        match self {
            Self::Handle(message) => message.properties(),
            Self::InBatch(batch, index) => batch.properties(index),
        }
    }

    /// The payload.
    #[must_use]
    pub fn payload(self) -> &'a [u8] {
        match self {
            Self::Handle(message) => message.payload(),
            Self::InBatch(batch, index) => batch.payload(index),
        }
    }

    /// A handle on it.
    #[must_use]
    pub fn to_message(self) -> Message {
        match self {
            Self::Handle(message) => message.clone(),
            Self::InBatch(batch, index) => Message::in_batch(batch.clone(), index),
        }
    }
}

/// The batches of one core: those that wait to be filled, and those that are read.
///
/// What is filled or read counts against the core's meter, whole batches at a time.
#[derive(Debug)]
pub struct BatchPool {
    small: Shelf,
    large: Shelf,
    read: Vec<Arc<Batch>>,
    /// Where in `read` the next look begins.
    look_at: usize,
    meter: &'static MessageMeter,
}

impl BatchPool {
    /// A pool with no batch yet.
    #[must_use]
    pub fn new(meter: &'static MessageMeter) -> Self {
        let (small, large) = (Shelf::new(Size::Small), Shelf::new(Size::Large));
        Self { small, large, read: Vec::new(), look_at: 0, meter }
    }

    /// Batches that somebody may still read.
    #[must_use]
    pub fn read_count(&self) -> usize {
        self.read.len()
    }

    /// Puts a message into `open`, or into a new batch that takes the place of `open` and returns
    /// the full one.
    pub(crate) fn fill(
        &mut self,
        open: &mut Option<Arc<Batch>>,
        parts: &Parts<'_>,
        entry: &Entry,
    ) -> Option<Arc<Batch>> {
        if let Some(batch) = open.as_mut().and_then(Arc::get_mut)
            && batch.has_room(parts)
        {
            batch.push(parts, entry);
            return None;
        }
        let mut fresh = self.take(open.is_none(), parts);
        let batch = Arc::get_mut(&mut fresh);
        batch.expect("nobody reads a batch that was just taken").push(parts, entry);
        open.replace(fresh)
    }

    fn take(&mut self, is_first: bool, parts: &Parts<'_>) -> Arc<Batch> {
        let large = parts.record_bytes() > RECORD_BYTES_MAX || !Size::Large.fits(parts);
        match is_first && Size::Small.fits(parts) {
            _ if large => Arc::new(Batch::own(parts, self.meter)),
            true => self.take_of(Size::Small),
            false => self.take_of(Size::Large),
        }
    }

    /// An empty batch of a size that the pool takes back.
    fn take_of(&mut self, size: Size) -> Arc<Batch> {
        self.meter.add(size.memory_bytes() as u64);
        let shelf = if size == Size::Small { &mut self.small } else { &mut self.large };
        shelf.take()
    }

    /// A batch whose messages have been handed out: it comes back when nobody reads it any more.
    pub fn give_out(&mut self, batch: Arc<Batch>) {
        if batch.is_own() {
            return;
        }
        if Arc::is_unique(&batch) {
            self.put_back(batch);
        } else {
            self.read.push(batch);
        }
        self.look(LOOKS);
    }

    /// Looks at up to `count` batches, and takes those back that nobody reads any more.
    pub fn look(&mut self, count: usize) {
        for _ in 0..count.min(self.read.len()) {
            if self.look_at >= self.read.len() {
                self.look_at = 0;
            }
            if Arc::is_unique(&self.read[self.look_at]) {
                let batch = self.read.swap_remove(self.look_at);
                self.put_back(batch);
            } else {
                self.look_at += 1;
            }
        }
    }

    fn put_back(&mut self, mut batch: Arc<Batch>) {
        let size = batch.size;
        self.meter.sub(size.memory_bytes() as u64);
        if let Some(batch) = Arc::get_mut(&mut batch) {
            batch.clear();
        }
        match size {
            Size::Small => self.small.put_back(batch),
            Size::Large => self.large.put_back(batch),
            Size::Own => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Nanos;
    use std::collections::VecDeque;

    const SMALL_BYTES: u64 = Size::Small.memory_bytes() as u64;

    fn parts<'a>(topic: &'a str, properties: &'a [u8], payload: &'a [u8]) -> Parts<'a> {
        let head = MessageHead {
            publisher: 7,
            accepted_at: Nanos(1),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 1,
            retain: false,
        };
        Parts { head, client_id: b"client", packet_id: 0, unix_ms: 0, topic, properties, payload }
    }

    fn fill(
        pool: &mut BatchPool,
        open: &mut Option<Arc<Batch>>,
        parts: &Parts<'_>,
    ) -> Option<Arc<Batch>> {
        let entry = Entry {
            kind: RecordKind::PUBLISH,
            promise: Level::Memory.into(),
            is_will: false,
            logged: None,
        };
        pool.fill(open, parts, &entry)
    }

    fn pool() -> BatchPool {
        BatchPool::new(MessageMeter::leaked())
    }

    #[test]
    fn messages_come_back_as_they_went_in() {
        let (mut pool, mut open) = (pool(), None);
        assert!(fill(&mut pool, &mut open, &parts("a/b", &[1, 2], b"one")).is_none());
        assert!(fill(&mut pool, &mut open, &parts("c", &[], b"")).is_none());
        let batch = open.expect("filled");
        let (one, two) = (MessageRef::InBatch(&batch, 0), MessageRef::InBatch(&batch, 1));
        let message = one.to_message();
        assert_eq!((message.topic(), message.properties()), ("a/b", &[1, 2][..]));
        assert_eq!((message.payload(), message.head().publisher), (&b"one"[..], 7));
        assert_eq!((two.topic(), two.payload()), ("c", &b""[..]));
        assert!(!message.is_lasting());
        assert_eq!(message.identity(), one.to_message().identity());
        assert_ne!(message.identity(), two.to_message().identity());
        assert_eq!(message.memory_bytes() - two.to_message().memory_bytes(), 7);
    }

    #[test]
    fn a_lasting_copy_lets_go_of_the_batch() {
        let (mut pool, mut open) = (pool(), None);
        fill(&mut pool, &mut open, &parts("a/b", &[9], b"payload"));
        let batch = open.expect("filled");
        let message = MessageRef::InBatch(&batch, 0).to_message();
        let copy = message.lasting(&mut Vec::new(), MessageMeter::leaked());
        assert!(copy.is_lasting());
        assert_eq!(copy.lasting(&mut Vec::new(), pool.meter).identity(), copy.identity());
        assert_eq!(
            (copy.topic(), copy.properties(), copy.payload()),
            ("a/b", &[9][..], &b"payload"[..])
        );
        assert_eq!(copy.memory_bytes(), message.memory_bytes());
        drop(message);
        assert!(Arc::is_unique(&batch));
    }

    #[test]
    fn a_full_batch_is_handed_back_and_a_new_one_begun() {
        let (mut pool, mut open) = (pool(), None);
        let payload = [0; RECORD_BYTES_MAX - 100];
        let mut full = Vec::new();
        for _ in 0..15 {
            full.extend(fill(&mut pool, &mut open, &parts("t", &[], &payload)));
        }
        assert_eq!(
            full.iter().map(|batch| batch.len()).sum::<usize>() + open.map_or(0, |b| b.len()),
            15
        );
        assert!(full.iter().all(|batch| batch.len() == 6), "48 KiB of records");
        let mut open = None;
        let few = Size::Small.records();
        let many = Size::Large.records();
        full.clear();
        for _ in 0..=few + many {
            full.extend(fill(&mut pool, &mut open, &parts("t", &[], b"")));
        }
        let filled: Vec<usize> = full.iter().map(|batch| batch.len()).collect();
        assert_eq!((filled, open.map(|batch| batch.len())), (vec![few, many], Some(1)));
    }

    #[test]
    fn a_batch_is_used_again_once_nobody_reads_it() {
        let (mut pool, mut open) = (pool(), None);
        fill(&mut pool, &mut open, &parts("t", &[], b"x"));
        let batch = open.take().expect("filled");
        let address = Arc::as_ptr(&batch);
        let message = MessageRef::InBatch(&batch, 0).to_message();
        pool.give_out(batch);
        assert_eq!((pool.read_count(), pool.meter.bytes()), (1, SMALL_BYTES));
        pool.look(8);
        assert_eq!(pool.read_count(), 1, "somebody reads it");
        drop(message);
        pool.look(8);
        assert_eq!((pool.read_count(), pool.meter.bytes()), (0, 0));
        fill(&mut pool, &mut open, &parts("t", &[], b"y"));
        let again = open.take().expect("filled");
        assert_eq!((Arc::as_ptr(&again), again.len()), (address, 1));
        pool.give_out(again);
        assert_eq!((pool.read_count(), pool.meter.bytes()), (0, 0), "nobody read it");
    }

    #[test]
    fn one_slow_reader_does_not_keep_the_others_back() {
        let (mut pool, mut open) = (pool(), None);
        let mut messages = VecDeque::new();
        for _ in 0..20 {
            fill(&mut pool, &mut open, &parts("t", &[], b"x"));
            let batch = open.take().expect("filled");
            messages.push_back(MessageRef::InBatch(&batch, 0).to_message());
            pool.give_out(batch);
        }
        let slow = messages.pop_front();
        messages.clear();
        pool.look(40);
        assert_eq!(pool.read_count(), 1);
        drop(slow);
    }
}
