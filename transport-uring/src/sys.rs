//! The system calls that neither `std` nor `socket2` wraps, each behind a safe function.
//!
//! Nothing here keeps a pointer beyond the call it is made for. Errors are plain `errno` values.

use core::ffi::c_int;
use core::mem::MaybeUninit;
use core::net::SocketAddr;
use core::ops::Range;
use core::time::Duration;
use ringlane_dataplane::runtime::ThreadUsage;
use ringlane_dataplane::time::Nanos;
use rustix::mm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The `errno` of an error, or `EIO` if it has none.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn last_errno() -> i32 {
    errno_of(&io::Error::last_os_error())
}

fn check(result: c_int) -> Result<c_int, i32> {
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

fn check_size(result: isize) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| last_errno())
}

/// Reads `CLOCK_MONOTONIC` (through the vDSO, so without a system call on usual hosts).
pub(crate) fn monotonic_now() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live local the call writes to; it is not used after the call returns.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC exists on every Linux");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Nanos(seconds * 1_000_000_000 + nanos)
}

/// CPU time of this thread, and how often it gave the CPU up by itself: `ru_nvcsw` of getrusage(2). On
/// a virtual machine the time that the host took is in neither, where the kernel counts steal
/// (CONFIG_PARAVIRT_TIME_ACCOUNTING).
pub(crate) fn thread_usage() -> Option<ThreadUsage> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a live local the call writes to; it is not used by it after the call returns.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    check(result).ok()?;
    // SAFETY: all bytes were zero before the call, which is a value of this struct of integers.
    let usage = unsafe { usage.assume_init() };
    let duration = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let micros = u64::try_from(time.tv_usec).unwrap_or(0);
        Duration::from_micros(seconds * 1_000_000 + micros)
    };
    let cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
    Some(ThreadUsage { cpu, sleeps: u64::try_from(usage.ru_nvcsw).unwrap_or(0) })
}

/// A non-blocking event counter, see eventfd(2).
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    own(fd)
}

/// An epoll instance, see epoll_create1(2).
pub(crate) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: epoll_create1 takes no pointers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    own(fd)
}

fn own(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(take_fd(fd))
}

/// Takes ownership of a descriptor that the kernel has just returned.
pub(crate) fn take_fd(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "the kernel returned a descriptor");
    // SAFETY: every caller passes a descriptor straight from the call or completion that created
    // it (`own` and `accept` above and below, accept completions in `uring::engine`), so nobody
    // else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Adds one to an event counter. A counter at its limit stays readable, which is all that counts.
pub(crate) fn eventfd_signal(fd: BorrowedFd<'_>) {
    let one = 1u64.to_le_bytes();
    // A big-endian host would add 2^56, which is as good a signal.
    // SAFETY: `one` is a live local of 8 bytes, read during the call only.
    let _full_or_done = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Sets an event counter to zero.
pub(crate) fn eventfd_clear(fd: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: `count` is a live local of 8 bytes, written during the call only.
    let _empty_or_done =
        unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// Waits until the descriptor is readable or the time is over; tells which.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX);
    // SAFETY: `entry` is one live local and the count is one.
    let ready = unsafe { libc::poll(&raw mut entry, 1, millis) };
    ready > 0
}

/// Reads what is mapped at these addresses into memory and keeps it there, see mlock(2).
pub(crate) fn lock(addresses: Range<usize>) -> io::Result<()> {
    // SAFETY: mlock changes no byte, and follows the addresses for their pages only; where there
    // is no mapping it fails (ENOMEM).
    unsafe { mm::mlock(addresses.start as *mut _, addresses.len())? };
    Ok(())
}

/// Reads what is mapped at these addresses into memory, see madvise(2).
pub(crate) fn populate(addresses: Range<usize>) -> io::Result<()> {
    let advice = mm::Advice::LinuxPopulateRead;
    // SAFETY: this advice changes no byte: it reads one of each page as if it were accessed, and
    // fails where that cannot be.
    unsafe { mm::madvise(addresses.start as *mut _, addresses.len(), advice)? };
    Ok(())
}

/// Starts to write a range of a file back and waits until the disk has it (sync_file_range(2)).
/// This bounds what is dirty; it makes nothing durable.
pub(crate) fn write_back(file: BorrowedFd<'_>, position: u64, bytes: u64) -> io::Result<()> {
    let range = (position.cast_signed(), bytes.cast_signed());
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: sync_file_range takes no pointers.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), range.0, range.1, flags) };
    match check(result) {
        // Not every file system can; the sync that follows makes up for it.
        Ok(_) | Err(libc::ENOSYS | libc::EINVAL | libc::ESPIPE) => Ok(()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// A set of CPUs as the kernel takes it; CPUs that it has no room for are left out.
pub(crate) fn cpu_set(cpus: &[u32]) -> libc::cpu_set_t {
    // SAFETY: all-zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    for cpu in cpus.iter().map(|cpu| *cpu as usize).filter(|cpu| *cpu < CPUS_MAX) {
        // SAFETY: the set has a bit for this CPU.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    set
}

/// CPUs that a `cpu_set_t` has a bit for (CPU_SET(3)).
const CPUS_MAX: usize = 8 * size_of::<libc::cpu_set_t>();

/// Adds a descriptor to an epoll instance; `events` as in epoll_ctl(2).
pub(crate) fn epoll_add(
    epoll: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    events: c_int,
    data: u64,
) -> Result<(), i32> {
    let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
    // SAFETY: `event` is a live local, read during the call only.
    let result = unsafe {
        libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
    };
    check(result).map(drop)
}

/// Removes a descriptor from an epoll instance.
pub(crate) fn epoll_remove(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    // SAFETY: EPOLL_CTL_DEL ignores the event pointer (Linux 2.6.9 and later, epoll_ctl(2)).
    let _gone_or_done = unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_DEL,
            fd.as_raw_fd(),
            core::ptr::null_mut(),
        )
    };
}

