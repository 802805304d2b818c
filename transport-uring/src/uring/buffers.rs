//! Receive buffers that the kernel takes by itself: a ring of addresses, and the memory behind.
//!
//! One anonymous mapping holds both. A buffer belongs to the kernel while it is in the ring,
//! and to the core from the completion that names it until [`BufferRing::give_back`].

use core::sync::atomic::{AtomicU16, Ordering};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::io;

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
    mapping: Mapping,
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
        let mapping = Mapping::new(bytes)?;
        let address = mapping.start as u64;
        let submitter = uring.submitter();
        // SAFETY: the mapping is page-aligned, holds `entries` entries at its start, and outlives
        // the ring: the engine drops its ring first (`UringEngine`, order of fields).
        unsafe { submitter.register_buf_ring_with_flags(address, entries, group, flags) }?;
        let mut ring = Self { mapping, first, buffers_at, entries, buffer_bytes, tail: 0 };
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

    /// Lets the kernel receive into a buffer again.
    pub(crate) fn give_back(&mut self, index: u16) {
        self.put(index);
        self.publish();
    }

    fn buffer_start(&self, index: u16) -> *mut u8 {
        let place = index.wrapping_sub(self.first);
        assert!(place < self.entries, "the kernel names only buffers of the ring");
        let offset = self.buffers_at + usize::from(place) * self.buffer_bytes as usize;
        // SAFETY: `register` has made the mapping `entries * buffer_bytes` longer than
        // `buffers_at`, and `place` is below `entries`.
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
        self.mapping.leaked = true;
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

/// Anonymous memory, page-aligned and present from the start, on the NUMA node of the thread
/// that asks for it.
struct Mapping {
    start: *mut u8,
    bytes: usize,
    leaked: bool,
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
        Ok(Self { start: start.cast(), bytes, leaked: false })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: the range is the one `new` has mapped; slices of it borrow the owner.
            unsafe { libc::munmap(self.start.cast(), self.bytes) };
        }
    }
}
