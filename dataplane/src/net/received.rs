//! Received bytes that are sent on from where they lie, without a copy.

use core::ops::Range;
use std::fmt;
use std::rc::Rc;

/// A handle on a receive buffer of the driver's. As long as there is one, the bytes stay as they are.
#[derive(Clone)]
pub struct ReceiveBuffer(Rc<dyn AsRef<[u8]>>);

impl ReceiveBuffer {
    /// A handle from one of the driver's.
    #[must_use]
    pub fn new(memory: Rc<dyn AsRef<[u8]>>) -> Self {
        Self(memory)
    }

    /// A part of the buffer by where its bytes lie; `None` if they lie elsewhere.
    #[must_use]
    pub fn part(&self, bytes: &[u8]) -> Option<ReceivedPart> {
        let (whole, part) = (self.bytes().as_ptr_range(), bytes.as_ptr_range());
        if part.start < whole.start || part.end > whole.end {
            return None;
        }
        let start = part.start as usize - whole.start as usize;
        Some(ReceivedPart { buffer: self.clone(), range: start..start + bytes.len() })
    }

    fn bytes(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for ReceiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReceiveBuffer").field(&self.bytes().len()).finish()
    }
}

/// Some bytes of a receive buffer, and a handle that keeps them.
#[derive(Debug)]
pub struct ReceivedPart {
    buffer: ReceiveBuffer,
    range: Range<usize>,
}

impl ReceivedPart {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer.bytes()[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_of_the_buffer_are_a_part_of_it() {
        let memory: Rc<Vec<u8>> = Rc::new((0..100).collect());
        let buffer = ReceiveBuffer::new(memory.clone());
        let part = buffer.part(&memory[10..30]).expect("they lie in it");
        assert_eq!(part.as_slice(), &memory[10..30]);
        assert_eq!(buffer.part(&memory).expect("all of it").as_slice(), &memory[..]);
        let elsewhere = memory[10..30].to_vec();
        assert!(buffer.part(&elsewhere).is_none());
        assert_eq!(Rc::strong_count(&memory), 3);
        drop(part);
        assert_eq!(Rc::strong_count(&memory), 2);
    }
}
