//! A set of packet identifiers.

use crate::lazy::Empty;
use ringlane_dataplane::ids::Offset;
use std::collections::VecDeque;

/// Identifiers in one word.
const WORD: u16 = 64;
/// Words for all identifiers.
const WORDS: u16 = u16::MAX / WORD + 1;

/// A set of packet identifiers, as bits over the span that is in use: whatever it holds, each
/// operation takes the same few steps, and it never needs more than 8 KiB.
#[derive(Debug, Default)]
pub(crate) struct PacketIds {
    words: VecDeque<u64>,
    /// The word of the identifier space that the first of `words` stands for; they go on behind
    /// the last one at 0.
    first: u16,
    count: u16,
    /// Behind the last record that came under one of them and has to be durable before it is
    /// answered.
    pub(crate) end: Offset,
}

impl Empty for PacketIds {
    fn empty() -> &'static Self {
        const { &Self { words: VecDeque::new(), first: 0, count: 0, end: Offset(0) } }
    }
}

impl PacketIds {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.count)
    }

    pub(crate) fn contains(&self, id: u16) -> bool {
        let word = self.words.get(self.index(id / WORD));
        word.is_some_and(|word| word & bit(id) != 0)
    }

    /// False if it was in the set already.
    pub(crate) fn insert(&mut self, id: u16) -> bool {
        let index = self.make_room(id / WORD);
        let Some(word) = self.words.get_mut(index) else { return false };
        let is_new = *word & bit(id) == 0;
        *word |= bit(id);
        self.count += u16::from(is_new);
        is_new
    }

    /// False if it was not in the set.
    pub(crate) fn remove(&mut self, id: u16) -> bool {
        let index = self.index(id / WORD);
        let Some(word) = self.words.get_mut(index) else { return false };
        if *word & bit(id) == 0 {
            return false;
        }
        *word &= !bit(id);
        self.count -= 1;
        self.trim();
        true
    }

    /// The identifiers, in rising order from the start of the span.
    pub(crate) fn to_vec(&self) -> Vec<u16> {
        let words = self.words.iter().enumerate().map(|(index, word)| {
            let first = (self.first + index as u16) % WORDS * WORD;
            (0..WORD).filter(move |bit| word & 1 << bit != 0).map(move |bit| first + bit)
        });
        words.flatten().collect()
    }

    fn index(&self, word: u16) -> usize {
        usize::from(word.wrapping_sub(self.first) % WORDS)
    }

    /// The index of a word, after the span was made long enough: at the end that is nearer.
    fn make_room(&mut self, word: u16) -> usize {
        if self.words.is_empty() {
            self.first = word;
        }
        let index = self.index(word);
        if index < self.words.len() {
            return index;
        }
        let before = usize::from(WORDS) - index;
        if before < index - self.words.len() + 1 {
            self.first = word;
            for _ in 0..before {
                self.words.push_front(0);
            }
            return 0;
        }
        self.words.resize(index + 1, 0);
        index
    }

    /// Cuts off the words without a bit. One word's room is kept for the next identifier.
    fn trim(&mut self) {
        while self.words.front() == Some(&0) {
            self.words.pop_front();
            self.first = (self.first + 1) % WORDS;
        }
        while self.words.back() == Some(&0) {
            self.words.pop_back();
        }
        if self.words.is_empty() && self.words.capacity() > usize::from(WORD) {
            self.words = VecDeque::new();
        }
    }
}

fn bit(id: u16) -> u64 {
    1 << (id % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn it_is_a_set_whatever_the_order() {
        let mut ids = PacketIds::default();
        let mut model = HashSet::new();
        let mut state = 7_u32;
        for step in 0..200_000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // By turns: anywhere, and close together as clients count, over the end as well.
            let id = match step / 10_000 % 2 {
                0 => (state >> 16) as u16,
                _ => (step as u16).wrapping_add((state >> 24) as u16),
            };
            match state >> 8 & 3 {
                0 | 1 => assert_eq!(ids.insert(id), model.insert(id)),
                _ => assert_eq!(ids.remove(id), model.remove(&id)),
            }
            assert_eq!((ids.contains(id), ids.len()), (model.contains(&id), model.len()));
            assert!(ids.words.len() <= usize::from(WORDS));
        }
        let mut listed = ids.to_vec();
        listed.sort_unstable();
        let mut expected: Vec<u16> = model.iter().copied().collect();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        for id in 0..=u16::MAX {
            assert_eq!(ids.contains(id), model.contains(&id));
            assert_eq!(ids.remove(id), model.remove(&id));
        }
        assert_eq!((ids.len(), ids.words.len()), (0, 0));
    }

    #[test]
    fn a_window_over_the_end_of_the_identifiers_stays_short() {
        let mut ids = PacketIds::default();
        for n in 0..200_000_u32 {
            let id = |n: u32| (n % 65_535 + 1) as u16;
            assert!(ids.insert(id(n)));
            if n >= 100 {
                assert!(ids.remove(id(n - 100)));
            }
            assert!(ids.words.len() <= 4);
        }
    }
}
