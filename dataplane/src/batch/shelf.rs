//! Empty batches of one size, and the memory that they are made of.

use super::arena::{Arena, CHUNKS};
use super::{ALIGN, Batch, Size};
use triomphe::Arc;

/// Pieces of memory for the batches of one size. A pool keeps what it has once used: 384 batches of each size, 27 MiB with
/// their lists and names, 19 MiB of it in arenas.
const ARENAS_MAX: usize = 6;

/// Where a pool has the batches of one size from.
#[derive(Debug)]
pub(super) struct Shelf {
    size: Size,
    /// They lie in the arenas, so that their number is bounded.
    free: Vec<Arc<Batch>>,
    arenas: Vec<Arena>,
}

impl Shelf {
    pub(super) fn new(size: Size) -> Self {
        Self { size, free: Vec::new(), arenas: Vec::new() }
    }

    /// An empty batch. What is needed at once beyond the arenas has memory of its own for as long as it is used.
    pub(super) fn take(&mut self) -> Arc<Batch> {
        match self.free.pop() {
            Some(batch) => batch,
            None => self.make(),
        }
    }

    #[cold]
    fn make(&mut self) -> Arc<Batch> {
        let bytes = self.size.bytes() + ALIGN;
        let mut chunk = self.arenas.iter().rev().find_map(Arena::take);
        if chunk.is_none() && self.arenas.len() < ARENAS_MAX {
            let arena = Arena::new(bytes);
            chunk = arena.take();
            self.arenas.push(arena);
        }
        Arc::new(Batch::new(self.size, chunk.unwrap_or_else(|| Arena::own(bytes))))
    }

    /// Takes an empty batch back that nobody else has.
    pub(super) fn put_back(&mut self, batch: Arc<Batch>) {
        if batch.arena().is_lasting() {
            debug_assert!(self.free.len() < ARENAS_MAX * CHUNKS, "no more than the arenas have");
            self.free.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_come_one_after_the_other_and_are_bounded() {
        let mut shelf = Shelf::new(Size::Small);
        let mut all: Vec<_> = (0..ARENAS_MAX * CHUNKS).map(|_| shelf.take()).collect();
        assert!(all.iter().all(|batch| batch.arena().is_lasting()));
        assert!(all[0].arena().is_same(all[CHUNKS - 1].arena()));
        assert!(!all[0].arena().is_same(all[CHUNKS].arena()));
        let beyond = shelf.take();
        assert!(!beyond.arena().is_lasting());
        shelf.put_back(beyond);
        assert!(shelf.free.is_empty(), "its memory is not kept");
        all.drain(..).for_each(|batch| shelf.put_back(batch));
        assert_eq!(shelf.free.len(), ARENAS_MAX * CHUNKS);
        assert!(shelf.take().arena().is_lasting());
    }

    #[test]
    fn a_batch_that_never_came_back_leaves_its_chunk() {
        let mut shelf = Shelf::new(Size::Large);
        let all: Vec<_> = (0..ARENAS_MAX * CHUNKS).map(|_| shelf.take()).collect();
        drop(all);
        assert!(shelf.free.is_empty() && shelf.take().arena().is_lasting());
        assert_eq!(shelf.arenas.len(), ARENAS_MAX);
    }
}
