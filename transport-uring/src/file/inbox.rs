//! Where a thread waits for operations: asleep, or awake for a moment if the next one came soon of late.
//!
//! A lone publisher that waits for each acknowledgement has its next message written some 100 us after
//! the last sync: to wake a thread for it would take as long as a third of the sync itself.

use super::operation::FileOperation;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

/// The operations of one thread.
#[derive(Debug)]
pub(super) struct Inbox {
    operations: Receiver<FileOperation>,
    /// How long it waits awake.
    spin: Duration,
    /// Whether the last operation came within that time.
    was_soon: bool,
}

impl Inbox {
    pub(super) fn new(operations: Receiver<FileOperation>, spin: Duration) -> Self {
        Self { operations, spin, was_soon: false }
    }

    /// The next operation; `None` once there will be no more.
    pub(super) fn next(&mut self) -> Option<FileOperation> {
        if self.spin.is_zero() {
            return self.operations.recv().ok();
        }
        let begun = Instant::now();
        let next = match self.look(begun) {
            Err(TryRecvError::Empty) => self.operations.recv().ok(),
            looked => looked.ok(),
        };
        self.was_soon = begun.elapsed() < self.spin;
        next
    }

    /// Looks again and again, as long as that is likely to be worth it, and gives way to whoever else
    /// wants the CPU.
    fn look(&self, begun: Instant) -> Result<FileOperation, TryRecvError> {
        loop {
            let looked = self.operations.try_recv();
            let is_over = !self.was_soon || self.spin <= begun.elapsed();
            if is_over || !matches!(looked, Err(TryRecvError::Empty)) {
                return looked;
            }
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::open::OpenFile;
    use super::super::operation::Work;
    use super::*;
    use ringlane_dataplane::disk::{DiskToken, FileId};
    use std::fs::File;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    fn operation(token: u64) -> FileOperation {
        let open = Arc::new(OpenFile::new(File::open("/dev/null").unwrap()));
        let work = Work::Read { buffer: Vec::new() };
        FileOperation::new(DiskToken(token), FileId(0), open, work, 0)
    }

    #[test]
    fn what_was_sent_comes_in_its_order_awake_or_asleep() {
        for (spin, was_soon) in [(Duration::ZERO, false), (Duration::from_secs(60), true)] {
            let (sender, operations) = channel();
            let mut inbox = Inbox::new(operations, spin);
            let sending = thread::spawn(move || {
                (0..100).for_each(|token| sender.send(operation(token)).unwrap());
            });
            for token in 0..100 {
                assert_eq!(inbox.next().map(|next| next.token), Some(DiskToken(token)));
                assert_eq!(inbox.was_soon, was_soon);
            }
            sending.join().unwrap();
            assert!(inbox.next().is_none(), "nobody sends any more");
        }
    }

    #[test]
    fn nothing_is_waited_for_awake_where_the_last_one_came_late() {
        let (sender, operations) = channel();
        let mut inbox = Inbox::new(operations, Duration::from_secs(60));
        assert!(matches!(inbox.look(Instant::now()), Err(TryRecvError::Empty)), "it is the first");
        inbox.was_soon = true;
        sender.send(operation(7)).unwrap();
        assert!(inbox.look(Instant::now()).is_ok_and(|next| next.token == DiskToken(7)));
        inbox.spin = Duration::ZERO;
        assert!(matches!(inbox.look(Instant::now()), Err(TryRecvError::Empty)), "it is over");
    }
}
