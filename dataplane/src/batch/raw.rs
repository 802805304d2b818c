//! Batches of records that another node has made: their bytes as they came, for the log alone.
//!
//! No list of their parts is kept: whoever applies them reads the body
//! ([`crate::log::record::parse`]).

use super::{ALIGN, Arena, Batch, BatchPool, Size};
use crate::message::{Charge, MessageMeter};
use core::fmt;
use triomphe::Arc;

/// Bytes in memory that somebody else may write to at any time. They are copied, and only the copy is looked at.
pub trait Foreign: fmt::Debug {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies those that begin at `at`; they are within its length.
    fn copy_to(&self, at: usize, into: &mut [u8]);

    /// A copy of them behind `head`: the message that both are of, in one piece.
    fn behind(&self, head: &[u8]) -> Vec<u8> {
        let mut message = head.to_vec();
        message.resize(head.len() + self.len(), 0);
        self.copy_to(0, &mut message[head.len()..]);
        message
    }
}

/// The body of a message that has come, where it lies.
#[derive(Clone, Copy, Debug)]
pub enum Arrived<'a> {
    /// In memory of this process.
    Own(&'a [u8]),
    /// So many bytes, from the beginning of such as somebody else may write to.
    Foreign(&'a dyn Foreign, usize),
}

impl<'a> From<&'a [u8]> for Arrived<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Own(bytes)
    }
}

impl<'a> Arrived<'a> {
    /// How many bytes there are.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Foreign(_, bytes) => bytes,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The bytes, unless somebody else may write to them.
    #[must_use]
    pub fn own(self) -> Option<&'a [u8]> {
        match self {
            Self::Own(bytes) => Some(bytes),
            Self::Foreign(..) => None,
        }
    }

    fn copy_to(self, into: &mut [u8]) {
        match self {
            Self::Own(bytes) => into.copy_from_slice(bytes),
            Self::Foreign(bytes, _) => bytes.copy_to(0, into),
        }
    }
}

impl BatchPool {
    /// A sealed batch that holds a copy of `body`: this many records, one behind the other. They are
    /// not checked; who does not believe them does so in the copy, which nobody else can change.
    ///
    /// [`BatchPool::give_out`] takes it back, as any other.
    ///
    /// # Panics
    /// If the body is longer than 4 GiB.
    #[must_use]
    pub fn copy_records(&mut self, body: &[u8], records: u32) -> Arc<Batch> {
        self.copy_arrived(body.into(), records)
    }

    /// As [`BatchPool::copy_records`], from where a message has come to.
    ///
    /// # Panics
    /// As it.
    #[must_use]
    pub fn copy_arrived(&mut self, body: Arrived<'_>, records: u32) -> Arc<Batch> {
        let body_bytes = u32::try_from(body.len()).expect("a body is shorter than 4 GiB");
        let mut batch = self.take_raw(body.len());
        let filled = Arc::get_mut(&mut batch).expect("nobody reads a batch that was just taken");
        body.copy_to(filled.bytes.grow(body.len()));
        filled.bytes.pad(ALIGN);
        (filled.body_bytes, filled.raw_records) = (body_bytes, records);
        batch
    }

    fn take_raw(&mut self, bytes: usize) -> Arc<Batch> {
        if bytes <= Size::Small.bytes() {
            self.take_of(Size::Small)
        } else if bytes <= Size::Large.bytes() {
            self.take_of(Size::Large)
        } else {
            Arc::new(Batch::own_raw(bytes, self.meter))
        }
    }
}

/// What whoever has checked the records of a raw batch has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// How many there are.
    pub(crate) records: u32,
    /// Of [`Level::Memory`](super::Level::Memory).
    pub(crate) memory_records: u32,
    /// Whether all are messages and nothing else ([`RecordHead::is_plain`](crate::log::record::RecordHead::is_plain)).
    pub(crate) is_plain: bool,
}

impl Batch {
    /// Takes down what its records were seen to be. Before, nobody is taken to have promised less than the disk, and
    /// anything may be among them.
    pub(crate) fn note_seen(&mut self, seen: &Seen) {
        debug_assert_eq!(seen.records, self.raw_records, "all of them were looked at");
        (self.memory_records, self.is_plain) = (seen.memory_records, seen.is_plain);
    }

    /// Whether all its records came as bytes, and are messages and nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    fn own_raw(bytes: usize, meter: &'static MessageMeter) -> Self {
        let charge = Charge::new(meter, (bytes + size_of::<Self>()) as u64);
        Self::with_room(Size::Own, 0, Arena::own(bytes + ALIGN), Some(charge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_padded_and_comes_back_to_the_pool() {
        let mut pool = BatchPool::new(MessageMeter::leaked());
        for bytes in [5, 2048, 2049, 48 * 1024] {
            let body = vec![7; bytes];
            let batch = pool.copy_records(&body, 3);
            assert_eq!((batch.len(), batch.body_bytes() as usize), (3, bytes));
            assert_eq!(batch.body()[..bytes], body);
            assert_eq!(batch.body().len(), bytes.next_multiple_of(8));
            assert!(batch.body()[bytes..].iter().all(|&byte| byte == 0));
            assert!(pool.meter.bytes() > bytes as u64);
            pool.give_out(batch);
            assert_eq!(pool.meter.bytes(), 0);
        }
        let again = pool.copy_records(&[1; 9], 1);
        assert_eq!(
            (again.len(), again.body()),
            (1, &[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0][..])
        );
    }

    #[test]
    fn what_lies_elsewhere_is_copied_as_far_as_it_counts() {
        #[derive(Debug)]
        struct Elsewhere;
        impl Foreign for Elsewhere {
            fn len(&self) -> usize {
                16
            }
            fn copy_to(&self, at: usize, into: &mut [u8]) {
                into.iter_mut().zip(at..).for_each(|(byte, at)| *byte = at as u8);
            }
        }
        let mut pool = BatchPool::new(MessageMeter::leaked());
        let filled = pool_filled(&mut pool);
        pool.give_out(filled);
        let batch = pool.copy_arrived(Arrived::Foreign(&Elsewhere, 10), 2);
        assert_eq!((batch.body_bytes(), batch.len()), (10, 2));
        assert_eq!(batch.body(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0, 0]);
    }

    /// A batch whose chunk is full of something else.
    fn pool_filled(pool: &mut BatchPool) -> Arc<Batch> {
        pool.copy_records(&[0xee; 2048], 1)
    }

    #[test]
    fn what_is_too_long_for_the_pool_is_charged_while_it_lives() {
        let mut pool = BatchPool::new(MessageMeter::leaked());
        let batch = pool.copy_records(&vec![1; 100_000], 1);
        assert!(pool.meter.bytes() > 100_000);
        let held = batch.clone();
        pool.give_out(batch);
        drop(held);
        assert_eq!(pool.meter.bytes(), 0);
    }
}
