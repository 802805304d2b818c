//! A message out of a stream of bytes: what comes before its end waits here, in memory of this process, so that
//! nobody who looks at it looks at memory that the peer can change.

use crate::ring::RingError;
use ringlane_dataplane::replication::wire::{HEADER_BYTES, bytes_of};

/// Bytes that are kept between messages. A longer message takes more for as long as it lasts.
const KEPT_BYTES: usize = 128 * 1024;

/// The bytes of one message that have come.
#[derive(Debug)]
pub struct Assembly {
    buffer: Vec<u8>,
    filled: usize,
    message_bytes_max: u32,
}

impl Assembly {
    /// Takes messages of up to that many bytes.
    #[must_use]
    pub fn new(message_bytes_max: u32) -> Self {
        Self { buffer: vec![0; KEPT_BYTES], filled: 0, message_bytes_max }
    }

    /// Whether nothing of a message has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// How long the message is that begins with `bytes`; `None` if they are too few to say.
    ///
    /// # Errors
    /// A length that no message has.
    pub fn length_of(&self, bytes: &[u8]) -> Result<Option<usize>, RingError> {
        let length = bytes_of(bytes, self.message_bytes_max).map_err(|_| {
            RingError::MessageBytes(bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b)))
        })?;
        Ok(length.map(|bytes| bytes as usize))
    }

    /// How many bytes are to come before the message is whole; before its length is known, those of the shortest one.
    ///
    /// # Errors
    /// A length that no message has.
    pub fn lacks(&self) -> Result<usize, RingError> {
        let length = self.length_of(&self.buffer[..self.filled])?;
        Ok(length.unwrap_or(HEADER_BYTES) - self.filled)
    }

    /// Where the next bytes go: as many as it lacks, or fewer. There is room for one at least if it lacks any.
    ///
    /// # Errors
    /// A length that no message has.
    pub fn room(&mut self) -> Result<&mut [u8], RingError> {
        let lacks = self.lacks()?;
        // No more than twice what has come, so that a claim alone takes no memory.
        let wanted = (self.filled + lacks).min(2 * self.filled).max(KEPT_BYTES);
        if self.buffer.len() < wanted || self.filled == 0 && KEPT_BYTES < self.buffer.len() {
            self.buffer.resize(wanted, 0);
            self.buffer.shrink_to(wanted);
        }
        let end = self.buffer.len().min(self.filled + lacks);
        Ok(&mut self.buffer[self.filled..end])
    }

    /// Counts bytes that were put into the room.
    ///
    /// # Panics
    ///
    /// If there was not that much room.
    pub fn fill(&mut self, bytes: usize) {
        assert!(bytes <= self.buffer.len() - self.filled, "more than the room");
        self.filled += bytes;
    }

    /// The message, of which [`Assembly::lacks`] has just said that it is whole.
    pub fn take(&mut self) -> &[u8] {
        let bytes = core::mem::take(&mut self.filled);
        &self.buffer[..bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: u32, fill: u8) -> Vec<u8> {
        let mut message = vec![fill; bytes as usize];
        message[..4].copy_from_slice(&bytes.to_le_bytes());
        message
    }

    /// Feeds `stream` in pieces of at most `piece` bytes and collects the messages.
    fn run(stream: &[u8], piece: usize, max: u32) -> Result<Vec<Vec<u8>>, RingError> {
        let mut assembly = Assembly::new(max);
        let (mut at, mut messages) = (0, Vec::new());
        loop {
            if assembly.lacks()? == 0 {
                messages.push(assembly.take().to_vec());
            }
            let room = assembly.room()?;
            let bytes = room.len().min(piece).min(stream.len() - at);
            assert!(at == stream.len() || 0 < bytes, "there is always room");
            if bytes == 0 {
                return Ok(messages);
            }
            room[..bytes].copy_from_slice(&stream[at..at + bytes]);
            assembly.fill(bytes);
            at += bytes;
        }
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let messages = vec![message(24, 1), message(1000, 2), message(300_000, 3), message(32, 4)];
        let stream = messages.concat();
        for piece in [1, 3, 24, 1024, usize::MAX] {
            assert_eq!(run(&stream, piece, 400_000).as_ref(), Ok(&messages), "pieces of {piece}");
        }
        assert_eq!(run(&stream[..1023], 100, 400_000).expect("no error").len(), 1);
    }

    #[test]
    fn a_length_that_no_message_has_is_refused() {
        for bytes in [0, 16, 25, 1008, u32::MAX] {
            let mut stream = message(24, 0);
            stream[..4].copy_from_slice(&bytes.to_le_bytes());
            assert_eq!(run(&stream, 7, 1000), Err(RingError::MessageBytes(bytes)));
        }
    }

    #[test]
    fn a_long_message_takes_its_memory_as_it_comes_and_only_while_it_lasts() {
        let mut assembly = Assembly::new(1 << 20);
        let long = message(1 << 20, 9);
        let mut at = 0;
        while assembly.lacks().expect("a message") != 0 {
            assert!(assembly.buffer.len() <= KEPT_BYTES.max(2 * at));
            let room = assembly.room().expect("a message");
            let bytes = room.len().min(long.len() - at);
            room[..bytes].copy_from_slice(&long[at..at + bytes]);
            assembly.fill(bytes);
            at += bytes;
        }
        assert_eq!(assembly.take(), long);
        assert!(
            assembly.is_empty() && assembly.room().is_ok_and(|room| room.len() == HEADER_BYTES)
        );
        assert_eq!(assembly.buffer.capacity(), KEPT_BYTES);
    }
}
