//! Memory of batches: chunks of one size, many of them in one piece.
//!
//! Who sends from batches by other means than system calls may prepare such a piece for its device once, instead
//! of each batch: it learns of a piece from what it is to send ([`Body::arena`](crate::link::Body::arena)), keeps a handle on it,
//! and finds bytes in it by their address. Nothing else is known of devices here.
//!
//! A chunk belongs to one [`Bytes`] alone until that is dropped. All of a piece holds zeros at first, and is not touched
//! before it is used.

use crate::log::record::Out;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};
use triomphe::Arc;

/// Chunks of a piece that is made for many: one for each bit of a word.
pub(super) const CHUNKS: usize = 64;
/// Chunks begin at multiples of this in their piece: a line of the processor's cache.
const CHUNK_ALIGN: usize = 64;

/// A piece of memory that batches lie in. It goes with the last of its handles and chunks.
#[derive(Clone, Debug)]
pub struct Arena(Arc<Piece>);

struct Piece {
    start: NonNull<u8>,
    bytes: usize,
    chunk_bytes: usize,
    /// Whether it is made for many batches, one after the other.
    is_lasting: bool,
    /// A bit for each chunk that nobody has.
    free: AtomicU64,
}

// SAFETY: the memory belongs to this value alone, and a chunk of it to one `Bytes` at a time (`take`).
unsafe impl Send for Piece {}
// SAFETY: shared use reads lengths and takes or gives back chunks by an atomic; what is in a chunk is
// reached through the one `Bytes` that has it.
unsafe impl Sync for Piece {}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece").field("start", &self.start).field("bytes", &self.bytes).finish()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let memory = core::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.bytes);
        // SAFETY: from `Box::into_raw` in `Arena::with`, taken back once, here; each chunk that is in
        // use keeps an `Arc` of this value, so that none is.
        drop(unsafe { Box::from_raw(memory) });
    }
}

impl Arena {
    /// For [`CHUNKS`] chunks of so many bytes at least.
    pub(super) fn new(chunk_bytes: usize) -> Self {
        Self::with(chunk_bytes.next_multiple_of(CHUNK_ALIGN), CHUNKS, u64::MAX, true)
    }

    /// A chunk that has its piece for itself.
    pub(super) fn own(bytes: usize) -> Bytes {
        let made = Self::with(bytes.max(1), 1, 1, false);
        made.take().expect("nobody has it")
    }

    fn with(chunk_bytes: usize, chunks: usize, free: u64, is_lasting: bool) -> Self {
        // Zeros that the allocator has from the kernel are no memory before they are written.
        let memory = vec![0_u8; chunk_bytes * chunks].into_boxed_slice();
        let bytes = memory.len();
        let start = NonNull::from(Box::leak(memory)).cast();
        let free = AtomicU64::new(free);
        Self(Arc::new(Piece { start, bytes, chunk_bytes, is_lasting, free }))
    }

    /// A chunk that nobody has. Only the pool takes, so that a bit that is set stays set meanwhile.
    pub(super) fn take(&self) -> Option<Bytes> {
        let piece = &*self.0;
        // Acquire: what its last owner did to the chunk came before.
        let free = piece.free.load(Ordering::Acquire);
        let index = free.trailing_zeros();
        let bit = 1_u64.checked_shl(index)?;
        let was = piece.free.fetch_and(!bit, Ordering::AcqRel);
        assert_ne!(was & bit, 0, "one takes chunks at a time");
        let at = index as usize * piece.chunk_bytes;
        // SAFETY: bits are set for chunks that are inside of the piece only (`with`).
        let start = unsafe { piece.start.add(at) };
        Some(Bytes { start, len: 0, capacity: piece.chunk_bytes, bit, arena: self.clone() })
    }

    /// Whether batches come here again and again, so that preparing it is worth while.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.0.is_lasting
    }

    /// Its first byte.
    #[must_use]
    pub fn start(&self) -> *const u8 {
        self.0.start.as_ptr()
    }

    /// Bytes of it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.bytes
    }

    /// Whether it has none: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.bytes == 0
    }

    /// Where in it `bytes` lie; `None` if they do not.
    #[must_use]
    pub fn position_of(&self, bytes: &[u8]) -> Option<usize> {
        let at = (bytes.as_ptr() as usize).checked_sub(self.start() as usize)?;
        (bytes.len() <= self.len().checked_sub(at)?).then_some(at)
    }

    /// Reads as a device does, which asks nobody.
    ///
    /// # Panics
    /// If the range is not inside.
    ///
    /// # Safety
    /// Nobody writes to it meanwhile: who has the chunks is on the same thread, or leaves them alone.
    pub unsafe fn read(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.len() && into.len() <= self.len() - at, "outside of the arena");
        let from = self.start().wrapping_add(at);
        // SAFETY: inside (line above), all of it was written at least with zeros, and nobody writes
        // now (this function's contract); `into` is a unique borrow of other memory for the same reason.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    /// Whether two handles are of one piece.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The chunk of one batch, filled from its beginning.
