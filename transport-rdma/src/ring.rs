//! Positions and credits of the ring that a peer writes into: pure arithmetic, the same on both ends.
//!
//! A ring carries one stream of bytes. A write lies in one piece at the position where the last one
//! ended, modulo the ring's size, and never goes beyond the ring's end: what wraps is two writes.
//! With each write the receiver learns, as immediate data, the position where it ends; with a write
//! of no bytes the sender learns up to where the receiver has taken bytes out. Both are cumulative and
//! 31 bits of a position, enough because a ring has at most 2^30 bytes; the highest bit says which
//! of the two it is.
//!
//! So a sender has at most the ring's bytes and `writes_max` writes that it has no credit for. The
//! receiver returns credit for a quarter of either at a time, so that at most
//! [`CREDITS_MAX`] credits are under way; with that many receives posted no write finds
//! the receiver unready.

use ringlane_dataplane::planted::{self, Bug};
use std::collections::VecDeque;

/// Smallest ring, in bytes.
pub const RING_BYTES_MIN: u32 = 1 << 12;
/// Largest ring, in bytes.
pub const RING_BYTES_MAX: u32 = 1 << 30;
/// Writes that may be under way without credit for them: what both ends of a link agree on.
pub const WRITES_MAX: u16 = 256;
/// Credits that are under way at most: four quarters of the bytes and four of the writes.
pub const CREDITS_MAX: u32 = 8;

const CREDIT_BIT: u32 = 1 << 31;
const POSITION_MASK: u32 = CREDIT_BIT - 1;

/// What a peer told that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RingError {
    /// A write that ends where it began, or beyond what it had credit for.
    #[error("a write goes beyond its credit")]
    Overrun,
    /// More writes than this node has receives for.
    #[error("more writes than agreed")]
    TooManyWrites,
    /// Credit for bytes that were never written.
    #[error("credit for what was not sent")]
    Credit,
    /// A message that is shorter than its header or longer than the bound.
    #[error("a message of {0} bytes")]
    MessageBytes(u32),
}

/// Work requests of a link: those it sends and those it receives, at most at any time.
#[must_use]
pub fn work_requests(writes_max: u16) -> (u32, u32) {
    let writes = u32::from(writes_max);
    // Writes that are not credited yet, and as many that are, but not yet reported as done.
    (2 * writes + CREDITS_MAX, writes + CREDITS_MAX)
}

/// What immediate data says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Bytes have landed, up to this position modulo 2^31.
    Landed(u32),
    /// Bytes have been taken out, up to this position modulo 2^31.
    Credit(u32),
}

impl Notice {
    /// As immediate data.
    #[must_use]
    pub fn to_imm(self) -> u32 {
        match self {
            Self::Landed(position) => position & POSITION_MASK,
            Self::Credit(position) => position & POSITION_MASK | CREDIT_BIT,
        }
    }

    /// From immediate data; every value means something.
    #[must_use]
    pub fn from_imm(imm: u32) -> Self {
        let position = imm & POSITION_MASK;
        if imm & CREDIT_BIT == 0 { Self::Landed(position) } else { Self::Credit(position) }
    }
}

/// How far `told` is ahead of `known`, modulo 2^31.
fn ahead(told: u32, known: u64) -> u64 {
    u64::from(told.wrapping_sub(low(known)) & POSITION_MASK)
}

fn low(position: u64) -> u32 {
    (position & u64::from(POSITION_MASK)) as u32
}

/// A piece of the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Where it begins, in bytes from the ring's beginning.
    pub at: u32,
    /// How long it is. It does not go beyond the ring's end.
    pub bytes: u32,
}

/// The piece from `position` on, of at most `bytes`.
fn span(position: u64, bytes: u64, ring_bytes: u32) -> Span {
    let at = (position % u64::from(ring_bytes)) as u32;
    Span { at, bytes: bytes.min(u64::from(ring_bytes - at)) as u32 }
}

/// The pieces of `bytes` from `position` on: the second one is empty, or at the ring's beginning.
#[must_use]
pub fn pieces(position: u64, bytes: u64, ring_bytes: u32) -> [Span; 2] {
    let first = span(position, bytes, ring_bytes);
    let rest = u64::from(first.bytes);
    [first, span(position + rest, bytes - rest, ring_bytes)]
}

/// The sender's side: where the next write goes, and how much may be under way.
#[derive(Debug)]
pub struct Outgoing {
    ring_bytes: u32,
    writes_max: usize,
    sent: u64,
    credited: u64,
    /// Where the writes end that no credit covers yet.
    ends: VecDeque<u64>,
}

impl Outgoing {
    /// For a ring of the peer's, empty.
    ///
    /// # Panics
    ///
    /// If the ring has less than [`RING_BYTES_MIN`] or more than [`RING_BYTES_MAX`] bytes; whoever
    /// takes that number from a peer checks it first.
    #[must_use]
    pub fn new(ring_bytes: u32, writes_max: u16) -> Self {
        assert!((RING_BYTES_MIN..=RING_BYTES_MAX).contains(&ring_bytes), "ring of {ring_bytes}");
        let writes_max = usize::from(writes_max);
        let ends = VecDeque::with_capacity(writes_max);
        Self { ring_bytes, writes_max, sent: 0, credited: 0, ends }
    }

