//! The batches that a leader has sealed last: what followers in step are sent from memory.

use crate::batch::Batch;
use crate::ids::Offset;
use std::collections::VecDeque;
use triomphe::Arc;

/// Bytes of records that are kept for followers that lag; further back they are read from the log.
const BYTES_MAX: u64 = 4 << 20;
/// Batches, likewise: small ones have more memory than records.
const BATCHES_MAX: usize = 1024;

/// Batches one behind the other.
#[derive(Debug, Default)]
pub(super) struct Tail {
    batches: VecDeque<(Offset, Arc<Batch>)>,
    bytes: u64,
}

impl Tail {
    pub(super) fn push(&mut self, batch: Arc<Batch>, first: Offset) {
        self.bytes += u64::from(batch.body_bytes());
        self.batches.push_back((first, batch));
        while self.bytes > BYTES_MAX || self.batches.len() > BATCHES_MAX {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, batch)) = self.batches.pop_front() {
            self.bytes -= u64::from(batch.body_bytes());
        }
    }

    /// Nobody needs what is below `offset`.
    pub(super) fn release(&mut self, offset: Offset) {
        while self.batches.front().is_some_and(|(first, batch)| end(*first, batch) <= offset) {
            self.pop();
        }
    }

    /// The batch that begins with `offset`.
    pub(super) fn find(&self, offset: Offset) -> Option<&Arc<Batch>> {
        let index = self.batches.binary_search_by_key(&offset, |(first, _)| *first).ok()?;
        Some(&self.batches[index].1)
    }
}

fn end(first: Offset, batch: &Batch) -> Offset {
    Offset(first.0 + batch.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchPool;
    use crate::message::MessageMeter;

    #[test]
    fn the_last_batches_are_found_until_they_are_released_or_too_many() {
        let mut pool = BatchPool::new(MessageMeter::leaked());
        let mut tail = Tail::default();
        for first in [5, 8, 11] {
            tail.push(pool.copy_records(&[1; 10], 3), Offset(first));
        }
        assert!(tail.find(Offset(8)).is_some() && tail.find(Offset(9)).is_none());
        tail.release(Offset(10));
        assert!(tail.find(Offset(5)).is_none() && tail.find(Offset(8)).is_some());
        tail.push(pool.copy_records(&vec![1; 5 << 20], 1), Offset(14));
        assert_eq!((tail.bytes, tail.batches.len()), (0, 0), "it fits nowhere");
        for first in 0..2000 {
            tail.push(pool.copy_records(&[1; 10], 1), Offset(first));
        }
        assert_eq!(tail.batches.len(), BATCHES_MAX);
    }
}
