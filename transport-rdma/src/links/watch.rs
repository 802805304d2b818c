//! What a core has to look at besides completion queues: sockets of links, the listener, and the
//! descriptors of the device, behind one descriptor that a sleeping core can wait for.

use core::fmt;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors that are looked at in one go at most; the others follow.
const EVENTS_MAX: usize = 64;

/// A set of descriptors.
pub(super) struct Watch {
    set: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { set, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Watches for bytes or the end, or, for a socket that connects, for the outcome.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, token: u64, connects: bool) -> io::Result<()> {
        let data = EventData::new_u64(token);
        Ok(epoll::add(&self.set, fd, data, flags(connects))?)
    }

    /// The socket has connected: bytes and the end from now on.
    pub(super) fn connected(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(epoll::modify(&self.set, fd, EventData::new_u64(token), flags(false))?)
    }

    /// Watches a socket no longer that stays open; one that is closed goes by itself.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        let _was_watched = epoll::delete(&self.set, fd);
    }

    /// Whether one of them has something to look at.
    pub(super) fn is_ready(&self) -> bool {
        let mut found = [PollFd::new(&self.set, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error is for the next look to find.
        rustix::event::poll(&mut found, Some(&now)) != Ok(0)
    }

    /// The tokens of those with something to look at, without waiting.
    pub(super) fn ready(&mut self, into: &mut Vec<u64>) {
        self.events.clear();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.set, spare, Some(&now)).is_ok() {
            into.extend(self.events.iter().map(|event| event.data.u64()));
        }
    }
}

fn flags(connects: bool) -> EventFlags {
    if connects { EventFlags::OUT } else { EventFlags::IN | EventFlags::RDHUP }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.set).finish()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}
