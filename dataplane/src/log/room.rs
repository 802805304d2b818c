//! What a log keeps free in the segments that it has, for the time in which it gets no other.
//!
//! A log that finds no room for its next segment goes on in the one that it has. Everything that was
//! taken has to fit there: what is accepted and can never be flushed would keep this log, and by what
//! it needs of the others the logs of the whole node, from being trimmed. And a part has to be left
//! for the records by which something is let go of, because that is what makes room again. So whoever appends leaves some room to
//! those behind it: a publish leaves most, the end of a session nothing.

use super::format::{SEGMENT_HEADER_BYTES, SEGMENT_RESERVE_BYTES};
use super::segments::LogSetup;
use super::writer::BATCH_BYTES_MAX;

/// What is kept back at most, and the share of a segment that it is in small ones.
const RESERVE_BYTES_MAX: u64 = 1 << 20;
const RESERVE_SHARE: u64 = 8;

/// Who asks whether there is room for a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// A publish.
    Publish,
    /// A record of state that somebody waits for, and so many bytes that have to go before it.
    State(u64),
    /// Positions, cursors, and what a checkpoint needs, in so many bytes: trimming follows them.
    Upkeep(u64),
    /// The end of a session, in so many bytes: nothing else has to be left.
    End(u64),
}

impl LogSetup {
    /// What has to be free for a claim, in a segment of so many bytes.
    pub(super) fn room_for(&self, claim: Claim, file_bytes: u64) -> u64 {
        let reserve = (file_bytes / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
        let empty = file_bytes.saturating_sub(SEGMENT_HEADER_BYTES + SEGMENT_RESERVE_BYTES);
        match claim {
            // What is open grows by one batch before it is counted. An empty segment takes a publish,
            // however small it is; before there is one a publish waits.
            Claim::Publish => {
                (self.record_bytes_max + BATCH_BYTES_MAX + 2 * reserve).clamp(1, empty.max(1))
            }
            Claim::State(bytes) => self.record_bytes_max + bytes + reserve,
            Claim::Upkeep(bytes) => bytes + reserve / 2,
            Claim::End(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rig;
    use super::*;

    #[test]
    fn an_empty_segment_takes_a_publish_however_small_it_is() {
        let setup = rig::setup(1);
        for file_bytes in [64 << 10, 1 << 20] {
            let empty = file_bytes - SEGMENT_HEADER_BYTES - SEGMENT_RESERVE_BYTES;
            assert!(setup.room_for(Claim::Publish, file_bytes) <= empty);
        }
        let nothing_yet = 0;
        assert!(0 < setup.room_for(Claim::Publish, nothing_yet), "it waits");
    }

    #[test]
    fn each_leaves_room_to_those_behind_it() {
        let setup = rig::setup(1);
        for file_bytes in [1 << 20, 64 << 20] {
            let claims = [Claim::Publish, Claim::State(9), Claim::Upkeep(9), Claim::End(9)];
            let room = claims.map(|claim| setup.room_for(claim, file_bytes));
            assert!(room.is_sorted_by(|more, less| more > less), "{room:?}");
            assert!(room[0] < file_bytes, "a publish fits into an empty segment");
        }
    }
}
