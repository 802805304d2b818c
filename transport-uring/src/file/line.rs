//! Jobs that wait for their thread. They are done in the order in which they were given, but for one
//! thing: a file that the log goes on in, or that it replaces, does not wait for those that are only
//! opened to be read. On a slow disk many replays would keep publishers waiting otherwise.

use ringlane_dataplane::disk::{DiskToken, FileId, FileJob};
use std::collections::VecDeque;

/// A job and its token.
pub(super) type Given = (DiskToken, FileJob);

/// The jobs that wait.
#[derive(Debug, Default)]
pub(super) struct Line(VecDeque<Given>);

impl Line {
    pub(super) fn push(&mut self, given: Given) {
        self.0.push_back(given);
    }

    /// The job that is done next.
    pub(super) fn pop(&mut self) -> Option<Given> {
        self.0.remove(self.first_urgent().unwrap_or(0))
    }

    /// The first job that may overtake all those before it.
    fn first_urgent(&self) -> Option<usize> {
        let can_wait =
            |(_, job): &&Given| matches!(job, FileJob::Open { .. } | FileJob::Close { .. });
        let index = self.0.iter().take_while(can_wait).count();
        let (_, job) = self.0.get(index)?;
        let is_urgent = match job {
            // An id is used again as soon as its file is to be closed.
            FileJob::Create { file, .. } => !self.closes(*file, index),
            FileJob::Replace { .. } => true,
            _ => false,
        };
        is_urgent.then_some(index)
    }

    /// Whether a file is closed by one of the first jobs.
    fn closes(&self, id: FileId, first: usize) -> bool {
        let mut jobs = self.0.range(..first);
        jobs.any(|(_, job)| matches!(job, FileJob::Close { file } if *file == id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn open(id: u32) -> FileJob {
        FileJob::Open { file: FileId(id), path: PathBuf::new() }
    }

    fn close(id: u32) -> FileJob {
        FileJob::Close { file: FileId(id) }
    }

    fn create(id: u32) -> FileJob {
        FileJob::Create { file: FileId(id), path: PathBuf::new(), header: Vec::new(), bytes: 0 }
    }

    fn replace() -> FileJob {
        FileJob::Replace { path: PathBuf::new(), content: Vec::new() }
    }

    fn remove() -> FileJob {
        FileJob::Remove { paths: Vec::new() }
    }

    /// The order in which jobs are done that were given at once.
    fn order(jobs: Vec<FileJob>) -> Vec<u64> {
        let mut line = Line::default();
        for (number, job) in (0..).zip(jobs) {
            line.push((DiskToken(number), job));
        }
        core::iter::from_fn(|| line.pop()).map(|(token, _)| token.0).collect()
    }

    #[test]
    fn the_next_segment_overtakes_files_that_are_opened_to_be_read() {
        assert_eq!(order(vec![open(1), close(2), open(3), create(4)]), [3, 0, 1, 2]);
        assert_eq!(order(vec![open(1), open(2), replace(), create(4)]), [2, 3, 0, 1]);
    }

    #[test]
    fn nothing_else_is_overtaken_nor_the_close_of_the_same_id() {
        assert_eq!(order(vec![open(1), remove(), create(4)]), [0, 1, 2]);
        assert_eq!(order(vec![open(1), close(4), open(3), create(4)]), [0, 1, 3, 2]);
        assert_eq!(order(vec![create(1), create(2), remove(), replace()]), [0, 1, 2, 3]);
    }
}
