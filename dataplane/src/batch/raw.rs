//! Batches of records that another node has made: their bytes as they came, for the log alone.
//!
//! No list of their parts is kept: whoever applies them reads the body
//! ([`crate::log::record::parse`]).

use super::{ALIGN, Batch, BatchPool, Size};
use crate::message::{Charge, MessageMeter};
use triomphe::Arc;

impl BatchPool {
    /// A sealed batch that holds a copy of `body`: this many records, one behind the other. They are
    /// not checked; who does not believe them does so in the copy, which nobody else can change.
    ///
    /// [`BatchPool::give_out`] takes it back, as any other.
    ///
    /// # Panics
    /// If the body is longer than 4 GiB.
    #[must_use]
    pub fn copy_records(&mut self, body: &[u8], records: u32) -> Arc<Batch> {
        let body_bytes = u32::try_from(body.len()).expect("a body is shorter than 4 GiB");
        let mut batch = self.take_raw(body.len());
        let filled = Arc::get_mut(&mut batch).expect("nobody reads a batch that was just taken");
        filled.bytes.extend_from_slice(body);
        filled.bytes.resize(body.len().next_multiple_of(ALIGN), 0);
        (filled.body_bytes, filled.raw_records) = (body_bytes, records);
        batch
    }

    fn take_raw(&mut self, bytes: usize) -> Arc<Batch> {
        let (size, free) = if bytes <= Size::Small.bytes() {
            (Size::Small, &mut self.free_small)
        } else if bytes <= Size::Large.bytes() {
            (Size::Large, &mut self.free_large)
        } else {
            return Arc::new(Batch::own_raw(bytes, self.meter));
        };
        self.meter.add(size.memory_bytes() as u64);
        free.pop().unwrap_or_else(|| Arc::new(Batch::new(size)))
    }
}

impl Batch {
    fn own_raw(bytes: usize, meter: &'static MessageMeter) -> Self {
        let charge = Charge::new(meter, (bytes + size_of::<Self>()) as u64);
        Self::with_room(Size::Own, 0, bytes, Some(charge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_padded_and_comes_back_to_the_pool() {
        let mut pool = BatchPool::new(MessageMeter::leaked());
        for bytes in [5, 2048, 2049, 48 * 1024] {
            let body = vec![7; bytes];
            let batch = pool.copy_records(&body, 3);
            assert_eq!((batch.len(), batch.body_bytes() as usize), (3, bytes));
            assert_eq!(batch.body()[..bytes], body);
            assert_eq!(batch.body().len(), bytes.next_multiple_of(8));
            assert!(batch.body()[bytes..].iter().all(|&byte| byte == 0));
            assert!(pool.meter.bytes() > bytes as u64);
            pool.give_out(batch);
            assert_eq!(pool.meter.bytes(), 0);
        }
        let again = pool.copy_records(&[1; 9], 1);
        assert_eq!(
            (again.len(), again.body()),
            (1, &[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0][..])
        );
    }

    #[test]
    fn what_is_too_long_for_the_pool_is_charged_while_it_lives() {
        let mut pool = BatchPool::new(MessageMeter::leaked());
        let batch = pool.copy_records(&vec![1; 100_000], 1);
        assert!(pool.meter.bytes() > 100_000);
        let held = batch.clone();
        pool.give_out(batch);
        drop(held);
        assert_eq!(pool.meter.bytes(), 0);
    }
}