pub(super) struct Bytes {
    start: NonNull<u8>,
    len: usize,
    capacity: usize,
    bit: u64,
    arena: Arena,
}

// SAFETY: the chunk is this value's alone from `Arena::take` to its drop, as the memory of a `Vec`.
unsafe impl Send for Bytes {}
// SAFETY: shared use only reads.
unsafe impl Sync for Bytes {}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} of {})", self.len, self.capacity)
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // Release: what was done to the chunk comes before whoever takes it next.
        self.arena.0.free.fetch_or(self.bit, Ordering::Release);
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes of the chunk, which holds bytes from the beginning (`Arena::with`), lives as long
        // as `arena`, and is written through `&mut self` alone.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Bytes {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and this borrow is the only one.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Bytes {
    /// Bytes that it takes still.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Forgets what is in it.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// The next bytes, counted as filled. What is in them is left from before.
    ///
    /// # Panics
    /// If there is no room for them.
    #[inline]
    pub(super) fn grow(&mut self, bytes: usize) -> &mut [u8] {
        assert!(bytes <= self.room(), "more than the chunk takes");
        let at = self.len;
        self.len += bytes;
        &mut self[at..]
    }

    /// Adds bytes.
    ///
    /// # Panics
    /// If there is no room for them.
    #[inline]
    pub(super) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    /// Adds zeros up to a multiple of `align`.
    ///
    /// # Panics
    /// If there is no room for them.
    pub(super) fn pad(&mut self, align: usize) {
        let padding = self.len.next_multiple_of(align) - self.len;
        self.grow(padding).fill(0);
    }

    /// Where it lies.
    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }
}

impl Out for Bytes {
    #[inline]
    fn grow(&mut self, bytes: usize) -> &mut [u8] {
        Self::grow(self, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_apart_and_come_back() {
        let arena = Arena::new(100);
        let mut all: Vec<Bytes> = core::iter::from_fn(|| arena.take()).collect();
        assert_eq!((all.len(), arena.len()), (CHUNKS, CHUNKS * 128));
        for (number, bytes) in all.iter_mut().enumerate() {
            bytes.grow(128).fill(number as u8);
        }
        for (number, bytes) in all.iter().enumerate() {
            assert!(bytes.iter().all(|&byte| byte == number as u8));
            assert_eq!(arena.position_of(bytes), Some(128 * number));
        }
        drop(all.swap_remove(17));
        let again = arena.take().expect("one came back");
        assert_eq!((arena.position_of(&again), again.len()), (Some(17 * 128), 0));
        assert!(arena.take().is_none());
    }

    #[test]
    fn a_chunk_outlives_the_handles_on_its_piece_and_goes_on_other_threads() {
        let arena = Arena::new(64);
        let mut bytes = arena.take().expect("a chunk");
        drop(arena);
        bytes.extend_from_slice(b"payload");
        let arena = bytes.arena().clone();
        std::thread::spawn(move || assert_eq!(&*bytes, b"payload")).join().expect("read");
        let all: Vec<Bytes> = core::iter::from_fn(|| arena.take()).collect();
        assert_eq!(all.len(), CHUNKS, "it came back");
    }

    #[test]
    fn padding_is_zeros_and_what_was_there_before_is_not_seen() {
        let mut bytes = Arena::own(16);
        assert!(!bytes.arena().is_lasting() && bytes.arena().take().is_none());
        bytes.grow(16).fill(9);
        bytes.clear();
        bytes.extend_from_slice(b"12345");
        bytes.pad(8);
        assert_eq!((&*bytes, bytes.room()), (&b"12345\0\0\0"[..], 8));
    }

    #[test]
    fn what_lies_elsewhere_has_no_position() {
        let (one, other) = (Arena::new(64), Arena::new(64));
        let bytes = one.take().expect("a chunk");
        assert!(other.position_of(&bytes).is_none() && one.position_of(&bytes).is_some());
        assert!(!one.is_same(&other) && one.is_same(bytes.arena()));
    }

    #[test]
    #[should_panic(expected = "more than the chunk takes")]
    fn nothing_goes_beyond_a_chunk() {
        Arena::own(8).extend_from_slice(&[0; 9]);
    }
}
