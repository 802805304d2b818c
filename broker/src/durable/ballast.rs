//! Room for a checkpoint on a full disk. Without a checkpoint nothing of a log is trimmed, and a
//! checkpoint needs room itself: so each partition keeps a file of zeros, about as large as its
//! newest one, which is removed before a checkpoint is written while the disk is full, and made
//! again when there is room.

use super::checkpointing::Checkpoints;
use ringlane_dataplane::disk::{BLOCK_BYTES, Disk, DiskEvent, DiskToken, FileId, FileJob};
use ringlane_dataplane::log::format::SEGMENT_HEADER_BYTES;
use ringlane_dataplane::log::writer::Writer;

/// Its name, in the directory of the partition.
pub(crate) const BALLAST_NAME: &str = "checkpoint.reserve";
/// Bytes of it, at least and at most. A larger checkpoint needs room of its own.
const BYTES_MIN: u64 = 256 * 1024;
const BYTES_MAX: u64 = 64 << 20;

/// The file.
#[derive(Debug, Default)]
pub(super) enum Ballast {
    #[default]
    Nothing,
    Coming {
        token: DiskToken,
        file: FileId,
        bytes: u64,
    },
    There(u64),
}

impl Ballast {
    /// What a start has found.
    pub(super) fn found(bytes: Option<u64>) -> Self {
        bytes.map_or(Self::Nothing, Self::There)
    }
}

/// What is kept for a checkpoint that is a little larger than the newest one.
fn wanted(newest: u64) -> u64 {
    let bytes = (newest + newest / 4).clamp(BYTES_MIN, BYTES_MAX);
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

impl Checkpoints {
    /// Once a second: has the file made, or made larger, while there is room.
    pub(super) fn look_after_ballast(&mut self, index: usize, log: &Writer, disk: &mut Disk) {
        let bytes = wanted(self.newest_bytes());
        let is_there = match self.ballast {
            Ballast::Nothing => false,
            Ballast::Coming { .. } => return,
            // What it is short of is made up for at once, and seldom.
            Ballast::There(there) => bytes <= there,
        };
        // A log makes its first segments before it keeps anything else.
        let has_room = log.full().is_none() && log.segments().active().is_some();
        if is_there || !has_room || log.fault().is_some() {
            return;
        }
        self.give_ballast(index, log, disk);
        let (file, path) = (disk.open_id(), log.segments().directory().join(BALLAST_NAME));
        let header = vec![0; SEGMENT_HEADER_BYTES as usize];
        let token = self.job(index, disk, FileJob::Create { file, path, header, bytes });
        self.ballast = Ballast::Coming { token, file, bytes };
    }

    /// The disk is full, and a checkpoint is about to be written.
    pub(super) fn give_ballast(&mut self, index: usize, log: &Writer, disk: &mut Disk) {
        if let Ballast::There(_) = self.ballast {
            let paths = vec![log.segments().directory().join(BALLAST_NAME)];
            self.job(index, disk, FileJob::Remove { paths });
            self.ballast = Ballast::Nothing;
        }
    }

    /// A job has ended. One that could not be made is tried again.
    pub(super) fn on_ballast(&mut self, index: usize, event: &DiskEvent, disk: &mut Disk) {
        let Ballast::Coming { token, file, bytes } = self.ballast else { return };
        if token == event.token {
            self.job(index, disk, FileJob::Close { file });
            let is_there = event.result.is_ok();
            self.ballast = if is_there { Ballast::There(bytes) } else { Ballast::Nothing };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_little_larger_than_the_newest_checkpoint() {
        assert_eq!(wanted(0), BYTES_MIN);
        assert_eq!(wanted(4 << 20), 5 << 20);
        assert_eq!(wanted(1 << 40), BYTES_MAX);
    }
}
