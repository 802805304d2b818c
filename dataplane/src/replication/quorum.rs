//! How many are enough: a majority of the configured replicas, whether they are there or not.

use crate::ids::Offset;

/// The smallest number of replicas of which any two sets have one in common.
#[must_use]
pub const fn majority(replicas: usize) -> usize {
    replicas / 2 + 1
}

/// Up to where a majority of all replicas is, by one mark of each: the majority-th highest.
///
/// # Panics
/// If there is no replica.
#[must_use]
pub fn mark(marks: &mut [Offset]) -> Offset {
    assert!(!marks.is_empty(), "a log has at least one replica");
    marks.sort_unstable();
    marks[marks.len() - majority(marks.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_where_a_majority_is() {
        let mark = |marks: &[u64]| {
            let mut marks: Vec<_> = marks.iter().copied().map(Offset).collect();
            mark(&mut marks).0
        };
        assert_eq!(mark(&[7]), 7);
        assert_eq!(mark(&[7, 9]), 7);
        assert_eq!(mark(&[9, 1, 5]), 5);
        assert_eq!(mark(&[9, 0, 0]), 0);
        assert_eq!(mark(&[4, 3, 2, 1]), 2);
        assert_eq!(mark(&[1, 2, 3, 4, 5]), 3);
        assert_eq!((1..=7).map(majority).collect::<Vec<_>>(), [1, 2, 2, 3, 3, 4, 4]);
    }
}
