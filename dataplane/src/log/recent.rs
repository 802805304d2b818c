//! What was written to a log of late: as much of it stays in the page cache as somebody may want soon.
//!
//! Nobody reads a follower's log while there is a leader: its pages would only push out others, and each write would need
//! new ones, which costs more than the write itself where the memory was nobody's before (in a virtual machine, whose
//! host has to find it). Whoever leads next begins with what was written last.

use std::collections::VecDeque;

/// Bytes of a follower's log that stay in the page cache. What is read first after a takeover is what lies behind the
/// cursors, which are recorded every second.
const KEPT_BYTES: u64 = 32 << 20;
/// As many are let go of at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// A range of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Of which segment.
    pub(super) number: u64,
    /// Where it begins.
    pub(super) position: u64,
    /// How long it is.
    pub(super) bytes: u64,
}

/// The ranges that were written last.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pieces: VecDeque<Piece>,
    bytes: u64,
}

impl Recent {
    /// This is durable now.
    pub(super) fn push(&mut self, number: u64, position: u64, bytes: u64) {
        self.bytes += bytes;
        match self.pieces.back_mut() {
            Some(last) if last.number == number && last.bytes < PIECE_BYTES => {
                last.bytes = position + bytes - last.position;
            }
            _ => self.pieces.push_back(Piece { number, position, bytes }),
        }
    }

    /// The next range that is not to be kept any longer.
    pub(super) fn pop(&mut self) -> Option<Piece> {
        let kept = KEPT_BYTES + PIECE_BYTES;
        let piece = self.pieces.pop_front_if(|_| kept < self.bytes)?;
        self.bytes -= piece.bytes;
        Some(piece)
    }

    /// All of it stays.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_stays_and_the_rest_goes_in_order() {
        let mut recent = Recent::default();
        let (round, mut gone) = (300_000, Vec::new());
        for number in 0..4 {
            for index in 0..100 {
                recent.push(number, 4096 + index * round, round);
                gone.extend(std::iter::from_fn(|| recent.pop()));
            }
        }
        let bytes: u64 = gone.iter().map(|piece| piece.bytes).sum();
        let kept = 4 * 100 * round - bytes;
        assert!((KEPT_BYTES..=KEPT_BYTES + 2 * PIECE_BYTES).contains(&kept), "{kept}");
        let mut next = (0, 4096);
        for piece in gone {
            assert_eq!((piece.number, piece.position), next, "no gap");
            let end = piece.position + piece.bytes;
            next = if end == 4096 + 100 * round {
                (piece.number + 1, 4096)
            } else {
                (piece.number, end)
            };
        }
        recent.clear();
        recent.push(9, 0, KEPT_BYTES);
        assert_eq!(recent.pop(), None);
    }
}