    /// Where a write of up to `bytes` may go now; `None` without credit.
    #[must_use]
    pub fn room(&self, bytes: u64) -> Option<Span> {
        let free = u64::from(self.ring_bytes) - (self.sent - self.credited);
        if self.ends.len() == self.writes_max || free == 0 || bytes == 0 {
            return None;
        }
        // A quarter at most, so that the receiver takes out one part while the next is on its way.
        let most = bytes.min(free).min(u64::from(self.ring_bytes / 4));
        let mut room = span(self.sent, most, self.ring_bytes);
        if planted::is(Bug::RingWrap) && u64::from(room.bytes) < most {
            room.bytes += 1;
        }
        Some(room)
    }

    /// Counts a write of that many bytes; what to tell the receiver with it.
    ///
    /// # Panics
    ///
    /// If [`Outgoing::room`] had not that much.
    pub fn write(&mut self, bytes: u32) -> Notice {
        let room = self.room(u64::from(bytes));
        assert_eq!(room.map(|room| room.bytes), Some(bytes), "a write within its credit");
        self.sent += u64::from(bytes);
        self.ends.push_back(self.sent);
        Notice::Landed(low(self.sent))
    }

    /// Takes credit that the receiver returned.
    ///
    /// # Errors
    ///
    /// It is for bytes that were not sent, or for none.
    pub fn on_credit(&mut self, told: u32) -> Result<(), RingError> {
        let more = ahead(told, self.credited);
        if more == 0 || self.sent - self.credited < more {
            return Err(RingError::Credit);
        }
        self.credited += more;
        while self.ends.front().is_some_and(|end| *end <= self.credited) {
            self.ends.pop_front();
        }
        Ok(())
    }

    /// Whether nothing can be sent before credit comes.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.room(1).is_none()
    }

    /// Bytes sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// The receiver's side: what has landed, what was taken out, and what credit is owed.
#[derive(Debug)]
pub struct Incoming {
    ring_bytes: u32,
    writes_max: u32,
    landed: u64,
    taken: u64,
    credited: u64,
    /// Where the writes end that no credit covers yet.
    ends: VecDeque<u64>,
}

impl Incoming {
    /// For this node's ring, empty.
    ///
    /// # Panics
    ///
    /// If the ring has less than [`RING_BYTES_MIN`] or more than [`RING_BYTES_MAX`] bytes.
    #[must_use]
    pub fn new(ring_bytes: u32, writes_max: u16) -> Self {
        assert!((RING_BYTES_MIN..=RING_BYTES_MAX).contains(&ring_bytes), "ring of {ring_bytes}");
        let ends = VecDeque::with_capacity(usize::from(writes_max));
        let writes_max = u32::from(writes_max);
        Self { ring_bytes, writes_max, landed: 0, taken: 0, credited: 0, ends }
    }

    /// A write has landed that ends at this position.
    ///
    /// # Errors
    ///
    /// It had no credit. The bytes may have landed all the same: the link is over.
    pub fn on_landed(&mut self, told: u32) -> Result<(), RingError> {
        let more = ahead(told, self.landed);
        let free = u64::from(self.ring_bytes) - (self.landed - self.credited);
        if more == 0 || free < more {
            return Err(RingError::Overrun);
        }
        if self.ends.len() == self.writes_max as usize {
            return Err(RingError::TooManyWrites);
        }
        self.landed += more;
        self.ends.push_back(self.landed);
        Ok(())
    }

    /// Whether anything has ever landed.
    #[must_use]
    pub fn has_landed(&self) -> bool {
        self.landed != 0
    }

