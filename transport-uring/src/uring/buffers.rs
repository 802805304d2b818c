//! Receive buffers that the kernel takes by itself: a ring of addresses, and the memory behind.
//!
//! One anonymous mapping holds both. A buffer belongs to the kernel while it is in the ring,
//! and to the core from the completion that names it until [`BufferRing::give_back`]. One that was
//! lent goes back into the ring only when the last handle on it is gone.

use core::cell::Cell;
use core::sync::atomic::{AtomicU16, Ordering};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use ringlane_dataplane::net::ReceiveBuffer;
use std::io;
use std::rc::Rc;

/// Receive buffers of one size and their numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferGroup {
    /// What receives name.
    pub(crate) group: u16,
    /// The number of the first buffer; the others follow.
    pub(crate) first: u16,
    /// How many, a power of two.
    pub(crate) entries: u16,
    /// Bytes of each.
    pub(crate) buffer_bytes: u32,
}

/// The receive buffers of one group.
pub(crate) struct BufferRing {
    mapping: Rc<Mapping>,
    /// Of each buffer, the handle that others are cloned from. Empty until one is lent.
    handles: Vec<Rc<Handle>>,
    /// The numbers of buffers that were given back and have handles still.
    kept: Vec<u16>,
    first: u16,
    /// Where the buffers start in the mapping, behind the ring of addresses.
    buffers_at: usize,
    entries: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl BufferRing {
    /// Registers the buffers of a group.
    pub(crate) fn register(
        uring: &mut IoUring,
        buffers: BufferGroup,
        flags: u16,
    ) -> io::Result<Self> {
        let BufferGroup { group, first, entries, buffer_bytes } = buffers;
        assert!(entries.is_power_of_two(), "the ring's positions wrap by a mask");
        let ring_bytes = usize::from(entries) * size_of::<BufRingEntry>();
        // Buffers start on a cache line; a page would leave most of it unused in small rings.
        let buffers_at = ring_bytes.next_multiple_of(256);
        let bytes = buffers_at + usize::from(entries) * buffer_bytes as usize;
        let mapping = Rc::new(Mapping::new(bytes)?);
        let address = mapping.start as u64;
        let submitter = uring.submitter();
        // SAFETY: the mapping is page-aligned, holds `entries` entries at its start, and outlives
        // the ring: the engine drops its ring first (`UringEngine`, order of fields).
        unsafe { submitter.register_buf_ring_with_flags(address, entries, group, flags) }?;
        let (handles, kept) = (Vec::new(), Vec::new());
        let mut ring =
            Self { mapping, handles, kept, first, buffers_at, entries, buffer_bytes, tail: 0 };
        for index in first..first + entries {
            ring.put(index);
        }
        ring.publish();
        Ok(ring)
    }

    /// Whether the buffer of this number is one of them.
    pub(crate) fn has(&self, index: u16) -> bool {
        index.wrapping_sub(self.first) < self.entries
    }

    /// Bytes of each buffer.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes as usize
    }

    /// The first bytes of a buffer that a completion has named.
    ///
    /// # Panics
    /// If there is no such buffer, or it is smaller.
    pub(crate) fn bytes(&self, index: u16, bytes: usize) -> &[u8] {
        assert!(bytes <= self.buffer_bytes as usize, "the kernel fills no more than the buffer");
        let start = self.buffer_start(index);
        // SAFETY: `buffer_start` keeps within the mapping, which is initialised (anonymous memory
        // is zero). The kernel does not write to it: it gave the buffer away by the completion,
        // and gets it back only by `give_back`, which needs `&mut self`.
        unsafe { core::slice::from_raw_parts(start, bytes) }
    }

    /// A handle on a buffer that a completion has named and that was not given back yet.
    pub(crate) fn lend(&mut self, index: u16) -> ReceiveBuffer {
        if self.handles.is_empty() {
            let numbers = self.first..self.first + self.entries;
            self.handles = numbers.map(|index| Rc::new(self.handle(index))).collect();
        }
        let handle = Rc::clone(&self.handles[self.place(index)]);
        ReceiveBuffer::new(handle)
    }

