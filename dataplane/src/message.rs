//! The message: one shared, immutable buffer that every reader of a publish points to.
//!
//! It is the only thing on the data path that carries a reference count, because it is the only
//! thing that one core hands to another. Head, topic name, properties and payload lie in the batch
//! that they were accepted in ([`crate::batch`]), or in an allocation of their own: a handle keeps
//! the whole batch, so who holds a message for long makes it [`Message::lasting`].

use crate::batch::Batch;
use crate::time::Nanos;
use core::sync::atomic::{AtomicU64, Ordering};
use triomphe::{Arc, ThinArc};

/// Bytes of the messages that one core made and that some reader still holds.
///
/// It lives as long as the process: a message may outlast the core that made it, on another core.
#[derive(Debug, Default)]
pub struct MessageMeter(AtomicU64);

impl MessageMeter {
    /// A meter for one core, made once at start and never freed.
    #[must_use]
    pub fn leaked() -> &'static Self {
        Box::leak(Box::default())
    }

    /// Bytes held now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Takes bytes off a meter when what they belong to goes.
#[derive(Debug)]
pub(crate) struct Charge {
    meter: &'static MessageMeter,
    bytes: u64,
}

impl Charge {
    /// Counts bytes until it is dropped.
    pub(crate) fn new(meter: &'static MessageMeter, bytes: u64) -> Self {
        meter.add(bytes);
        Self { meter, bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.meter.sub(self.bytes);
    }
}

struct Header {
    head: MessageHead,
    _charge: Option<Charge>,
}

/// What a reader needs to know of a message before it looks at its bytes.
#[derive(Clone, Copy, Debug)]
pub struct MessageHead {
    /// Keyed hash of the publisher's client identifier; what No Local compares.
    pub publisher: u64,
    /// When the owning core accepted it.
    pub accepted_at: Nanos,
    /// When it expires, or [`Nanos::NEVER`].
    pub expires_at: Nanos,
    /// Bytes of the topic name.
    pub topic_bytes: u16,
    /// Bytes of the properties that are forwarded as they came (MQTT 5 wire form).
    pub properties_bytes: u32,
    /// Quality of service of the publish: 0, 1 or 2.
    pub qos: u8,
    /// Whether it was published with RETAIN set.
    pub retain: bool,
}

impl MessageHead {
    /// The head of a record that is no message.
    pub(crate) const fn of_state() -> Self {
        Self {
            publisher: 0,
            accepted_at: Nanos(0),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 0,
            retain: false,
        }
    }
}

/// A shared handle on one message. Cloning counts, copying bytes never happens.
#[derive(Clone)]
pub struct Message(Place);

#[derive(Clone)]
enum Place {
    /// In an allocation of its own.
    Alone(ThinArc<Header, u8>),
    /// At this position of a batch.
    InBatch(Arc<Batch>, u32),
}

/// The head, the reference count and the length.
const HEADER_BYTES: usize = size_of::<Header>() + 2 * size_of::<usize>();

impl Message {
    /// Builds a message from its parts; the only copy of the payload on its way in.
    ///
    /// `head.topic_bytes` and `head.properties_bytes` are set from the slices. `scratch` is
    /// reused between calls.
    ///
    /// # Panics
    /// If the topic name is longer than 65,535 bytes or the properties than `u32::MAX`.
    #[must_use]
    pub fn new(
        head: MessageHead,
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Self {
        Self::build(head, topic, properties, payload, scratch, None)
    }

    /// As [`Message::new`], and counted by `meter` until the last handle is dropped.
    ///
    /// # Panics
    /// As [`Message::new`].
    #[must_use]
    pub fn metered(
        head: MessageHead,
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        scratch: &mut Vec<u8>,
        meter: &'static MessageMeter,
    ) -> Self {
        Self::build(head, topic, properties, payload, scratch, Some(meter))
    }

    fn build(
        mut head: MessageHead,
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        scratch: &mut Vec<u8>,
        meter: Option<&'static MessageMeter>,
    ) -> Self {
        assert!(topic.len() <= usize::from(u16::MAX), "topic name above the format's limit");
        assert!(u32::try_from(properties.len()).is_ok(), "properties above the format's limit");
        head.topic_bytes = topic.len() as u16;
        head.properties_bytes = properties.len() as u32;
        scratch.clear();
        scratch.extend_from_slice(topic.as_bytes());
        scratch.extend_from_slice(properties);
        scratch.extend_from_slice(payload);
        let bytes = (scratch.len() + HEADER_BYTES) as u64;
        let header = Header { head, _charge: meter.map(|meter| Charge::new(meter, bytes)) };
        Self(Place::Alone(ThinArc::from_header_and_slice(header, scratch)))
    }

    pub(crate) fn in_batch(batch: Arc<Batch>, index: u32) -> Self {
        Self(Place::InBatch(batch, index))
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &MessageHead {
        match &self.0 {
            Place::Alone(alone) => &alone.header.header.head,
            Place::InBatch(batch, index) => batch.head(*index),
        }
    }

    /// The topic name.
    #[must_use]
    pub fn topic(&self) -> &str {
        match &self.0 {
            Place::Alone(alone) => {
                let bytes = &alone.slice[..usize::from(self.head().topic_bytes)];
                core::str::from_utf8(bytes).unwrap_or_default()
            }
            Place::InBatch(batch, index) => batch.topic(*index),
        }
    }

    /// The forwarded properties in MQTT 5 wire form, without their length prefix.
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        match &self.0 {
            Place::Alone(alone) => {
                let start = usize::from(self.head().topic_bytes);
                &alone.slice[start..start + self.head().properties_bytes as usize]
            }
            Place::InBatch(batch, index) => batch.properties(*index),
        }
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            Place::Alone(alone) => {
                let head = self.head();
                &alone.slice[usize::from(head.topic_bytes) + head.properties_bytes as usize..]
            }
            Place::InBatch(batch, index) => batch.payload(*index),
        }
    }

