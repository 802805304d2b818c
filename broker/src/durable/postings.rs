//! Postings: where the messages lie that the sessions of a partition are owed.
//!
//! Partition S gives every record that one of its persistent subscriptions wants a *posting number*,
//! rising by one in the order in which S matched, and puts it into the list of each filter that
//! matched: once per filter, not once per session. Records that follow each other in their log and
//! in the numbers are one range, so that a list does not grow with the messages of a busy topic;
//! other ranges are packed in blocks, at some 5 bytes each.

use super::posting_block::{PostingBlock, RANGES_PER_BLOCK};
use std::collections::VecDeque;

/// Where a record lies. An offset may be used again after a tail was lost, the pair of epoch and
/// offset never.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The partition of its publisher.
    pub(crate) partition: u32,
    /// The epoch in which it was appended.
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
}

/// Records of one log, one behind the other, under posting numbers one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PostingRange {
    /// The first record.
    pub(crate) place: Place,
    /// Its posting number.
    pub(crate) first: u64,
    /// How many there are, at least one.
    pub(crate) count: u32,
    /// What they take in their log, in bytes.
    pub(crate) bytes: u64,
    /// Whether their stream lets go of the oldest where a backlog is full.
    pub(crate) droppable: bool,
}

impl PostingRange {
    /// The first posting number behind the range.
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The part of the range at and above a posting number, if there is any.
    pub(crate) fn from(&self, posting: u64) -> Option<Self> {
        let skipped = posting.saturating_sub(self.first);
        let count = u64::from(self.count).checked_sub(skipped).filter(|count| *count > 0)?;
        let place = Place { offset: self.place.offset + skipped, ..self.place };
        let bytes = self.share(count);
        Some(Self { place, first: self.first + skipped, count: count as u32, bytes, ..*self })
    }

    /// The part of the range below a posting number, if there is any.
    pub(crate) fn until(&self, posting: u64) -> Option<Self> {
        let count = u64::from(self.count).min(posting.saturating_sub(self.first));
        let bytes = self.share(count);
        (count > 0).then_some(Self { count: count as u32, bytes, ..*self })
    }

    /// What `count` of its records take, as if all took the same.
    fn share(&self, count: u64) -> u64 {
        let share = u128::from(self.bytes) * u128::from(count) / u128::from(self.count.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    fn takes(&self, next: &Self) -> bool {
        let place = Place { offset: self.place.offset + u64::from(self.count), ..self.place };
        let follows = self.end() == next.first && place == next.place;
        let same = self.droppable == next.droppable;
        follows && same && self.count < u32::MAX - next.count
    }
}

/// How much is owed to somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    /// What they take in their logs.
    pub(crate) bytes: u64,
}

impl Amount {
    pub(super) fn with(self, range: &PostingRange) -> Self {
        self.and(Self { messages: u64::from(range.count), bytes: range.bytes })
    }

    pub(crate) fn and(self, other: Self) -> Self {
        let messages = self.messages.saturating_add(other.messages);
        Self { messages, bytes: self.bytes.saturating_add(other.bytes) }
    }

    pub(super) fn without(self, part: Self) -> Self {
        let messages = self.messages.saturating_sub(part.messages);
        Self { messages, bytes: self.bytes.saturating_sub(part.bytes) }
    }
}

/// The postings of one filter, by rising posting number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PostingList {
    blocks: VecDeque<PostingBlock>,
    /// Behind the blocks.
    tail: Vec<PostingRange>,
    /// Postings below are dropped, also where their block is still there.
    trimmed: u64,
    /// All that ever was in the list before the tail.
    packed: Amount,
}

