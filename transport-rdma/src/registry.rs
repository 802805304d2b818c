//! The arenas of batches that one link may send from without a copy.
//!
//! An arena is registered when the first body in it is sent, and stays so until the link is over: batches come there
//! again and again. What cannot be registered is copied, as what lies in no arena is.

use crate::error::RdmaError;
use ringlane_dataplane::batch::Arena;

/// Arenas of a link, at most: those of its core's pool, twice over.
const ARENAS_MAX: usize = 24;

/// Which arenas are registered, and as what.
#[derive(Debug)]
pub(crate) struct Registry<R> {
    known: Vec<(Arena, R)>,
    /// Why the last one was not registered, until it is taken.
    refusal: Option<RdmaError>,
    /// One was refused: no other one is tried.
    has_given_up: bool,
}

impl<R> Registry<R> {
    pub(crate) fn new() -> Self {
        Self { known: Vec::new(), refusal: None, has_given_up: false }
    }

    /// Which arena `bytes` lie in, and where; `None` if they have to be copied.
    pub(crate) fn place_of(
        &mut self,
        bytes: &[u8],
        arena: &Arena,
        register: impl FnOnce(&Arena) -> Result<R, RdmaError>,
    ) -> Option<(usize, usize)> {
        let known = self.known.iter().position(|(known, _)| known.is_same(arena));
        let index = known.or_else(|| self.add(arena, register))?;
        arena.position_of(bytes).map(|at| (index, at))
    }

    fn add(
        &mut self,
        arena: &Arena,
        register: impl FnOnce(&Arena) -> Result<R, RdmaError>,
    ) -> Option<usize> {
        if !arena.is_lasting() || self.has_given_up || self.known.len() == ARENAS_MAX {
            return None;
        }
        match register(arena) {
            Ok(region) => {
                self.known.push((arena.clone(), region));
                Some(self.known.len() - 1)
            }
            Err(error) => {
                (self.refusal, self.has_given_up) = (Some(error), true);
                None
            }
        }
    }

    /// What an arena is registered as.
    pub(crate) fn get(&self, index: usize) -> &R {
        &self.known[index].1
    }

    /// An arena that is registered.
    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn arena(&self, index: usize) -> &Arena {
        &self.known[index].0
    }

    #[cfg(any(test, feature = "fake"))]
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Why arenas are not registered, once.
    pub(crate) fn take_refusal(&mut self) -> Option<RdmaError> {
        self.refusal.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_dataplane::batch::{Batch, BatchPool};
    use ringlane_dataplane::message::MessageMeter;

    type Batches = Vec<triomphe::Arc<Batch>>;

    fn batches(bytes: &[usize]) -> Batches {
        let mut pool = BatchPool::new(MessageMeter::leaked());
        bytes.iter().map(|bytes| pool.copy_records(&vec![1; *bytes], 1)).collect()
    }

    fn place<R>(
        registry: &mut Registry<R>,
        batch: &Batch,
        register: impl FnOnce(&Arena) -> Result<R, RdmaError>,
    ) -> Option<(usize, usize)> {
        registry.place_of(batch.body(), batch.arena(), register)
    }

    fn refused<R>() -> Result<R, RdmaError> {
        Err(RdmaError::Setting("locked memory".to_owned()))
    }

    #[test]
    fn an_arena_is_registered_once_and_what_is_none_never() {
        let (mut registry, mut count) = (Registry::new(), 0);
        let places: Vec<_> = batches(&[100, 100, 100_000])
            .iter()
            .map(|batch| {
                place(&mut registry, batch, |_| {
                    count += 1;
                    Ok(())
                })
            })
            .collect();
        let [Some((0, one)), Some((0, two)), None] = places[..] else { panic!("{places:?}") };
        assert_ne!(one, two);
        assert_eq!(count, 1);
        assert!(registry.take_refusal().is_none());
    }

    #[test]
    fn after_a_refusal_nothing_is_tried_and_it_is_said_once() {
        let (mut registry, mut tried) = (Registry::<()>::new(), 0);
        for batch in batches(&[100, 10_000, 100]) {
            let found = place(&mut registry, &batch, |_| {
                tried += 1;
                refused()
            });
            assert_eq!(found, None);
        }
        assert_eq!(tried, 1);
        assert!(registry.take_refusal().is_some() && registry.take_refusal().is_none());
    }

    #[test]
    fn what_was_registered_before_a_refusal_is_used_on() {
        let (mut registry, batches) = (Registry::new(), batches(&[100, 10_000]));
        let first = place(&mut registry, &batches[0], |_| Ok(7));
        assert!(first.is_some());
        assert_eq!(place(&mut registry, &batches[1], |_| refused()), None);
        assert_eq!(place(&mut registry, &batches[0], |_| Ok(8)), first);
        assert_eq!(*registry.get(0), 7);
    }
}
