//! Messages on their way to the driver: heads copied one behind the other, bodies by reference.

use super::Body;
use crate::net::Output;

/// What is to be sent on one link, in order: one [`Output`] for those who send bytes, and the
/// messages in it for those who send messages.
#[derive(Debug, Default)]
pub struct Outbox {
    output: Output,
    /// For each message, where its head ends in `output.bytes`.
    head_ends: Vec<u32>,
}

impl Outbox {
    /// Adds a message.
    pub(super) fn push(&mut self, head: &[u8], body: Option<Body>) {
        self.output.bytes.extend_from_slice(head);
        self.head_ends.push(self.output.bytes.len() as u32);
        if let Some(body) = body
            && !body.is_empty()
        {
            self.output.push_body(body);
        }
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.output.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head_ends.is_empty()
    }

    /// The messages in order: each one's head, and what comes behind it from a batch.
    pub fn messages(&self) -> impl Iterator<Item = (&[u8], Option<&Body>)> {
        let mut start = 0;
        let mut bodies = self.output.shared().iter().peekable();
        self.head_ends.iter().map(move |end| {
            let end = *end as usize;
            let head = &self.output.bytes[start..end];
            start = end;
            let body = bodies.next_if(|shared| shared.at == end);
            (head, body.and_then(|shared| shared.bytes.body()))
        })
    }

    /// The same as plain bytes in order.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Exchanges the bytes, for a driver that sends them from elsewhere. The messages are forgotten.
    pub fn swap_output(&mut self, output: &mut Output) {
        self.head_ends.clear();
        core::mem::swap(&mut self.output, output);
    }

    /// Forgets everything, keeps the capacity up to `bytes_max`.
    pub fn clear(&mut self, bytes_max: usize) {
        self.head_ends.clear();
        self.output.clear();
        self.output.bytes.shrink_to(bytes_max);
    }
}