/// Waits for events and puts them into `into`, up to its capacity; how many there are.
pub(crate) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    into: &mut Vec<libc::epoll_event>,
    timeout_millis: c_int,
) -> Result<usize, i32> {
    into.clear();
    let capacity = c_int::try_from(into.capacity()).unwrap_or(c_int::MAX);
    // SAFETY: the spare capacity of `into` is `capacity` entries, as `clear` left all of it spare.
    let result =
        unsafe { libc::epoll_wait(epoll.as_raw_fd(), into.as_mut_ptr(), capacity, timeout_millis) };
    let count = check(result)? as usize;
    // SAFETY: the kernel has written `count` entries from the start, at most the capacity.
    unsafe { into.set_len(count) };
    Ok(count)
}

/// Receives without blocking. A number that names no socket is an error of the call.
pub(crate) fn receive(fd: RawFd, into: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: `into` is a live exclusive slice; the kernel writes at most its length, during the
    // call only.
    let result =
        unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) };
    check_size(result)
}

/// Sends the slices in order, without blocking and without SIGPIPE.
pub(crate) fn send_slices(fd: BorrowedFd<'_>, slices: &[io::IoSlice<'_>]) -> Result<usize, i32> {
    // SAFETY: all-zero is a valid msghdr (no name, no control data, no vectors).
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    // IoSlice is guaranteed to have the layout of iovec on Unix; sendmsg only reads it.
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len() as _;
    // SAFETY: `header` and the slices it names live until the call returns.
    let result = unsafe {
        libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    check_size(result)
}

/// Accepts one connection: close-on-exec, and blocking, because both drivers say per call
/// whether an operation may wait.
pub(crate) fn accept(listener: RawFd) -> Result<OwnedFd, i32> {
    // SAFETY: accept4 allows null for an address nobody asks for.
    let fd = unsafe {
        libc::accept4(listener, core::ptr::null_mut(), core::ptr::null_mut(), libc::SOCK_CLOEXEC)
    };
    check(fd).map(take_fd)
}

/// Begins to connect without waiting: `EINPROGRESS` if that is not over at once.
pub(crate) fn connect(fd: BorrowedFd<'_>, address: &socket2::SockAddr) -> Result<(), i32> {
    let socket = socket2::SockRef::from(&fd);
    let begun = socket.set_nonblocking(true).and_then(|()| socket.connect(address));
    begun.map_err(|error| errno_of(&error))
}

/// Errors of the connection that was to be accepted, or of the call; accept(2) says to retry.
pub(crate) fn accept_goes_on_after(errno: i32) -> bool {
    matches!(
        errno,
        libc::EINTR
            | libc::ECONNABORTED
            | libc::ENETDOWN
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
    )
}

/// The peer's address of a connected TCP socket.
pub(crate) fn peer_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    socket2::SockRef::from(&fd).peer_addr().ok()?.as_socket()
}

/// Sends FIN after what the kernel still holds.
pub(crate) fn finish_sending(fd: BorrowedFd<'_>) {
    // A peer that is gone already needs no FIN; its end shows on the receiving side.
    let _gone_or_done = socket2::SockRef::from(&fd).shutdown(std::net::Shutdown::Write);
}

/// Makes the coming close send RST and drop what the kernel still holds.
pub(crate) fn reset_on_close(fd: BorrowedFd<'_>) {
    let _gone_or_done = socket2::SockRef::from(&fd).set_linger(Some(Duration::ZERO));
}

/// The kernel's release as uname(2) tells it.
pub(crate) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| String::from("unknown"), |text| text.trim().to_owned())
}
