//! The ring itself: set-up, submissions, the one wait call, completions.
//!
//! Everything that names no memory is safe to submit. Sends, writes and reads name memory that the
//! kernel uses until their completion, so those are unsafe and say what they ask of the caller.

use super::token::Token;
use crate::engine::Block;
use crate::sys;
use core::time::Duration;
use io_uring::types::{CancelBuilder, Fd, FsyncFlags, Timespec};
use io_uring::{IoUring, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// The group of the provided receive buffers that every connection starts with.
pub(crate) const BUFFER_GROUP: u16 = 0;
/// The group of the large ones.
pub(crate) const LARGE_BUFFER_GROUP: u16 = 1;

// From linux/io_uring.h (kernel 6.1 and later); the crate keeps its own copies private.
const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 8;
const ENTER_REGISTERED_RING: u32 = 16;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// Completions that a wait gathers for, if it may gather.
const GATHER_WANT: u32 = 32;
/// Completions of one turn from which on the next wait gathers: fewer come from too few
/// connections for company to be likely.
const GATHER_AFTER: u32 = 4;

/// `struct io_uring_getevents_arg`, see io_uring_enter(2).
#[repr(C)]
struct WaitArgument {
    signal_mask: u64,
    signal_mask_bytes: u32,
    min_wait_micros: u32,
    timespec: u64,
}

/// `struct io_uring_rsrc_update`, see io_uring_register(2).
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// One completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingCompletion {
    pub(crate) token: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

/// One thread's ring.
pub(crate) struct Ring {
    uring: IoUring,
    /// The number and flags for the wait call: the registered ring, or the descriptor itself.
    enter_fd: RawFd,
    enter_flags: u32,
    min_wait_micros: u32,
    /// Completions taken in this turn.
    taken: u32,
    /// Submissions that found both the queue full and the kernel unwilling. At most a few per
    /// connection, because so many operations it has at most.
    backlog: VecDeque<squeue::Entry>,
    calls: u64,
}

impl Ring {
    /// Opens a ring as the driver needs it, on the thread that will use it.
    pub(crate) fn open(entries: u32, min_wait: Duration) -> io::Result<Self> {
        let uring = build(entries, true).or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => build(entries, false),
            _ => Err(error),
        })?;
        let gathers = uring.params().is_feature_min_timeout();
        let micros = u32::try_from(min_wait.as_micros()).unwrap_or(0);
        let enter_fd = uring.as_raw_fd();
        let mut ring = Self {
            uring,
            enter_fd,
            enter_flags: 0,
            min_wait_micros: if gathers { micros } else { 0 },
            taken: 0,
            backlog: VecDeque::new(),
            calls: 3,
        };
        ring.register_descriptor();
        Ok(ring)
    }

    /// The crate's view, for registrations and probes.
    pub(crate) fn uring(&mut self) -> &mut IoUring {
        &mut self.uring
    }

    /// The descriptor that other rings send messages to.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    /// System calls made.
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    // ---- submissions ----

    /// Accepts until cancelled.
    pub(crate) fn accept_many(&mut self, listener: BorrowedFd<'_>, token: Token) {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC);
        self.push_plain(accept.build().user_data(token.pack()));
    }

    /// Receives once, into a provided buffer of the group.
    pub(crate) fn receive_once(&mut self, socket: BorrowedFd<'_>, group: u16, token: Token) {
        let receive = opcode::Recv::new(Fd(socket.as_raw_fd()), core::ptr::null_mut(), 0)
            .buf_group(group)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push_plain(receive.user_data(token.pack()));
    }

    /// Receives until cancelled, into provided buffers of the group.
    pub(crate) fn receive_many(&mut self, socket: BorrowedFd<'_>, group: u16, token: Token) {
        let receive = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), group);
        self.push_plain(receive.build().user_data(token.pack()));
    }

    /// Completes whenever the descriptor becomes readable, until cancelled.
    pub(crate) fn watch(&mut self, fd: BorrowedFd<'_>, token: Token) {
        let readable = u32::from(libc::POLLIN.cast_unsigned());
        let poll = opcode::PollAdd::new(Fd(fd.as_raw_fd()), readable).multi(true);
        self.push_plain(poll.build().user_data(token.pack()));
    }

    /// Cancels the operation of this token. The operation itself completes either way; the
    /// cancellation completes, with [`Token::Ignored`], only if it found nothing.
    pub(crate) fn cancel(&mut self, token: Token) {
        // By token and not by descriptor: the kernel finds a token by its hash, a descriptor by
        // walking through every operation that waits.
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::user_data(token.pack())).build();
        let cancel = cancel.flags(squeue::Flags::SKIP_SUCCESS);
        self.push_plain(cancel.user_data(Token::Ignored.pack()));
    }

    /// Cancels everything.
    pub(crate) fn cancel_all(&mut self) {
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        self.push_plain(cancel.user_data(Token::Ignored.pack()));
    }

    /// Puts a completion with [`Token::Woken`] into another ring. Completes only on failure.
    pub(crate) fn message(&mut self, ring: RawFd, token: Token) {
        let message = opcode::MsgRingData::new(Fd(ring), 0, Token::Woken.pack(), None).build();
        let message = message.flags(squeue::Flags::SKIP_SUCCESS);
        self.push_plain(message.user_data(token.pack()));
    }

    /// Receives once, into memory of the caller's.
    ///
    /// # Safety
    /// The `bytes` bytes at `into` are writable and belong to nobody else until the completion.
    pub(crate) unsafe fn receive_into(
        &mut self,
        socket: BorrowedFd<'_>,
        into: *mut u8,
        bytes: u32,
        token: Token,
    ) {
        let receive = opcode::Recv::new(Fd(socket.as_raw_fd()), into, bytes);
        // SAFETY: the caller keeps the memory, see above.
        unsafe { self.push(receive.build().user_data(token.pack())) };
    }

    /// Connects.
    ///
    /// # Safety
    /// The `bytes` bytes at `address` stay where they are, unchanged, until the completion.
    pub(crate) unsafe fn connect(
        &mut self,
        socket: BorrowedFd<'_>,
        address: *const libc::sockaddr,
        bytes: libc::socklen_t,
        token: Token,
    ) {
        let connect = opcode::Connect::new(Fd(socket.as_raw_fd()), address, bytes);
        // SAFETY: the caller keeps the address, see above.
        unsafe { self.push(connect.build().user_data(token.pack())) };
    }

    /// Sends bytes.
    ///
    /// # Safety
    /// The bytes stay where they are, unchanged, until the completion has come; with `zero_copy`
    /// until the completion without the "more" flag has come.
    pub(crate) unsafe fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        zero_copy: bool,
        token: Token,
    ) {
        let fd = Fd(socket.as_raw_fd());
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = if zero_copy {
            // Short zero-copy sends would have to wait for their notice in between.
            let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
            opcode::SendZc::new(fd, bytes.as_ptr(), length).flags(flags).build()
        } else {
            opcode::Send::new(fd, bytes.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build()
        };
        // SAFETY: the caller keeps the bytes, see above.
        unsafe { self.push(entry.user_data(token.pack())) };
    }

    /// Sends the slices that a message header names.
    ///
    /// # Safety
    /// As for [`Ring::send`], for the header, the slices it names and the bytes they name.
    pub(crate) unsafe fn send_message(
        &mut self,
        socket: BorrowedFd<'_>,
        header: *const libc::msghdr,
        zero_copy: bool,
        token: Token,
    ) {
        let fd = Fd(socket.as_raw_fd());
        let entry = if zero_copy {
            let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL).cast_unsigned();
            opcode::SendMsgZc::new(fd, header).flags(flags).build()
        } else {
            opcode::SendMsg::new(fd, header).flags(libc::MSG_NOSIGNAL.cast_unsigned()).build()
        };
        // SAFETY: the caller keeps all of it, see above.
        unsafe { self.push(entry.user_data(token.pack())) };
    }

    /// Writes what the slices name at a position of the file.
    ///
    /// # Safety
    /// The slices and the bytes that they name stay where they are, unchanged, until the completion.
    pub(crate) unsafe fn write(
        &mut self,
        file: BorrowedFd<'_>,
        slices: *const libc::iovec,
        count: u32,
        position: u64,
        token: Token,
    ) {
        let write = opcode::Writev::new(Fd(file.as_raw_fd()), slices, count).offset(position);
        // SAFETY: the caller keeps all of it, see above.
        unsafe { self.push(write.build().user_data(token.pack())) };
    }

    /// Reads from a position of the file.
    ///
    /// # Safety
    /// The `bytes` bytes at `into` are writable and belong to nobody else until the completion.
    pub(crate) unsafe fn read(
        &mut self,
        file: BorrowedFd<'_>,
        into: *mut u8,
        bytes: u32,
        position: u64,
        token: Token,
    ) {
        let read = opcode::Read::new(Fd(file.as_raw_fd()), into, bytes).offset(position);
        // SAFETY: the caller keeps all of it, see above.
        unsafe { self.push(read.build().user_data(token.pack())) };
    }

    /// Syncs the data of a file (fdatasync(2)).
    pub(crate) fn sync_data(&mut self, file: BorrowedFd<'_>, token: Token) {
        let sync = opcode::Fsync::new(Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC);
        self.push_plain(sync.build().user_data(token.pack()));
    }

    /// Bounds the kernel threads that do for this ring what would block, and says where they run.
    pub(crate) fn limit_workers(&mut self, workers: u32, cpus: &[u32]) -> io::Result<()> {
        self.calls += 2;
        // The second number bounds work that waits for ever, which files have none of; 0 leaves it.
        self.uring.submitter().register_iowq_max_workers(&mut [workers, 0])?;
        if cpus.is_empty() {
            return Ok(());
        }
        self.uring.submitter().register_iowq_aff(&sys::cpu_set(cpus))
    }

    fn push_plain(&mut self, entry: squeue::Entry) {
        // SAFETY: only the functions above call this, with operations that name no memory of
        // ours: descriptors, tokens and the buffer group are numbers that the kernel checks.
        unsafe { self.push(entry) };
    }

    /// # Safety
    /// What the entry names stays valid until its operation has ended.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
            self.flush_backlog();
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries come from `push` alone (directly or through the backlog), whose caller
        // has promised what this call asks for.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// The queue is full: the kernel takes what is in it, and the backlog moves up.
    fn flush_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.try_push(&entry) {
                continue;
            }
            let queued = self.queued();
            let submitted = self.enter(queued, 0, 0, None);
            if !(submitted.is_ok_and(|count| count > 0) && self.try_push(&entry)) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn queued(&mut self) -> u32 {
        self.uring.submission().len() as u32
    }

    // ---- waiting ----

    /// Submits, waits as told, and lets the kernel make completions. Makes no system call if
    /// there is nothing to do.
    pub(crate) fn turn(&mut self, block: Block) -> io::Result<()> {
        self.flush_backlog();
        let taken = core::mem::take(&mut self.taken);
        let queue = self.uring.submission();
        let queued = queue.len() as u32;
        let kernel_has_work = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        let entered = match block {
            Block::No if queued == 0 && !kernel_has_work => return Ok(()),
            Block::No => self.enter(queued, 0, ENTER_GETEVENTS, None),
            Block::For(time) => self.enter_waiting(queued, taken, Some(time)),
            Block::Forever => self.enter_waiting(queued, taken, None),
        };
        match entered {
            Ok(_) => Ok(()),
            // Interrupted, out of time, or completions have to be taken before more can be
            // submitted: all of it goes on with the next turn.
            Err(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn enter_waiting(
        &mut self,
        queued: u32,
        taken: u32,
        timeout: Option<Duration>,
    ) -> Result<u32, i32> {
        let timespec = timeout.map(Timespec::from);
        let address = timespec.as_ref().map_or(0, |timespec| &raw const *timespec as u64);
        let gathers = self.min_wait_micros > 0 && taken >= GATHER_AFTER;
        let argument = WaitArgument {
            signal_mask: 0,
            signal_mask_bytes: 0,
            min_wait_micros: if gathers { self.min_wait_micros } else { 0 },
            timespec: address,
        };
        let want = if gathers { GATHER_WANT } else { 1 };
        self.enter(queued, want, ENTER_GETEVENTS | ENTER_EXT_ARG, Some(&argument))
    }

    fn enter(
        &mut self,
        submit: u32,
        want: u32,
        flags: u32,
        argument: Option<&WaitArgument>,
    ) -> Result<u32, i32> {
        self.calls += 1;
        let address = argument.map_or(core::ptr::null(), core::ptr::from_ref);
        let bytes = if argument.is_some() { size_of::<WaitArgument>() } else { 0 };
        // SAFETY: the descriptor is our ring (`register_descriptor`), `argument` and the timespec
        // it names (a local of `enter_waiting`) live until the call returns, and the entries
        // submitted have passed `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit,
                want,
                flags | self.enter_flags,
                address,
                bytes,
            )
        };
        u32::try_from(result).map_err(|_| sys::errno_of(&io::Error::last_os_error()))
    }

    // ---- completions ----

    /// Whether a completion can be taken without a turn.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// The next completion.
    pub(crate) fn next_completion(&mut self) -> Option<RingCompletion> {
        let entry = self.uring.completion().next()?;
        self.taken = self.taken.saturating_add(1);
        Some(RingCompletion {
            token: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        })
    }

    // ---- the registered descriptor ----

    /// Spares every wait call the look-up of the descriptor, which is shared between threads.
    fn register_descriptor(&mut self) {
        let ring = self.uring.as_raw_fd();
        let mut update =
            RingFdUpdate { offset: u32::MAX, reserved: 0, data: u64::from(ring.cast_unsigned()) };
        if self.register(REGISTER_RING_FDS, &mut update) == 1
            && let Ok(index) = RawFd::try_from(update.offset)
        {
            self.enter_fd = index;
            self.enter_flags = ENTER_REGISTERED_RING;
        }
    }

    fn unregister_descriptor(&mut self) {
        if self.enter_flags == ENTER_REGISTERED_RING {
            let offset = self.enter_fd.cast_unsigned();
            let mut update = RingFdUpdate { offset, reserved: 0, data: 0 };
            self.register(UNREGISTER_RING_FDS, &mut update);
        }
    }

    fn register(&mut self, operation: u32, update: &mut RingFdUpdate) -> libc::c_long {
        self.calls += 1;
        // SAFETY: `update` is one live structure of the kind that both operations take, and the
        // count is one; the kernel writes to it during the call only.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.uring.as_raw_fd(),
                operation,
                core::ptr::from_mut(update),
                1u32,
            )
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The registration would keep the ring alive until the thread ends.
        self.unregister_descriptor();
    }
}

impl core::fmt::Debug for Ring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ring").field("fd", &self.descriptor()).finish_non_exhaustive()
    }
}

/// The completion queue is four times the submission queue: multishot operations complete more
/// often than they are submitted.
pub(crate) fn build(entries: u32, no_sqarray: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(entries.saturating_mul(4))
        .setup_clamp();
    if no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}
