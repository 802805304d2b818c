//! The records of a message, sent from the batch that they lie in.

use crate::batch::{Arena, Batch};
use core::ops::Range;
use triomphe::Arc;

/// A part of the body of a sealed batch, which it keeps.
#[derive(Clone, Debug)]
pub struct Body {
    batch: Arc<Batch>,
    start: u32,
    end: u32,
}

impl Body {
    /// All of a batch, with the padding behind it.
    #[must_use]
    pub fn new(batch: Arc<Batch>) -> Self {
        let end = batch.body().len() as u32;
        Self { batch, start: 0, end }
    }

    /// Some of them, as positions in [`Batch::body`].
    ///
    /// # Panics
    /// If the batch has no such bytes.
    #[must_use]
    pub fn part(batch: Arc<Batch>, range: Range<u32>) -> Self {
        let is_within = range.start <= range.end && range.end as usize <= batch.body().len();
        assert!(is_within, "within the batch");
        Self { batch, start: range.start, end: range.end }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.batch.body()[self.start as usize..self.end as usize]
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The memory that they lie in. They stay there, unchanged, as long as this value or another one
    /// keeps the batch.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        self.batch.arena()
    }

    /// The batch that it keeps.
    #[must_use]
    pub fn batch(&self) -> &Arc<Batch> {
        &self.batch
    }
}
