//! The receive buffer of a link: the kernel writes at its end, whole messages are taken from its
//! beginning, in place.

use ringlane_dataplane::replication::hello::HELLO_BYTES;
use ringlane_dataplane::replication::wire::bytes_of;

/// Free bytes at the end below which what is left of a message moves to the beginning, so that the
/// next receive is not a small one.
const TAIL_MIN: usize = 16 * 1024;

/// A buffer whose length is fixed but for messages that are longer.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that were moved to the beginning.
    moved: u64,
}

impl Assembly {
    /// What was received and not taken.
    pub(crate) fn received(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes the number of bytes that were moved since the last call.
    pub(crate) fn take_moved(&mut self) -> u64 {
        core::mem::take(&mut self.moved)
    }

    /// Where the rest of a hello goes, and not a byte of what follows it.
    pub(crate) fn room_for_hello(&mut self) -> &mut [u8] {
        if self.bytes.len() < HELLO_BYTES {
            self.bytes.resize(HELLO_BYTES, 0);
        }
        &mut self.bytes[self.end..HELLO_BYTES]
    }

    /// Where the next bytes go: never empty. No whole message may be left in it. `capacity` is the
    /// buffer's length, unless the message that has begun is longer.
    pub(crate) fn room(&mut self, capacity: usize) -> &mut [u8] {
        let message = self.message_bytes(u32::MAX).ok().flatten().unwrap_or(0);
        debug_assert!(message == 0 || message > self.end - self.start, "it was to be taken");
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let is_short = self.bytes.len() - self.end < TAIL_MIN.min(capacity / 4).max(1);
        if self.start > 0 && (is_short || self.start + message > self.bytes.len()) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.moved += (self.end - self.start) as u64;
            self.end -= self.start;
            self.start = 0;
        }
        self.fit(capacity, message);
        &mut self.bytes[self.end..]
    }

    /// The length as it is to be. A message that is longer than the buffer gets memory as its bytes come, not
    /// as its first four promise.
    fn fit(&mut self, capacity: usize, message: usize) {
        if self.bytes.len() != capacity && self.end < capacity && message <= capacity {
            // New memory that is zero already, and is not touched before bytes come.
            let mut bytes = vec![0; capacity];
            bytes[..self.end].copy_from_slice(&self.bytes[..self.end]);
            self.bytes = bytes;
        } else if self.end == self.bytes.len() {
            let length = message.min(2 * self.end).max(self.end + 1).max(capacity);
            self.bytes.resize(length, 0);
        }
    }

    /// The kernel has written this many bytes to the room.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
        assert!(self.end <= self.bytes.len(), "the kernel writes no more than there is room for");
    }

    /// Drops the first bytes.
    pub(crate) fn skip(&mut self, bytes: usize) {
        self.start += bytes;
        assert!(self.start <= self.end, "what was received");
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.start = self.end;
    }

    /// The next whole message. `None` if there is none.
    ///
    /// # Errors
    /// The length that one says it has, if it may not have it.
    pub(crate) fn next(&mut self, bytes_max: u32) -> Result<Option<&[u8]>, u32> {
        let Some(bytes) = self.message_bytes(bytes_max)? else { return Ok(None) };
        if self.end - self.start < bytes {
            return Ok(None);
        }
        let start = self.start;
        self.start += bytes;
        Ok(Some(&self.bytes[start..start + bytes]))
    }

    /// The length of the message that comes next, if it is known.
    fn message_bytes(&self, bytes_max: u32) -> Result<Option<usize>, u32> {
        let received = self.received();
        match bytes_of(received, bytes_max) {
            Ok(bytes) => Ok(bytes.map(|bytes| bytes as usize)),
            Err(_) => Err(received.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, bytes: usize) -> Vec<u8> {
        let mut message = (bytes as u32).to_le_bytes().to_vec();
        message.resize(bytes, tag);
        message
    }

    /// Puts a stream through the buffer in receives of at most `step` bytes; what was delivered.
    fn through(assembly: &mut Assembly, stream: &[u8], step: usize, capacity: usize) -> Vec<u8> {
        let mut left = stream;
        let mut seen = Vec::new();
        while !left.is_empty() {
            let room = assembly.room(capacity);
            assert!(!room.is_empty());
            let taken = step.min(room.len()).min(left.len());
            room[..taken].copy_from_slice(&left[..taken]);
            left = &left[taken..];
            assembly.filled(taken);
            while let Some(message) = assembly.next(1 << 20).unwrap() {
                seen.extend_from_slice(message);
            }
        }
        seen
    }

    #[test]
    fn every_cut_of_a_stream_gives_the_same_messages() {
        let mut stream = Vec::new();
        for (tag, bytes) in (0u8..).zip([24, 32, 4096, 24, 10_000, 100_000, 48, 8192, 24]) {
            stream.extend(message(tag, bytes));
        }
        for step in [1, 3, 7, 24, 1000, 4096, 1 << 20] {
            let mut assembly = Assembly::default();
            assert_eq!(through(&mut assembly, &stream, step, 4096), stream, "step {step}");
            assert_eq!(assembly.room(4096).len(), 4096, "it has its length again");
        }
    }

    #[test]
    fn memory_follows_the_bytes_that_came_and_not_the_promise() {
        let mut assembly = Assembly::default();
        let promise = (1u32 << 28).to_le_bytes();
        assembly.room(4096)[..4].copy_from_slice(&promise);
        assembly.filled(4);
        assert_eq!(assembly.next(u32::MAX), Ok(None));
        assert_eq!(assembly.room(4096).len(), 4092);
        assembly.filled(4092);
        assert_eq!(assembly.room(4096).len(), 4096, "twice what came");
    }

    #[test]
    fn few_bytes_are_moved_in_a_steady_flow() {
        let stream: Vec<u8> = (0..200u8).flat_map(|tag| message(tag, 48 * 1024)).collect();
        let mut assembly = Assembly::default();
        assert_eq!(through(&mut assembly, &stream, 1 << 20, 256 * 1024).len(), stream.len());
        let moved = assembly.take_moved() as f64 / stream.len() as f64;
        assert!(moved < 0.2, "{moved}");
        assert_eq!(assembly.take_moved(), 0);
    }

    #[test]
    fn an_impossible_length_is_told() {
        for (bytes, is_possible) in [(0u32, false), (16, false), (25, false), (24, true)] {
            let mut assembly = Assembly::default();
            assembly.room(4096)[..4].copy_from_slice(&bytes.to_le_bytes());
            assembly.filled(4);
            let expected = if is_possible { Ok(None) } else { Err(bytes) };
            assert_eq!(assembly.next(4096), expected);
        }
        let mut assembly = Assembly::default();
        assembly.room(4096)[..4].copy_from_slice(&8192u32.to_le_bytes());
        assembly.filled(4);
        assert_eq!(assembly.next(4096), Err(8192), "longer than this node takes");
    }

    #[test]
    fn a_hello_is_received_without_what_follows_it() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.room_for_hello().len(), HELLO_BYTES);
        assembly.filled(100);
        assert_eq!(assembly.room_for_hello().len(), HELLO_BYTES - 100);
        assembly.filled(HELLO_BYTES - 100);
        assembly.skip(HELLO_BYTES);
        assert_eq!((assembly.received().len(), assembly.room(4096).len()), (0, 4096));
    }
}