    fn handle(&self, index: u16) -> Handle {
        let (mapping, bytes) = (Rc::clone(&self.mapping), self.buffer_bytes as usize);
        Handle { mapping, offset: self.offset(index), bytes }
    }

    /// Buffers that were given back and are not in the ring, because handles on them are left.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Lets the kernel receive into a buffer again, now or when its last handle is gone. Whether it is
    /// now.
    pub(crate) fn give_back(&mut self, index: u16) -> bool {
        if self.is_lent(index) {
            self.kept.push(index);
            return false;
        }
        self.put(index);
        self.publish();
        true
    }

    /// Puts the buffers into the ring whose last handle has gone; how many.
    pub(crate) fn take_back(&mut self) -> usize {
        let before = self.kept.len();
        let mut at = 0;
        while let Some(index) = self.kept.get(at).copied() {
            if self.is_lent(index) {
                at += 1;
            } else {
                self.kept.swap_remove(at);
                self.put(index);
            }
        }
        let count = before - self.kept.len();
        if count > 0 {
            self.publish();
        }
        count
    }

    fn is_lent(&self, index: u16) -> bool {
        let handle = self.handles.get(self.place(index));
        handle.is_some_and(|handle| Rc::strong_count(handle) > 1)
    }

    fn place(&self, index: u16) -> usize {
        let place = index.wrapping_sub(self.first);
        assert!(place < self.entries, "the kernel names only buffers of the ring");
        usize::from(place)
    }

    fn offset(&self, index: u16) -> usize {
        self.buffers_at + self.place(index) * self.buffer_bytes as usize
    }

    fn buffer_start(&self, index: u16) -> *mut u8 {
        let offset = self.offset(index);
        // SAFETY: `register` has made the mapping `entries * buffer_bytes` longer than
        // `buffers_at`, and `offset` counts fewer than `entries` buffers from there.
        unsafe { self.mapping.start.add(offset) }
    }

    fn put(&mut self, index: u16) {
        let address = self.buffer_start(index) as u64;
        let position = usize::from(self.tail & (self.entries - 1));
        let entries = self.mapping.start.cast::<BufRingEntry>();
        // SAFETY: the position is below `entries`, and so within the mapping.
        let slot = unsafe { entries.add(position) };
        // SAFETY: the slot is aligned and in the mapping; behind the published tail it is ours
        // alone, the kernel reads it only after `publish`.
        let entry = unsafe { &mut *slot };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        let entries = self.mapping.start.cast::<BufRingEntry>();
        // SAFETY: `entries` is the address of the first entry, in an initialised mapping.
        let tail = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: the tail lies in the first entry, aligned to two bytes, in memory that is mapped
        // writable; both sides use it as an atomic, and no reference to that entry is alive here.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Gives the memory up without unmapping it, for a kernel that may still write to it.
    pub(crate) fn leak(&mut self) {
        self.mapping.leaked.set(true);
    }
}

impl core::fmt::Debug for BufferRing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BufferRing")
            .field("entries", &self.entries)
            .field("buffer_bytes", &self.buffer_bytes)
            .finish_non_exhaustive()
    }
}

/// Keeps a buffer from the ring, and its memory mapped.
struct Handle {
    mapping: Rc<Mapping>,
    offset: usize,
    bytes: usize,
}

impl AsRef<[u8]> for Handle {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `BufferRing::offset` keeps within the mapping, for `bytes` bytes.
        let start = unsafe { self.mapping.start.add(self.offset) };
        // SAFETY: the mapping is initialised and lives as long as this handle. Only clones that
        // `BufferRing::lend` has given away are read; while there is one, the buffer is not in the ring
        // (`give_back`, `take_back`), so that the kernel does not write to it.
        unsafe { core::slice::from_raw_parts(start, self.bytes) }
    }
}

/// Anonymous memory, page-aligned and present from the start, on the NUMA node of the thread
/// that asks for it.
struct Mapping {
    start: *mut u8,
    bytes: usize,
    leaked: Cell<bool>,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), bytes, leaked: Cell::new(false) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.leaked.get() {
            // SAFETY: the range is the one `new` has mapped; slices of it borrow an owner.
            unsafe { libc::munmap(self.start.cast(), self.bytes) };
        }
    }
}