    /// Bytes that this message keeps, shared by all of its readers.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let bytes = match &self.0 {
            Place::Alone(alone) => alone.slice.len(),
            Place::InBatch(batch, index) => batch.record_bytes(*index),
        };
        bytes + HEADER_BYTES
    }

    /// Whether this is the last handle on the message, and on its batch if it is in one.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        match &self.0 {
            Place::Alone(alone) => ThinArc::strong_count(alone) == 1,
            Place::InBatch(batch, _) => Arc::is_unique(batch),
        }
    }

    /// Whether the handle keeps nothing but this message.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match &self.0 {
            Place::Alone(_) => true,
            Place::InBatch(batch, _) => batch.is_own(),
        }
    }

    /// A handle that keeps nothing but this message: a copy, counted by `meter`, if it lies in a
    /// batch. For whoever may hold it for seconds.
    #[must_use]
    pub fn lasting(&self, scratch: &mut Vec<u8>, meter: &'static MessageMeter) -> Self {
        if self.is_lasting() {
            return self.clone();
        }
        let (topic, properties, payload) = (self.topic(), self.properties(), self.payload());
        Self::metered(*self.head(), topic, properties, payload, scratch, meter)
    }

    /// Equal for two handles on the same bytes, and for no others as long as one of them lives.
    #[must_use]
    pub fn identity(&self) -> (usize, u32) {
        match &self.0 {
            Place::Alone(alone) => (alone.slice.as_ptr().addr(), 0),
            Place::InBatch(batch, index) => (Arc::as_ptr(batch).addr(), *index),
        }
    }
}

impl core::fmt::Debug for Message {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("qos", &self.head().qos)
            .field("retain", &self.head().retain)
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> MessageHead {
        MessageHead {
            publisher: 7,
            accepted_at: Nanos(1),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 1,
            retain: false,
        }
    }

    #[test]
    fn parts_come_back_as_they_went_in() {
        let mut scratch = Vec::new();
        let message = Message::new(head(), "a/b", &[1, 2], b"payload", &mut scratch);
        assert_eq!(message.topic(), "a/b");
        assert_eq!(message.properties(), &[1, 2]);
        assert_eq!(message.payload(), b"payload");
        assert_eq!(message.head().publisher, 7);
    }

    #[test]
    fn a_clone_shares_the_bytes() {
        let mut scratch = Vec::new();
        let message = Message::new(head(), "", &[], &[0; 100], &mut scratch);
        assert!(message.is_unique());
        let clone = message.clone();
        assert!(!message.is_unique());
        assert_eq!(clone.payload().as_ptr(), message.payload().as_ptr());
    }

    #[test]
    fn the_meter_counts_until_the_last_handle_goes() {
        let meter = MessageMeter::leaked();
        let message = Message::metered(head(), "t", &[], &[0; 50], &mut Vec::new(), meter);
        assert_eq!(meter.bytes(), message.memory_bytes() as u64);
        let clone = message.clone();
        drop(message);
        assert_eq!(meter.bytes(), clone.memory_bytes() as u64);
        drop(clone);
        assert_eq!(meter.bytes(), 0);
    }

    #[test]
    fn a_handle_is_two_pointers_wide() {
        assert_eq!(size_of::<Message>(), 2 * size_of::<usize>());
        assert_eq!(size_of::<Option<Message>>(), 2 * size_of::<usize>());
    }
}
