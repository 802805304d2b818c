//! The message: one shared, immutable buffer that every reader of a publish points to.
//!
//! It is the only thing on the data path that carries a reference count, because it is the only
//! thing that one core hands to another. Head, topic name, properties and payload lie in a single
//! allocation, and the handle is one pointer wide.

use crate::time::Nanos;
use core::sync::atomic::{AtomicU64, Ordering};
use triomphe::ThinArc;

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
}

/// Takes a message's bytes off its meter when the last handle goes.
struct Charge {
    meter: Option<&'static MessageMeter>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(meter) = self.meter {
            meter.0.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

struct Header {
    head: MessageHead,
    _charge: Charge,
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

/// A shared handle on one message. Cloning counts, copying bytes never happens.
#[derive(Clone)]
pub struct Message(ThinArc<Header, u8>);

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
        if let Some(meter) = meter {
            meter.0.fetch_add(bytes, Ordering::Relaxed);
        }
        let header = Header { head, _charge: Charge { meter, bytes } };
        Self(ThinArc::from_header_and_slice(header, scratch))
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &MessageHead {
        &self.0.header.header.head
    }

    /// The topic name.
    #[must_use]
    pub fn topic(&self) -> &str {
        let bytes = &self.0.slice[..usize::from(self.head().topic_bytes)];
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The forwarded properties in MQTT 5 wire form, without their length prefix.
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        let start = usize::from(self.head().topic_bytes);
        &self.0.slice[start..start + self.head().properties_bytes as usize]
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.slice[self.payload_start()..]
    }

    /// Bytes that this message keeps allocated, shared by all of its readers.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.0.slice.len() + HEADER_BYTES
    }

    /// Whether this is the last handle on the message.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        ThinArc::strong_count(&self.0) == 1
    }

    fn payload_start(&self) -> usize {
        usize::from(self.head().topic_bytes) + self.head().properties_bytes as usize
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
    fn a_handle_is_one_pointer_wide() {
        assert_eq!(size_of::<Message>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Message>>(), size_of::<usize>());
    }
}
