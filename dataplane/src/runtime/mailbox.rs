//! A bounded one-way queue from one core to another: a ring with one sender and one receiver.
//!
//! What is pushed is invisible to the receiver until [`Sender::publish`], so that a turn costs one
//! release store per peer and not one per mail. Each side keeps a private copy of the other side's
//! index and reads the shared one only when that copy says full (or empty); the receiver gives slots
//! back in batches. So in steady state a cache line crosses between the cores per batch, not per mail.
//!
//! Indices only grow and wrap at `usize`; a slot is `index & mask`. The invariants that the `unsafe`
//! blocks rely on, with head and tail being [`Shared::head`] and [`Shared::tail`]:
//!
//! 1. `head <= Receiver::next <= tail <= Sender::next <= head + capacity`, in wrapping distance.
//! 2. Slots in `Receiver::next..tail` are initialised and belong to the receiver; slots in
//!    `tail..Sender::next` are initialised and belong to the sender; all others hold nothing
//!    and may be written by the sender alone.
//! 3. Only the sender stores `tail` and only the receiver stores `head`, each with Release, and
//!    each side loads the other's with Acquire before it touches the slots that this gave it.

use super::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};
use core::fmt;
use core::mem::MaybeUninit;
use crossbeam_utils::CachePadded;

struct Shared<T> {
    /// First index that the sender may not reuse yet: what the receiver has given back.
    head: CachePadded<AtomicUsize>,
    /// First index that the receiver may not read yet: what the sender has published.
    tail: CachePadded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by one side at a time (invariants 2 and 3 of the module), and a value
// only moves from one thread to another, which `T: Send` allows. No `&T` is ever shared.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // The length is a power of two (asserted by `mailbox`), so the mask is its predecessor.
        &self.slots[index & (self.slots.len() - 1)]
    }

    /// Writes a slot that holds nothing and belongs to the sender.
    fn write(&self, index: usize, value: T) {
        self.slot(index).with_mut(|slot| {
            // SAFETY: only `Sender::push` calls this, with `index == Sender::next` and
            // `next - head < capacity` checked on an Acquire load of `head`, so the slot is the
            // sender's and empty (invariants 1 and 2); `with_mut` gives a valid, aligned pointer.
            unsafe { slot.cast::<T>().write(value) }
        });
    }

    /// Moves the value out of an initialised slot that belongs to the caller.
    fn take(&self, index: usize) -> T {
        self.slot(index).with_mut(|slot| {
            // SAFETY: every caller names an initialised slot of its own and steps past it, so it is
            // read once: `Receiver::pop` reads `next < tail` after an Acquire load of `tail`,
            // `Sender::drop` reads `tail..next`, which was never published, and `Shared::drop`
            // reads `head..tail` when both sides are gone (invariant 2).
            unsafe { slot.cast::<T>().read() }
        })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone and their drops stored the final indices; the reference count
        // orders those stores before this.
        let tail = self.tail.load(Ordering::Acquire);
        let mut index = self.head.load(Ordering::Acquire);
        while index != tail {
            drop(self.take(index));
            index = index.wrapping_add(1);
        }
    }
}

/// The writing end of a mailbox.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    /// The index that the next push takes.
    next: usize,
    /// What `Shared::tail` is.
    published: usize,
    /// What `Shared::head` was when it was last read; never ahead of it.
    head_seen: usize,
}

/// The reading end of a mailbox.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The index that the next pop takes.
    next: usize,
    /// What `Shared::head` is.
    given_back: usize,
    /// What `Shared::tail` was when it was last read; never ahead of it.
    tail_seen: usize,
    /// How many slots are given back at once at the latest.
    batch: usize,
}

/// Builds a mailbox for `capacity` items, rounded up to a power of two and to at least 2.
///
/// # Panics
/// If the capacity is above half of the address space.
#[must_use]
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let capacity = capacity.max(2).checked_next_power_of_two().expect("mailbox capacity too large");
    let slots = (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        slots,
    });
    let sender = Sender { shared: Arc::clone(&shared), next: 0, published: 0, head_seen: 0 };
    let batch = (capacity / 4).max(1);
    (sender, Receiver { shared, next: 0, given_back: 0, tail_seen: 0, batch })
}

impl<T: Send> Sender<T> {
    /// Puts an item in. The receiver sees it after [`Sender::publish`].
    ///
    /// # Errors
    /// The item, if the mailbox is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.used() == self.capacity() {
            self.head_seen = self.shared.head.load(Ordering::Acquire);
            if self.used() == self.capacity() {
                return Err(item);
            }
        }
        self.shared.write(self.next, item);
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Shows the receiver everything pushed so far. Returns whether anything was new.
    pub fn publish(&mut self) -> bool {
        if self.published == self.next {
            return false;
        }
        self.shared.tail.store(self.next, Ordering::Release);
        self.published = self.next;
        true
    }

    /// How many items can be pushed for sure.
    pub fn free(&mut self) -> usize {
        if self.used() > 0 {
            self.head_seen = self.shared.head.load(Ordering::Acquire);
        }
        self.capacity() - self.used()
    }

    /// How many items fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity()
    }

    fn used(&self) -> usize {
        self.next.wrapping_sub(self.head_seen)
    }
}

impl<T> Drop for Sender<T> {
    /// Drops what was pushed and never published; the receiver keeps the rest.
    fn drop(&mut self) {
        while self.published != self.next {
            drop(self.shared.take(self.published));
            self.published = self.published.wrapping_add(1);
        }
    }
}

impl<T: Send> Receiver<T> {
    /// Takes the oldest published item.
    pub fn pop(&mut self) -> Option<T> {
        if self.next == self.tail_seen {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
            if self.next == self.tail_seen {
                self.give_back();
                return None;
            }
        }
        let item = self.shared.take(self.next);
        self.next = self.next.wrapping_add(1);
        if self.next.wrapping_sub(self.given_back) >= self.batch {
            self.give_back();
        }
        Some(item)
    }

    /// Whether an item is there.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.next != self.tail_seen || self.next != self.shared.tail.load(Ordering::Acquire)
    }

    /// Whether no item is there.
    pub fn is_empty(&mut self) -> bool {
        !self.has_mail()
    }

    /// Lets the sender reuse the slots of all items taken so far; one store at most.
    fn give_back(&mut self) {
        if self.given_back != self.next {
            self.shared.head.store(self.next, Ordering::Release);
            self.given_back = self.next;
        }
    }
}

impl<T> Drop for Receiver<T> {
    /// Gives back what was taken, so that whoever goes last drops exactly the rest.
    fn drop(&mut self) {
        self.shared.head.store(self.next, Ordering::Release);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("next", &self.next)
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
#[path = "mailbox_tests.rs"]
mod tests;
