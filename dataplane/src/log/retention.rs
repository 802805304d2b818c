//! How much of a log is kept: a decision, nothing is removed here.

use super::segments::Sealed;
use crate::ids::Offset;

/// What a partition's records are kept for at least. What a partition holds of several streams is
/// kept as the longest of them says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// Bytes of full segments that are kept; `None` for no bound.
    pub bytes: Option<u64>,
    /// Milliseconds after which a segment's last batch is too old; `None` for no bound.
    pub age_ms: Option<u64>,
}

impl Retention {
    /// Both bounds, so that each of two streams keeps what it wants.
    #[must_use]
    pub fn widest(self, other: Self) -> Self {
        let widest = |one: Option<u64>, two: Option<u64>| Some(one?.max(two?));
        Self { bytes: widest(self.bytes, other.bytes), age_ms: widest(self.age_ms, other.age_ms) }
    }

    /// Up to where a log may be trimmed: `sealed` are its full segments, oldest first, and `needed`
    /// is the lowest offset that somebody still needs (a checkpoint's replay, a fan-out cursor,
    /// what sessions are owed). A segment goes if either bound says so and nobody needs it.
    ///
    /// Ages go by the broker's clock; one that jumps back keeps segments for longer, one that jumps
    /// forward shortens what is kept, but never below `needed`.
    #[must_use]
    pub fn trim_below<'a>(
        &self,
        sealed: impl Iterator<Item = &'a Sealed> + Clone,
        unix_ms: u64,
        needed: Offset,
    ) -> Offset {
        let mut kept_bytes: u64 = sealed.clone().map(|segment| segment.file_bytes).sum();
        let mut below = Offset(0);
        for segment in sealed {
            let is_above = self.bytes.is_some_and(|bytes| bytes < kept_bytes);
            let age_ms = unix_ms.saturating_sub(segment.last_unix_ms);
            let is_old = self.age_ms.is_some_and(|bound| bound < age_ms);
            if !(is_above || is_old) || needed < segment.end {
                break;
            }
            below = segment.end;
            kept_bytes -= segment.file_bytes;
        }
        below
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::SegmentId;

    /// Segments of 100 bytes and ten records, one a second.
    fn sealed() -> Vec<Sealed> {
        let segment = |number| Sealed {
            number,
            id: SegmentId([0; 16]),
            base: Offset(number * 10),
            end: Offset(number * 10 + 10),
            file_bytes: 100,
            last_unix_ms: 1000 * (number + 1),
        };
        (0..5).map(segment).collect()
    }

    fn below(bytes: Option<u64>, age_ms: Option<u64>, needed: u64) -> u64 {
        Retention { bytes, age_ms }.trim_below(sealed().iter(), 5000, Offset(needed)).0
    }

    #[test]
    fn without_a_bound_all_is_kept() {
        assert_eq!(below(None, None, 50), 0);
    }

    #[test]
    fn each_bound_removes_the_oldest() {
        assert_eq!([below(Some(500), None, 50), below(Some(499), None, 50)], [0, 10]);
        assert_eq!([below(Some(100), None, 50), below(Some(0), None, 50)], [40, 50]);
        assert_eq!([below(None, Some(4000), 50), below(None, Some(3999), 50)], [0, 10]);
        assert_eq!(below(Some(300), Some(500), 50), 40, "the narrower one");
    }

    #[test]
    fn what_is_needed_stays() {
        assert_eq!([below(Some(0), None, 29), below(Some(0), None, 30)], [20, 30]);
        assert_eq!(below(Some(0), None, 5), 0);
    }

    #[test]
    fn a_clock_that_jumps_back_removes_nothing() {
        let retention = Retention { bytes: None, age_ms: Some(1) };
        assert_eq!(retention.trim_below(sealed().iter(), 10, Offset(50)), Offset(0));
    }

    #[test]
    fn two_streams_share_the_wider_bound() {
        let one = Retention { bytes: Some(1), age_ms: Some(9) };
        let two = Retention { bytes: Some(5), age_ms: None };
        assert_eq!(one.widest(two), Retention { bytes: Some(5), age_ms: None });
    }
}
