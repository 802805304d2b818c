//! An open file and its first error, which is final.

use super::beside::Beside;
use core::sync::atomic::{AtomicI32, Ordering};
use ringlane_dataplane::disk::DiskError;
use std::fs::File;
use std::sync::Mutex;

/// A file that the core and the threads share.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    /// The first error of a write or a sync; 0 if there was none.
    errno: AtomicI32,
    /// The way past the page cache, once it was looked for. A log has one write under way: nobody waits for another.
    pub(super) beside: Mutex<Option<Beside>>,
}

impl OpenFile {
    pub(crate) fn new(file: File) -> Self {
        Self { file, errno: AtomicI32::new(0), beside: Mutex::new(None) }
    }

    /// Whether it may still be written and synced.
    pub(crate) fn check(&self) -> Result<(), DiskError> {
        match self.errno.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(DiskError::from_errno(errno)),
        }
    }

    /// What comes of a write or a sync: the first error stays, and what succeeds beside it does
    /// not count, because it may have succeeded without the pages that were lost.
    pub(crate) fn settle(&self, result: Result<(), i32>) -> Result<(), DiskError> {
        if let Err(errno) = result {
            let orders = (Ordering::AcqRel, Ordering::Acquire);
            // Either way there is a first error now.
            let _ = self.errno.compare_exchange(0, errno, orders.0, orders.1);
        }
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_final() {
        let open = OpenFile::new(File::open("/dev/null").unwrap());
        assert_eq!(open.settle(Ok(())), Ok(()));
        let first = DiskError::from_errno(libc::ENOSPC);
        assert_eq!(open.settle(Err(libc::ENOSPC)), Err(first));
        assert_eq!(open.settle(Err(libc::EIO)), Err(first));
        assert_eq!(open.settle(Ok(())), Err(first));
    }
}
