//! Postings: where the messages lie that the sessions of a partition are owed.
//!
//! Partition S gives every record that one of its persistent subscriptions wants a *posting number*,
//! rising by one in the order in which S matched, and puts it into the list of each filter that
//! matched: once per filter, not once per session. Records that follow each other in their log and
//! in the numbers are one range, so that a list does not grow with the messages of a busy topic.

use std::collections::VecDeque;

/// Where a record lies. An offset may be used again after a tail was lost, the pair of epoch and
/// offset never.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
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
        Some(Self { place, first: self.first + skipped, count: count as u32 })
    }

    fn takes(&self, next: &Self) -> bool {
        let place = Place { offset: self.place.offset + u64::from(self.count), ..self.place };
        self.end() == next.first && place == next.place && self.count < u32::MAX - next.count
    }
}

/// The postings of one filter, by rising posting number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PostingList {
    ranges: VecDeque<PostingRange>,
}

impl PostingList {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The first posting number behind the list; 0 if it is empty.
    pub(crate) fn end(&self) -> u64 {
        self.ranges.back().map_or(0, PostingRange::end)
    }

    /// Adds a range. What lies below the end of the list is known already and is left out, so that
    /// adding a range again changes nothing.
    pub(crate) fn push(&mut self, range: PostingRange) {
        let Some(new) = range.from(self.end()) else { return };
        match self.ranges.back_mut() {
            Some(last) if last.takes(&new) => last.count += new.count,
            _ => self.ranges.push_back(new),
        }
    }

    /// Drops the postings below a number.
    pub(crate) fn trim(&mut self, before: u64) {
        while self.ranges.front().is_some_and(|range| range.end() <= before) {
            self.ranges.pop_front();
        }
        if let Some(first) = self.ranges.front_mut()
            && let Some(rest) = first.from(before)
        {
            *first = rest;
        }
        if self.ranges.is_empty() {
            self.ranges = VecDeque::new();
        }
    }

    /// The ranges at and above a posting number, the first one cut to it.
    pub(crate) fn from(&self, posting: u64) -> impl Iterator<Item = PostingRange> {
        let start = self.ranges.partition_point(|range| range.end() <= posting);
        self.ranges.range(start..).filter_map(move |range| range.from(posting))
    }

    /// The postings at and above a number, one by one.
    pub(crate) fn each_from(&self, posting: u64) -> impl Iterator<Item = (u64, Place)> {
        self.from(posting).flat_map(|range| {
            (0..u64::from(range.count)).map(move |step| {
                let place = Place { offset: range.place.offset + step, ..range.place };
                (range.first + step, place)
            })
        })
    }

    /// Ranges, which is what the list takes memory for.
    #[cfg(test)]
    pub(crate) fn range_count(&self) -> usize {
        self.ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(partition: u32, offset: u64, first: u64, count: u32) -> PostingRange {
        PostingRange { place: Place { partition, epoch: 1, offset }, first, count }
    }

    fn numbers(list: &PostingList, from: u64) -> Vec<(u64, u64)> {
        list.each_from(from).map(|(posting, place)| (posting, place.offset)).collect()
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
        let next =
            PostingRange { place: Place { partition: 0, epoch: 2, offset: 6 }, first: 2, count: 1 };
        list.push(next);
        assert_eq!(list.range_count(), 2);
    }

    #[test]
    fn trimming_cuts_within_a_range() {
        let mut list = PostingList::default();
        list.push(range(0, 0, 0, 10));
        list.push(range(1, 0, 20, 10));
        list.trim(4);
        assert_eq!(numbers(&list, 0)[0], (4, 4));
        assert_eq!((list.each_from(0).count(), list.each_from(25).count()), (16, 5));
        list.trim(25);
        assert_eq!(numbers(&list, 0)[0], (25, 5));
        list.trim(30);
        assert!(list.is_empty());
    }
}
