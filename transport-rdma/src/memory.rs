//! Memory that a device reads from or writes to: pages of its own between two pages that nobody may
//! touch, and its registration with one protection domain.
//!
//! A peer writes into a ring whenever it likes. So a ring is never borrowed as a slice: it is only
//! copied from, byte for byte, and what counts is the copy. Memory that only this process writes, the stage and the
//! arenas of batches, is registered without any right to write.

use crate::device::Domain;
use crate::error::RdmaError;
use crate::sys;
use core::ffi::{CStr, c_int, c_void};
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};
use ringlane_dataplane::batch::Arena;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Pages of 2 MiB, if the host has reserved any.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A mapping of whole pages of a memfd, between two pages without access.
///
/// A memfd, because a file of a disk cannot be registered for remote writes from kernel 6.5 on.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The whole reservation, guards included.
    reserved: NonNull<u8>,
    reserved_bytes: usize,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is process-wide and belongs to this value alone, and no borrow of it
// is given out.
unsafe impl Send for Mapping {}
// SAFETY: shared use only reads, by `copy_out`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// At least `bytes` of zeros, in huge pages where `huge` asks for them and the host has them,
    /// every page there before the call returns: registering pins it, and faults would be taken one
    /// by one.
    ///
    /// # Errors
    ///
    /// What memfd_create(2), fallocate(2) or mmap(2) say.
    pub(crate) fn new(name: &CStr, bytes: usize, huge: bool) -> io::Result<Self> {
        if huge
            && let Ok(mapping) = Self::with_pages(name, bytes, HUGE_PAGE_BYTES, libc::MFD_HUGETLB)
        {
            return Ok(mapping);
        }
        Self::with_pages(name, bytes, page_bytes(), 0)
    }

    fn with_pages(name: &CStr, bytes: usize, page: usize, flags: u32) -> io::Result<Self> {
        let bytes = bytes.max(1).next_multiple_of(page);
        // SAFETY: the name ends with a zero.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let length = i64::try_from(bytes).map_err(io::Error::other)?;
        // Here, and not by mapping, is found out that there are too few pages: see below.
        // SAFETY: numbers only.
        while unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        let (reserved, reserved_bytes) = reserve(bytes + 2 * page)?;
        let at = reserved.as_ptr().wrapping_add(page.max(page_bytes()));
        let aligned = at.wrapping_add(at.align_offset(page));
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
        // SAFETY: `aligned` is at most two pages into the reservation (`reserve` adds two pages to
        // `bytes`, and one more page of slack), which is ours and unused; it is replaced in place.
        let start = unsafe { libc::mmap(aligned.cast(), bytes, access, kind, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            let end = reserved.as_ptr().wrapping_add(reserved_bytes);
            let behind = aligned.wrapping_add(bytes);
            for (from, to) in [(reserved.as_ptr(), aligned), (behind, end)] {
                // SAFETY: these two parts of the reservation were not touched since. What was to be replaced is
                // left alone: a call that fails may have unmapped it first, and then another thread may have
                // something there by now.
                unsafe { libc::munmap(from.cast(), to as usize - from as usize) };
            }
            return Err(error);
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { reserved, reserved_bytes, start, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Copies from the mapping, also while a device writes to it: then the bytes may be old, new or
    /// a mixture, and the caller checks its copy.
    ///
    /// # Panics
    ///
    /// If the range is not inside.
    pub(crate) fn copy_out(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.bytes && into.len() <= self.bytes - at, "outside of the mapping");
        let from = self.start.as_ptr().wrapping_add(at);
        // SAFETY: the range is inside (line above) and mapped as long as `self` lives; `into` is
        // other memory, because no slice of a mapping that a device writes is ever made.
        unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    /// Copies into the mapping.
    ///
    /// # Panics
    ///
    /// If the range is not inside.
    pub(crate) fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        assert!(at <= self.bytes && bytes.len() <= self.bytes - at, "outside of the mapping");
        let to = self.start.as_ptr().wrapping_add(at);
        // SAFETY: the range is inside (line above); `&mut self` rules out that `bytes` is part of it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation is this value's own; nothing borrowed from it can be alive.
        unsafe { libc::munmap(self.reserved.as_ptr().cast(), self.reserved_bytes) };
    }
}

fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// Addresses without access, with a page of slack for alignment.
fn reserve(bytes: usize) -> io::Result<(NonNull<u8>, usize)> {
    let bytes = bytes + HUGE_PAGE_BYTES;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
    Ok((start, bytes))
}

/// What a device may do with a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Read it, to send from it.
    Source,
    /// Let the peer write to it; nothing else.
    Ring,
}

impl Access {
    fn bits(self) -> c_int {
        match self {
            Self::Source => 0,
            Self::Ring => sys::ACCESS_LOCAL_WRITE | sys::ACCESS_REMOTE_WRITE,
        }
    }
}

/// Memory that stays where it is as long as the value lives.
pub(crate) trait Memory {
    /// Its first byte.
    fn start(&self) -> *const u8;

    /// Bytes of it.
    fn bytes(&self) -> usize;
}

impl Memory for Mapping {
    fn start(&self) -> *const u8 {
        self.start.as_ptr()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Memory for Arena {
    fn start(&self) -> *const u8 {
        Self::start(self)
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}

/// Memory registered with one protection domain. When it goes, the device forgets it first and
/// then its pages go.
#[derive(Debug)]
pub(crate) struct Region<M> {
    registration: NonNull<sys::IbvMr>,
    domain: Domain,
    memory: ManuallyDrop<M>,
    lkey: u32,
    rkey: u32,
}

// SAFETY: libibverbs may be called from any thread; the registration belongs to this value alone.
unsafe impl<M: Send> Send for Region<M> {}

impl<M: Memory> Region<M> {
    /// Registers all of `memory`.
    ///
    /// # Errors
    ///
    /// ibv_reg_mr(3): not enough memory may be locked, mostly.
    pub(crate) fn new(domain: &Domain, memory: M, access: Access) -> Result<Self, RdmaError> {
        let start = memory.start().cast::<c_void>().cast_mut();
        let register = domain.verbs().ibv_reg_mr;
        // SAFETY: the domain lives (borrowed), the memory is there, and is kept in the region until after
        // ibv_dereg_mr (Drop below). The device writes to none that was not mapped for it: `Access::Ring`
        // is asked for by `QueuePair::new` alone.
        let made = unsafe { register(domain.as_ptr(), start, memory.bytes(), access.bits()) };
        let registration = NonNull::new(made).ok_or_else(|| RdmaError::last("ibv_reg_mr"))?;
        // SAFETY: what ibv_reg_mr returned is an ibv_mr, and only read here.
        let (lkey, rkey) = unsafe { (*made).keys() };
        let memory = ManuallyDrop::new(memory);
        Ok(Self { registration, domain: domain.clone(), memory, lkey, rkey })
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    pub(crate) fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    pub(crate) fn rkey(&self) -> u32 {
        self.rkey
    }

    /// A gather entry for part of it.
    ///
    /// # Panics
    ///
    /// If the range is not inside.
    pub(crate) fn entry(&self, at: u32, bytes: u32) -> sys::IbvSge {
        let end = u64::from(at) + u64::from(bytes);
        assert!(end <= self.memory.bytes() as u64, "outside of the region");
        let addr = self.memory.start() as u64 + u64::from(at);
        sys::IbvSge { addr, length: bytes, lkey: self.lkey }
    }
}

impl<M> Drop for Region<M> {
    fn drop(&mut self) {
        let forget = self.domain.verbs().ibv_dereg_mr;
        // SAFETY: registered by `new` and forgotten once, here.
        let code = unsafe { forget(self.registration.as_ptr()) };
        // Otherwise the device may still write to it: the pages stay, for good.
        if code == 0 {
            // SAFETY: dropped once, here, and not used after it.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_the_guards_are_there() {
        let mut mapping = Mapping::new(c"test", 5000, false).expect("memory");
        assert_eq!(mapping.bytes() % page_bytes(), 0);
        assert!(5000 <= mapping.bytes());
        mapping.copy_in(mapping.bytes() - 3, b"end");
        let mut copy = [0; 3];
        mapping.copy_out(mapping.bytes() - 3, &mut copy);
        assert_eq!(&copy, b"end");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
        let at = mapping.address();
        let around = |address: u64| {
            maps.lines().find(|line| {
                let range = line.split(' ').next().unwrap_or_default();
                let (from, to) = range.split_once('-').unwrap_or(("0", "0"));
                let parse = |text| u64::from_str_radix(text, 16).unwrap_or(0);
                parse(from) <= address && address < parse(to)
            })
        };
        for guard in [at - 1, at + mapping.bytes() as u64] {
            let line = around(guard).expect("reserved");
            assert!(line.contains("---p"), "not a guard: {line}");
        }
    }

    #[test]
    #[should_panic(expected = "outside of the mapping")]
    fn nothing_is_copied_from_outside() {
        let mapping = Mapping::new(c"test", 4096, false).expect("memory");
        mapping.copy_out(mapping.bytes() - 1, &mut [0; 2]);
    }
}
