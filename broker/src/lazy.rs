//! State that most clients never need: it takes a pointer until it is written to.

use core::ops::{Deref, DerefMut};

/// A type whose default value can be had for ever.
pub(crate) trait Empty: Default + 'static {
    /// The default value.
    fn empty() -> &'static Self;
}

/// A value that is on the heap from its first change on, and is `T::empty()` before.
#[derive(Debug)]
pub(crate) struct Lazy<T>(Option<Box<T>>);

impl<T> Lazy<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// The value, to be changed, if it ever was.
    pub(crate) fn existing(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Makes the value the default again, and gives its memory back.
    pub(crate) fn reset(&mut self) {
        self.0 = None;
    }
}

impl<T: Empty> Deref for Lazy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::empty())
    }
}

impl<T: Empty> DerefMut for Lazy<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Empty for Vec<u8> {
        fn empty() -> &'static Self {
            const { &Self::new() }
        }
    }

    #[test]
    fn reading_allocates_nothing_and_writing_does() {
        let mut lazy: Lazy<Vec<u8>> = Lazy::new();
        assert!(lazy.is_empty());
        assert!(lazy.existing().is_none());
        lazy.push(1);
        assert_eq!(**lazy, [1]);
        assert!(lazy.existing().is_some());
        lazy.reset();
        assert!(lazy.existing().is_none());
        assert_eq!(size_of::<Lazy<Vec<u8>>>(), size_of::<usize>());
    }
}
