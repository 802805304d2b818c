//! The message: one shared, immutable buffer that every reader of a publish points to.
//!
//! It is the only thing on the data path that carries a reference count, because it is the only
//! thing that one core hands to another. Head, topic name, properties and payload lie in a single
//! allocation, and the handle is one pointer wide.

use crate::time::Nanos;
use triomphe::ThinArc;

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
pub struct Message(ThinArc<MessageHead, u8>);

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
        mut head: MessageHead,
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Self {
        assert!(topic.len() <= usize::from(u16::MAX), "topic name above the format's limit");
        assert!(u32::try_from(properties.len()).is_ok(), "properties above the format's limit");
        head.topic_bytes = topic.len() as u16;
        head.properties_bytes = properties.len() as u32;
        scratch.clear();
        scratch.extend_from_slice(topic.as_bytes());
        scratch.extend_from_slice(properties);
        scratch.extend_from_slice(payload);
        Self(ThinArc::from_header_and_slice(head, scratch))
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &MessageHead {
        &self.0.header.header
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
        self.0.slice.len() + size_of::<MessageHead>() + 2 * size_of::<usize>()
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
    fn a_handle_is_one_pointer_wide() {
        assert_eq!(size_of::<Message>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Message>>(), size_of::<usize>());
    }
}
