//! Messages out of a stream of bytes: what comes before a message's end waits here, in memory of
//! this process, so that nobody who looks at a message looks at memory that the peer can change.

use crate::ring::RingError;
use ringlane_dataplane::replication::wire::bytes_of;

/// Bytes that are kept between messages. A longer message takes more for as long as it lasts.
const KEPT_BYTES: usize = 128 * 1024;

/// Bytes that have come and are not consumed.
#[derive(Debug)]
pub struct Assembly {
    buffer: Vec<u8>,
    /// Consumed from the buffer's beginning.
    consumed: usize,
    filled: usize,
    /// Bytes of the next message, if it is whole.
    ready: usize,
    message_bytes_max: u32,
}

impl Assembly {
    /// Takes messages of up to that many bytes.
    #[must_use]
    pub fn new(message_bytes_max: u32) -> Self {
        Self { buffer: vec![0; KEPT_BYTES], consumed: 0, filled: 0, ready: 0, message_bytes_max }
    }

    /// Where the next bytes go. There is room if [`Assembly::is_ready`] has just said no.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
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

    /// Whether a message is whole. If not, there is room for more afterwards.
    ///
    /// # Errors
    ///
    /// A length that no message has.
    pub fn is_ready(&mut self) -> Result<bool, RingError> {
        let waiting = &self.buffer[self.consumed..self.filled];
        let length = bytes_of(waiting, self.message_bytes_max).map_err(|_| {
            RingError::MessageBytes(waiting.first_chunk().map_or(0, |b| u32::from_le_bytes(*b)))
        })?;
        let bytes = length.map_or(size_of::<u32>(), |bytes| bytes as usize);
        if length.is_some() && bytes <= waiting.len() {
            self.ready = bytes;
            return Ok(true);
        }
        self.make_room(bytes);
        Ok(false)
    }

    /// The message that is whole.
    ///
    /// # Panics
    ///
    /// If [`Assembly::is_ready`] has not just said so.
    pub fn take(&mut self) -> &[u8] {
        assert_ne!(self.ready, 0, "no message is whole");
        let start = self.consumed;
        self.consumed += core::mem::take(&mut self.ready);
        &self.buffer[start..self.consumed]
    }

    /// Moves what is left to the beginning, and sees to room for more of a message of that many
    /// bytes: no more than twice what has come, so that a claim alone takes no memory.
    fn make_room(&mut self, bytes: usize) {
        self.buffer.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        self.consumed = 0;
        let wanted = bytes.min(2 * self.filled).max(KEPT_BYTES);
        if self.buffer.len() < wanted || bytes <= KEPT_BYTES && KEPT_BYTES < self.buffer.len() {
            self.buffer.resize(wanted, 0);
            self.buffer.shrink_to(wanted);
        }
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
            while assembly.is_ready()? {
                messages.push(assembly.take().to_vec());
            }
            let room = assembly.room();
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
        while !assembly.is_ready().expect("a message") {
            assert!(assembly.buffer.len() <= KEPT_BYTES.max(2 * at));
            let room = assembly.room();
            let bytes = room.len().min(long.len() - at);
            room[..bytes].copy_from_slice(&long[at..at + bytes]);
            assembly.fill(bytes);
            at += bytes;
        }
        assert_eq!(assembly.take(), long);
        assert_eq!(assembly.is_ready(), Ok(false));
        assert_eq!(assembly.buffer.capacity(), KEPT_BYTES);
    }
}
