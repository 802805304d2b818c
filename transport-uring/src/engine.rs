//! What the two drivers do differently: how an operation starts, ends and is waited for.
//!
//! The life of a connection is in [`crate::driver`] and knows neither ring nor epoll. It keeps the
//! rules that an engine relies on: at most one receive and one send per connection, buffers
//! that live until the operation has ended, no close with an operation in flight.

use crate::file::RingOperation;
use crate::sending::Sending;
use core::time::Duration;
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_dataplane::net::{DriverCounters, ReceiveBuffer};
use socket2::SockAddr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// How long an engine may wait for completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Block {
    /// Not at all.
    No,
    /// At most this long.
    For(Duration),
    /// Until something happens.
    Forever,
}

/// Received bytes that the engine holds until they are given back.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Which one, in the engine's numbering.
    pub(crate) index: u16,
    /// Bytes in it, at least one.
    pub(crate) bytes: usize,
    /// Whether more bytes would not have fitted in, so that the socket may hold more.
    pub(crate) full: bool,
}

/// How to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Receive {
    /// Once.
    Once,
    /// Once, into a large buffer where the engine has several sizes.
    BulkOnce,
    /// Until stopped.
    Many,
    /// Until stopped, into large buffers where the engine has several sizes.
    Bulk,
}

/// Why receiving has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReceiveEnd {
    /// The peer sent FIN.
    Finished,
    /// The socket is broken; an `errno` value.
    Failed(i32),
    /// It was stopped, or has to be started again for no reason of the connection's.
    Stopped,
    /// The kernel had no buffer to receive into.
    Shortage,
}

/// Something that an operation came to.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A listener accepted a connection.
    Accepted { listener: usize, socket: OwnedFd },
    /// A listener does not accept any more; an `errno` value if that is an error.
    AcceptEnded { listener: usize, errno: Option<i32> },
    /// Bytes came. `more` says that receiving goes on by itself.
    Received { connection: ConnectionId, buffer: Buffer, more: bool },
    /// Receiving has ended without bytes.
    ReceiveEnded { connection: ConnectionId, end: ReceiveEnd },
    /// A send has ended. With a notice the kernel still reads the bytes until that comes.
    Sent { connection: ConnectionId, result: Result<usize, i32>, notice: Option<u32> },
    /// A send that could not go on can now.
    Writable { connection: ConnectionId },
    /// The kernel does not read these bytes any more; the connection may be long gone.
    Released { sending: Box<Sending> },
    /// The kernel does not read the bytes of a short send any more; the rest may follow.
    Noticed { connection: ConnectionId },
    /// A try to connect the socket of a link has ended, as the socket's error says if not the result.
    Connected { connection: ConnectionId, result: Result<(), i32> },
    /// A receive into the memory of a link has ended, with the bytes received or an `errno` value.
    ReceivedInto { connection: ConnectionId, result: Result<usize, i32> },
    /// A receive into the memory of a link that could not begin can now.
    Readable { connection: ConnectionId },
    /// A step of a file operation has ended, with the bytes moved or an `errno` value.
    File { index: u32, result: Result<usize, i32> },
}

/// How a send began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendStart {
    /// It ended at once, with the bytes taken or an `errno` value.
    Ended(Result<usize, i32>),
    /// It ends with a completion.
    InFlight,
}

/// How a receive into memory of the driver's began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReceiveStart {
    /// It ended at once, with the bytes received or an `errno` value.
    Ended(Result<usize, i32>),
    /// It ends with a completion.
    InFlight,
}

/// How a try to connect began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConnectStart {
    /// It ended at once, with an `errno` value if in vain.
    Ended(Result<(), i32>),
    /// It ends with a completion.
    InFlight,
}

/// What the kernel still has of a stopped engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    /// Nothing.
    Entirely,
    /// The bytes of zero-copy sends whose notice has not come.
    SaveNotices,
    /// It cannot be told: nothing it was given may be freed.
    NotKnown,
}