    /// Bytes that have landed and were not taken out.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.landed - self.taken
    }

    /// The position up to which bytes were taken out.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether what has landed of a message of so many bytes may stay in the ring until the rest has come: half of
    /// the ring, and of the writes, are enough for it. With the quarter of each that was taken out and for
    /// which no credit is due yet, the sender has a quarter left to go on with.
    #[must_use]
    pub fn may_wait(&self, bytes: u64) -> bool {
        let writes = self.ends.len() as u64;
        bytes <= u64::from(self.ring_bytes / 2) && writes <= u64::from(self.writes_max / 2)
    }

    /// Counts bytes as taken out. No credit for them is returned before [`Incoming::credit`] is asked.
    ///
    /// # Panics
    ///
    /// If that many had not landed.
    pub fn take(&mut self, bytes: u64) {
        assert!(bytes <= self.waiting_bytes(), "taken before it landed");
        self.taken += bytes;
    }

    /// The credit to return now, if it is worth a write: a quarter of the ring, or of the writes.
    pub fn credit(&mut self) -> Option<Notice> {
        let bytes = self.taken - self.credited;
        let writes = self.ends.iter().take_while(|end| **end <= self.taken).count();
        let is_due = u64::from(self.ring_bytes / 4) <= bytes
            || self.writes_max.div_ceil(4) as usize <= writes;
        if !is_due {
            return None;
        }
        self.ends.drain(..writes);
        self.credited = self.taken;
        Some(Notice::Credit(low(self.taken)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immediate_data_comes_back_as_it_went() {
        for position in [0, 1, 77, POSITION_MASK] {
            for notice in [Notice::Landed(position), Notice::Credit(position)] {
                assert_eq!(Notice::from_imm(notice.to_imm()), notice);
            }
        }
    }

    #[test]
    fn a_write_ends_at_the_end_of_the_ring_and_goes_on_at_its_beginning() {
        let mut out = Outgoing::new(4096, 16);
        for _ in 0..3 {
            out.write(1000);
        }
        assert_eq!(out.room(5000), Some(Span { at: 3000, bytes: 1024 }));
        out.write(1000);
        out.on_credit(2000).expect("credit");
        assert_eq!(out.room(5000), Some(Span { at: 4000, bytes: 96 }), "not beyond the end");
        out.write(96);
        assert_eq!(out.room(500), Some(Span { at: 0, bytes: 500 }));
    }

    #[test]
    fn nothing_is_sent_without_credit() {
        let mut out = Outgoing::new(4096, 8);
        for _ in 0..4 {
            out.write(1024);
        }
        assert!(out.is_exhausted());
        out.on_credit(1024).expect("credit");
        assert_eq!(out.room(9000), Some(Span { at: 0, bytes: 1024 }));
        let mut few = Outgoing::new(4096, 2);
        few.write(1);
        few.write(1);
        assert!(few.is_exhausted(), "two writes are under way");
        few.on_credit(1).expect("credit");
        assert!(!few.is_exhausted());
    }

    #[test]
    fn credit_is_for_what_was_sent_and_only_grows() {
        let mut out = Outgoing::new(4096, 8);
        assert_eq!(out.on_credit(1), Err(RingError::Credit));
        out.write(100);
        assert_eq!(out.on_credit(101), Err(RingError::Credit));
        assert_eq!(out.on_credit(0), Err(RingError::Credit));
        assert_eq!(out.on_credit(60), Ok(()));
        assert_eq!(out.on_credit(50), Err(RingError::Credit), "backwards");
        assert_eq!(out.on_credit(100), Ok(()));
    }

    #[test]
    fn a_write_beyond_its_credit_is_refused() {
        let mut incoming = Incoming::new(4096, 8);
        assert_eq!(incoming.on_landed(0), Err(RingError::Overrun));
        assert_eq!(incoming.on_landed(4097), Err(RingError::Overrun));
        assert_eq!(incoming.on_landed(4096), Ok(()));
        assert_eq!(incoming.on_landed(4097), Err(RingError::Overrun));
        incoming.take(2048);
        assert_eq!(incoming.on_landed(4097), Err(RingError::Overrun), "taken, but not credited");
        assert_eq!(incoming.credit(), Some(Notice::Credit(2048)));
        assert_eq!(incoming.on_landed(4097), Ok(()));
    }

    #[test]
    fn what_goes_round_the_end_is_two_pieces() {
        let piece = |at, bytes| Span { at, bytes };
        assert_eq!(pieces(4000, 100, 4096), [piece(4000, 96), piece(0, 4)]);
        assert_eq!(pieces(8192 + 5, 100, 4096), [piece(5, 100), piece(105, 0)]);
        assert_eq!(pieces(4000, 96, 4096), [piece(4000, 96), piece(0, 0)]);
    }

    #[test]
    fn a_part_waits_only_while_its_sender_can_go_on() {
        let mut incoming = Incoming::new(4096, 8);
        assert!(incoming.may_wait(2048) && !incoming.may_wait(2049));
        for end in 1..=5 {
            assert!(incoming.may_wait(100), "{end}");
            incoming.on_landed(end).expect("credit");
        }
        assert!(!incoming.may_wait(100), "five of eight writes");
        incoming.take(5);
        assert!(incoming.credit().is_some() && incoming.may_wait(100));
    }

    #[test]
    fn more_writes_than_receives_are_refused() {
        let mut incoming = Incoming::new(4096, 2);
        assert_eq!(incoming.on_landed(1), Ok(()));
        assert_eq!(incoming.on_landed(2), Ok(()));
        assert_eq!(incoming.on_landed(3), Err(RingError::TooManyWrites));
        incoming.take(1);
        assert_eq!(incoming.credit(), Some(Notice::Credit(1)));
        assert_eq!(incoming.on_landed(3), Ok(()));
    }

    #[test]
    fn positions_go_on_beyond_thirty_one_bits() {
        let mut out = Outgoing::new(RING_BYTES_MAX, 16);
        let mut incoming = Incoming::new(RING_BYTES_MAX, 16);
        for _ in 0..40 {
            let bytes = out.room(u64::MAX).expect("room").bytes;
            let Notice::Landed(position) = out.write(bytes) else { panic!("landed") };
            incoming.on_landed(position).expect("in order");
            incoming.take(u64::from(bytes));
            if let Some(Notice::Credit(position)) = incoming.credit() {
                out.on_credit(position).expect("credit");
            }
        }
        assert_eq!(out.sent(), 10 << 30);
    }
}
