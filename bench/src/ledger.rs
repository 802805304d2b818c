//! Which messages of a stream one subscriber has seen: counts what is lost, doubled or reordered.

use std::collections::BTreeMap;

/// What a message that arrived means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The one that was expected.
    InOrder,
    /// A later one: this many before it are missing so far.
    Gap(u64),
    /// One that was missing: it came after a later one.
    Late,
    /// One that had come before.
    Duplicate,
}

/// The record of one stream at one subscriber. It holds a range per gap, never a message.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    next: u64,
    received: u64,
    duplicated: u64,
    reordered: u64,
    /// Missing ranges: first to one past the last.
    missing: BTreeMap<u64, u64>,
}

impl Ledger {
    /// Enters a message.
    pub fn on(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next {
            self.next += 1;
            self.received += 1;
            return Arrival::InOrder;
        }
        if sequence > self.next {
            let gap = sequence - self.next;
            self.missing.insert(self.next, sequence);
            self.next = sequence + 1;
            self.received += 1;
            return Arrival::Gap(gap);
        }
        self.on_old(sequence)
    }

    /// Enters a message that may legally have come before: redelivery after a reconnect.
    /// A duplicate is then reported, but not counted as a fault.
    pub fn on_redelivery(&mut self, sequence: u64) -> Arrival {
        let arrival = self.on(sequence);
        if arrival == Arrival::Duplicate {
            self.duplicated -= 1;
        }
        arrival
    }

    fn on_old(&mut self, sequence: u64) -> Arrival {
        let found = self.missing.range(..=sequence).next_back().map(|(start, end)| (*start, *end));
        match found {
            Some((start, end)) if sequence < end => {
                self.missing.remove(&start);
                if start < sequence {
                    self.missing.insert(start, sequence);
                }
                if sequence + 1 < end {
                    self.missing.insert(sequence + 1, end);
                }
                self.received += 1;
                self.reordered += 1;
                Arrival::Late
            }
            _ => {
                self.duplicated += 1;
                Arrival::Duplicate
            }
        }
    }

    /// One past the highest sequence seen.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Distinct messages received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Messages received more than once.
    #[must_use]
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Messages that came after a later one.
    #[must_use]
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Whether this message was seen.
    #[must_use]
    pub fn has(&self, sequence: u64) -> bool {
        let gap = self.missing.range(..=sequence).next_back();
        sequence < self.next && gap.is_none_or(|(_, end)| sequence >= *end)
    }

    /// Which of the first `sent` messages never came, in order.
    pub fn missing(&self, sent: u64) -> impl Iterator<Item = u64> {
        let gaps = self.missing.iter().map(|(start, end)| *start..*end);
        gaps.chain(std::iter::once(self.next..sent)).flatten().take_while(move |it| *it < sent)
    }

    /// Messages of the first `sent` that never came.
    #[must_use]
    pub fn lost(&self, sent: u64) -> u64 {
        sent.saturating_sub(self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(sequences: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        for sequence in sequences {
            ledger.on(*sequence);
        }
        ledger
    }

    #[test]
    fn a_whole_stream_has_no_faults() {
        let ledger = feed(&[0, 1, 2, 3]);
        assert_eq!((ledger.lost(4), ledger.duplicated(), ledger.reordered()), (0, 0, 0));
    }

    #[test]
    fn a_gap_is_loss_until_it_is_filled_and_then_disorder() {
        let mut ledger = feed(&[0, 4]);
        assert_eq!(ledger.lost(5), 3);
        assert_eq!(ledger.on(2), Arrival::Late);
        assert_eq!(ledger.lost(5), 2);
        assert_eq!(ledger.on(2), Arrival::Duplicate);
        assert_eq!(ledger.on(1), Arrival::Late);
        assert_eq!(ledger.on(3), Arrival::Late);
        assert_eq!((ledger.lost(5), ledger.duplicated(), ledger.reordered()), (0, 1, 3));
    }

    #[test]
    fn what_is_missing_is_named() {
        let ledger = feed(&[0, 4, 2]);
        assert_eq!(ledger.missing(7).collect::<Vec<_>>(), [1, 3, 5, 6]);
        assert_eq!(ledger.missing(3).collect::<Vec<_>>(), [1]);
        let seen: Vec<u64> = (0..7).filter(|sequence| ledger.has(*sequence)).collect();
        assert_eq!(seen, [0, 2, 4]);
    }

    #[test]
    fn what_is_cut_at_the_end_is_lost() {
        assert_eq!(feed(&[0, 1]).lost(5), 3);
    }

    #[test]
    fn redelivery_is_seen_but_not_held_against_the_broker() {
        let mut ledger = feed(&[0, 1]);
        assert_eq!(ledger.on_redelivery(1), Arrival::Duplicate);
        assert_eq!(ledger.on_redelivery(2), Arrival::InOrder);
        assert_eq!((ledger.duplicated(), ledger.received()), (0, 3));
    }
}