/// A way to carry out socket operations.
pub(crate) trait Engine {
    /// Makes a listener known; its accepts are not started yet.
    fn add_listener(&mut self, listener: usize, socket: BorrowedFd<'_>) -> Result<(), i32>;

    /// Accepts until stopped or ended by an error.
    fn start_accept(&mut self, listener: usize, socket: BorrowedFd<'_>);

    /// Stops accepting. True if it has ended; else [`Completion::AcceptEnded`] follows.
    fn stop_accept(&mut self, listener: usize) -> bool;

    /// Makes a connected socket known.
    fn add(&mut self, connection: ConnectionId, socket: BorrowedFd<'_>) -> Result<(), i32>;

    /// Forgets a socket that goes elsewhere, with no operation in flight.
    fn remove(&mut self, connection: ConnectionId, socket: BorrowedFd<'_>);

    /// Receives, once or until stopped. None is in flight.
    fn start_receive(&mut self, connection: ConnectionId, socket: BorrowedFd<'_>, how: Receive);

    /// Stops receiving. True if it has ended; else a completion that ends it follows.
    fn stop_receive(&mut self, connection: ConnectionId) -> bool;

    /// Sends what is left of `sending`, or a part of it. None is in flight.
    fn start_send(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        sending: &mut Sending,
    ) -> SendStart;

    /// Stops a send in flight. True if it has ended; else [`Completion::Sent`] follows.
    fn stop_send(&mut self, connection: ConnectionId, sending: &Sending) -> bool;

    /// Connects the socket of a link, and makes it known as [`Engine::add`] does. The caller keeps the
    /// address as it is until it has ended.
    fn start_connect(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        address: &SockAddr,
    ) -> ConnectStart;

    /// Stops a try to connect. True if it has ended; else [`Completion::Connected`] follows.
    fn stop_connect(&mut self, connection: ConnectionId) -> bool;

    /// Receives once, into memory of a link. None is in flight. The caller keeps the memory and does not
    /// touch it until the receive has ended; [`Engine::stop_receive`] stops it.
    fn start_receive_into(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        into: &mut [u8],
    ) -> ReceiveStart;

    /// Whether the engine does file operations.
    const HAS_FILES: bool;

    /// Begins the next step of a file operation; [`Completion::File`] with its index follows. The
    /// caller keeps the operation as it is until then.
    fn start_file(&mut self, index: u32, operation: &mut RingOperation);

    /// Keeps bytes that the kernel still reads until their notice comes; a notice that has come
    /// already frees them.
    fn park(&mut self, notice: u32, sending: Box<Sending>);

    /// The bytes of a buffer.
    fn received(&self, buffer: &Buffer) -> &[u8];

    /// A handle that keeps the bytes of a buffer until they are sent; `None` if too many are kept, or
    /// if the buffer is not worth it.
    fn lend(&mut self, buffer: &Buffer) -> Option<ReceiveBuffer>;

    /// Makes a buffer usable for receiving again, at once or when no handle is left. Whether it was
    /// at once.
    fn give_back(&mut self, buffer: &Buffer) -> bool;

    /// Takes back the buffers that no handle is left of; how many.
    fn take_back(&mut self) -> usize;

    /// Whether [`Engine::next_completion`] has something without a turn.
    fn has_completions(&mut self) -> bool;

    /// Hands everything started to the kernel, waits as told, and collects completions.
    fn turn(&mut self, block: Block) -> io::Result<()>;

    /// The next completion of this turn.
    fn next_completion(&mut self) -> Option<Completion>;

    /// Wakes another endpoint, with the next turn at the latest.
    fn wake(&mut self, target: CoreId);

    /// Ends the wait whenever this becomes readable from now on: at the change, not for as long as it is so.
    fn wake_on(&mut self, fd: OwnedFd) -> Result<(), i32>;

    /// Adds what the engine has counted.
    fn count(&self, into: &mut DriverCounters);

    /// Stops every operation, because the driver is being dropped.
    fn stop(&mut self) -> Stopped;

    /// Waits for notices, after the sockets were closed.
    fn stop_notices(&mut self);
}
