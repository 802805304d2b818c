//! A set of numbers that come mostly one behind the other.

use std::collections::BTreeMap;

/// Numbers as half-open ranges, none of which touches another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    /// Adds the numbers from `first` up to, not including, `end`.
    pub(crate) fn add(&mut self, first: u64, end: u64) {
        if end <= first {
            return;
        }
        let (mut first, mut end) = (first, end);
        if let Some((start, before)) = self.0.range(..=first).next_back()
            && first <= *before
        {
            (first, end) = (*start, end.max(*before));
        }
        while let Some((start, behind)) = self.0.range(first..=end).next() {
            end = end.max(*behind);
            let start = *start;
            self.0.remove(&start);
        }
        self.0.insert(first, end);
    }

    pub(crate) fn insert(&mut self, number: u64) {
        self.add(number, number + 1);
    }

    /// Drops all numbers below one.
    pub(crate) fn trim(&mut self, below: u64) {
        if let Some((start, end)) = self.0.range(..below).next_back() {
            let (_, end) = (*start, *end);
            self.0 = self.0.split_off(&below);
            self.add(below, end);
        }
    }

    /// The first number behind all of them; 0 if there are none.
    pub(crate) fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, end)| *end)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(first, end)| (*first, *end))
    }

    /// How many there are from one number up to, not including, another.
    pub(crate) fn count_in(&self, from: u64, to: u64) -> u64 {
        let counts = self.iter().map(|(first, end)| end.min(to).saturating_sub(first.max(from)));
        counts.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_is_a_set_of_as_few_ranges_as_can_be() {
        let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
        let mut state = 3_u32;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let first = u64::from(state >> 20 & 255);
            match state >> 28 {
                0 => {
                    ranges.trim(first / 2);
                    model = model.split_off(&(first / 2));
                }
                1..8 => {
                    ranges.insert(first);
                    model.insert(first);
                }
                _ => {
                    let end = first + u64::from(state >> 16 & 15);
                    ranges.add(first, end);
                    model.extend(first..end);
                }
            }
            let all: Vec<u64> = ranges.iter().flat_map(|(first, end)| first..end).collect();
            assert!(model.iter().copied().eq(all));
            assert!(ranges.iter().zip(ranges.iter().skip(1)).all(|(a, b)| a.1 < b.0));
            assert_eq!(ranges.contains(first), model.contains(&first));
            assert_eq!(
                ranges.count_in(first, first + 50),
                model.range(first..first + 50).count() as u64
            );
            assert_eq!(ranges.end(), model.last().map_or(0, |last| last + 1));
            assert_eq!(ranges.is_empty(), model.is_empty());
        }
    }
}