impl PostingList {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.tail.is_empty()
    }

    /// The first posting number behind the list; 0 if it is empty.
    pub(crate) fn end(&self) -> u64 {
        let packed = || self.blocks.back().map_or(0, |block| block.end);
        self.tail.last().map_or_else(packed, PostingRange::end)
    }

    /// Adds a range. What lies below the end of the list is known already and is left out, so that
    /// adding a range again changes nothing.
    pub(crate) fn push(&mut self, range: PostingRange) {
        let Some(new) = range.from(self.end()) else { return };
        match self.tail.last_mut() {
            Some(last) if last.takes(&new) => {
                last.count += new.count;
                last.bytes += new.bytes;
            }
            _ => {
                if self.tail.len() == RANGES_PER_BLOCK {
                    self.pack();
                }
                if self.is_empty() {
                    // Most filters never have more than one.
                    self.tail.reserve_exact(1);
                }
                self.tail.push(new);
            }
        }
    }

    fn pack(&mut self) {
        let block = PostingBlock::pack(&self.tail, self.packed);
        self.packed = block.after;
        self.blocks.push_back(block);
        self.tail.clear();
    }

    /// Drops the postings below a number, as many blocks as `budget` has, which it takes them off.
    /// False if it did not go so far: nothing of the rest is shown any more.
    pub(crate) fn trim(&mut self, before: u64, budget: &mut usize) -> bool {
        while self.blocks.front().is_some_and(|block| block.end <= before) {
            if *budget == 0 {
                self.trimmed = before.max(self.trimmed);
                return false;
            }
            *budget -= 1;
            self.blocks.pop_front();
        }
        let gone = self.tail.partition_point(|range| range.end() <= before);
        self.tail.drain(..gone);
        if let Some(first) = self.tail.first_mut()
            && let Some(rest) = first.from(before)
        {
            *first = rest;
        }
        self.trimmed = before.max(self.trimmed);
        if self.is_empty() {
            *self = Self::default();
        }
        true
    }

    /// The ranges at and above a posting number, the first one cut to it.
    pub(crate) fn from(&self, posting: u64) -> impl Iterator<Item = PostingRange> {
        let posting = posting.max(self.trimmed);
        let start = self.blocks.partition_point(|block| block.end <= posting);
        let packed = self.blocks.range(start..).flat_map(PostingBlock::ranges);
        let start = self.tail.partition_point(|range| range.end() <= posting);
        let tail = self.tail[start..].iter().copied();
        packed.chain(tail).filter_map(move |range| range.from(posting))
    }

    /// How much there is at and above a posting number.
    pub(crate) fn amount_from(&self, posting: u64) -> Amount {
        let posting = posting.max(self.trimmed);
        let sum = |ranges: &mut dyn Iterator<Item = PostingRange>| {
            let ranges = ranges.filter_map(|range| range.from(posting));
            ranges.fold(Amount::default(), |sum, range| sum.with(&range))
        };
        let tail = sum(&mut self.tail.iter().copied());
        let start = self.blocks.partition_point(|block| block.end <= posting);
        let Some(block) = self.blocks.get(start) else { return tail };
        let (here, behind) = (sum(&mut block.ranges()), self.packed.without(block.after));
        here.and(behind).and(tail)
    }

    /// The postings at and above a number, one by one.
    pub(crate) fn each_from(&self, posting: u64) -> impl Iterator<Item = PostingRange> {
        self.from(posting).flat_map(|range| {
            (0..u64::from(range.count)).map(move |step| PostingRange {
                place: Place { offset: range.place.offset + step, ..range.place },
                first: range.first + step,
                count: 1,
                bytes: range.share(1),
                droppable: range.droppable,
            })
        })
    }

    #[cfg(test)]
    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// Ranges, which is what the list takes memory for.
    #[cfg(test)]
    pub(crate) fn range_count(&self) -> usize {
        self.from(0).count()
    }

    /// Bytes that the ranges take in memory.
    #[cfg(test)]
    fn memory_bytes(&self) -> usize {
        let packed: usize = self.blocks.iter().map(|b| size_of_val(b) + b.data_bytes()).sum();
        packed + self.tail.capacity() * size_of::<PostingRange>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(partition: u32, offset: u64, first: u64, count: u32) -> PostingRange {
        let bytes = 100 * u64::from(count);
        let place = Place { partition, epoch: 1, offset };
        PostingRange { place, first, count, bytes, droppable: false }
    }

    fn numbers(list: &PostingList, from: u64) -> Vec<(u64, u64)> {
        list.each_from(from).map(|range| (range.first, range.place.offset)).collect()
    }

    #[test]
    fn neighbours_become_one_range_and_again_changes_nothing() {
        let mut list = PostingList::default();
        for step in 0..1_000_000 {
            list.push(range(0, 50 + step, 10 + step, 1));
        }
        assert_eq!((list.range_count(), list.end()), (1, 1_000_010));
        list.push(range(0, 60, 20, 5));
        assert_eq!((list.range_count(), list.end()), (1, 1_000_010));
        list.push(range(1, 0, 1_000_008, 4));
        assert_eq!((list.range_count(), list.end()), (2, 1_000_012));
        assert_eq!(
            numbers(&list, 1_000_009),
            [(1_000_009, 1_000_049), (1_000_010, 2), (1_000_011, 3)]
        );
    }

    #[test]
    fn another_epoch_is_another_range() {
        let mut list = PostingList::default();
        list.push(range(0, 5, 1, 1));
        let place = Place { partition: 0, epoch: 2, offset: 6 };
        list.push(PostingRange { place, ..range(0, 6, 2, 1) });
        assert_eq!(list.range_count(), 2);
        let place = Place { offset: 7, ..place };
        list.push(PostingRange { place, droppable: true, ..range(0, 7, 3, 1) });
        assert_eq!(list.range_count(), 3);
    }

    #[test]
    fn trimming_cuts_within_a_range() {
        let mut list = PostingList::default();
        list.push(range(0, 0, 0, 10));
        list.push(range(1, 0, 20, 10));
        assert!(list.trim(4, &mut 9));
        assert_eq!(numbers(&list, 0)[0], (4, 4));
        assert_eq!((list.each_from(0).count(), list.each_from(25).count()), (16, 5));
        assert!(list.trim(25, &mut 9));
        assert_eq!(numbers(&list, 0)[0], (25, 5));
        assert!(list.trim(30, &mut 9));
        assert!(list.is_empty());
    }

    /// What a list says must not depend on how it is packed.
    #[test]
    fn packed_ranges_are_what_was_pushed() {
        let (mut list, mut pushed, mut state) = (PostingList::default(), Vec::new(), 7_u64);
        let mut offsets = [1_000_u64; 5];
        let mut posting = 3;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (random, partition) = (state >> 33, (state >> 40) as usize % 5);
            posting += 1 + random % 3;
            // An offset may lie before the last one: each level has its own order.
            offsets[partition] = (offsets[partition] + 2 + random % 200).saturating_sub(50);
            let place = Place {
                partition: partition as u32,
                epoch: 1 + posting / 9_000,
                offset: offsets[partition],
            };
            let (count, bytes) = (1 + (random % 4) as u32, random % 5_000);
            let range =
                PostingRange { place, first: posting, count, bytes, droppable: random % 7 == 0 };
            posting = range.end();
            list.push(range);
            pushed.push(range);
        }
        let left = |from: u64| pushed.iter().filter_map(|r| r.from(from)).collect::<Vec<_>>();
        for from in [0, 3, 1_000, posting / 2, posting - 7, posting, posting + 9] {
            let expected = left(from);
            assert_eq!(list.from(from).collect::<Vec<_>>(), expected);
            let amount = expected.iter().fold(Amount::default(), |sum, range| sum.with(range));
            assert_eq!(list.amount_from(from), amount);
        }
        assert!(list.memory_bytes() < 10_000 * 9, "{}", list.memory_bytes());
        // In steps of a block; what is still there is not shown.
        while !list.trim(posting / 3, &mut 1) {
            assert_eq!(list.from(0).collect::<Vec<_>>(), left(posting / 3));
        }
        assert_eq!(list.from(0).collect::<Vec<_>>(), left(posting / 3));
        let bytes: u64 = left(posting / 3).iter().map(|range| range.bytes).sum();
        assert_eq!((list.amount_from(0).bytes, list.end()), (bytes, posting));
        assert!(list.trim(posting, &mut 10_000));
        assert!(list.is_empty());
    }
}
