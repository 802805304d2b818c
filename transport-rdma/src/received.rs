//! What has come over a link, as the endpoint gives it out.

use crate::queue::Queue;
use crate::ring::pieces;
use core::cell::Cell;
use core::fmt;
use ringlane_dataplane::batch::Foreign;

/// A message of the peer.
#[derive(Debug)]
pub enum Received<'a, Q> {
    /// All of it, a copy.
    Whole(&'a [u8]),
    /// A copy of the head of records, and their body where it has landed.
    Records(&'a [u8], InRing<'a, Q>),
}

/// Bytes of the ring, which the peer can change at any time. Those who want them copy them, once.
pub struct InRing<'a, Q> {
    queue: &'a Q,
    position: u64,
    bytes: usize,
    /// Counts what is copied.
    copied: &'a Cell<u64>,
}

impl<Q> fmt::Debug for InRing<'_, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InRing({} bytes at {})", self.bytes, self.position)
    }
}

impl<'a, Q> InRing<'a, Q> {
    pub(crate) fn new(queue: &'a Q, position: u64, bytes: usize, copied: &'a Cell<u64>) -> Self {
        Self { queue, position, bytes, copied }
    }
}

impl<Q: Queue> Foreign for InRing<'_, Q> {
    fn len(&self) -> usize {
        self.bytes
    }

    fn copy_to(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.bytes && into.len() <= self.bytes - at, "outside of the message");
        copy_out(self.queue, self.position + at as u64, into);
        self.copied.set(self.copied.get() + into.len() as u64);
    }
}

/// Copies out of the ring, also around its end.
pub(crate) fn copy_out<Q: Queue>(queue: &Q, position: u64, into: &mut [u8]) {
    let [first, second] = pieces(position, into.len() as u64, queue.ring_bytes());
    let (head, rest) = into.split_at_mut(first.bytes as usize);
    queue.copy_ring(first.at, head);
    if second.bytes != 0 {
        queue.copy_ring(second.at, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Wire;

    #[test]
    fn a_body_is_copied_around_the_end_and_counted() {
        let (wire, queue, _other) = Wire::new(4096, 4096, 8);
        wire.scribble(0, 4090, &[1, 2, 3, 4, 5, 6]);
        wire.scribble(0, 0, &[7, 8]);
        let copied = Cell::new(0);
        let body = InRing::new(&queue, 3 * 4096 + 4090, 8, &copied);
        let (mut all, mut last) = ([0; 8], [0; 3]);
        body.copy_to(0, &mut all);
        body.copy_to(5, &mut last);
        assert_eq!((all, last), ([1, 2, 3, 4, 5, 6, 7, 8], [6, 7, 8]));
        assert_eq!((copied.get(), body.len()), (11, 8));
    }

    #[test]
    #[should_panic(expected = "outside of the message")]
    fn what_is_behind_a_body_is_not_reached() {
        let (_wire, queue, _other) = Wire::new(4096, 4096, 8);
        InRing::new(&queue, 0, 8, &Cell::new(0)).copy_to(1, &mut [0; 8]);
    }
}
