//! The engine on io_uring: starting an operation is a submission, its end is a completion.
//!
//! Nothing reaches the kernel before [`Engine::turn`], and that is one system call for all of it.

pub(crate) mod buffers;
pub(crate) mod frame;
pub(crate) mod ring;
pub(crate) mod token;
mod zero_copy;

use crate::config::TransportConfig;
use crate::engine::{
    Block, Buffer, Completion, ConnectStart, Engine, Receive, ReceiveEnd, ReceiveStart, SendStart,
    Stopped,
};
use crate::file::{FileBackend, RingOperation, RingStep};
use crate::link::is_link;
use crate::sending::Sending;
use crate::sys;
use crate::wake::Wakers;
use buffers::{BufferGroup, BufferRing};
use core::time::Duration;
use frame::Frame;
use io_uring::cqueue;
use ring::{BUFFER_GROUP, LARGE_BUFFER_GROUP, Ring, RingCompletion};
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_dataplane::net::{DriverCounters, ReceiveBuffer};
use socket2::SockAddr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use token::Token;
use zero_copy::ZeroCopySends;

/// The io_uring engine of one core.
///
/// `ring` comes before the buffers, because fields are dropped in order: the kernel knows the
/// addresses of the buffers as long as the ring is open.
#[derive(Debug)]
pub(crate) struct UringEngine {
    ring: Ring,
    buffers: BufferRing,
    /// For connections that fill the others.
    large: BufferRing,
    own: CoreId,
    wakers: Wakers,
    zero_copy: ZeroCopySends,
    /// Descriptors of others that end the wait; closed after the ring.
    wakes_on: Vec<OwnedFd>,
    /// A completion that came together with another one.
    second: Option<Completion>,
    /// Operations that name memory or descriptors of ours and have not ended.
    in_flight: usize,
    stopped: bool,
    calls: u64,
    zero_copy_sends: u64,
}

impl UringEngine {
    /// Opens the engine of core `own`, on that core's thread.
    pub(crate) fn open(own: CoreId, config: &TransportConfig, wakers: Wakers) -> io::Result<Self> {
        let mut ring = Ring::open(config.ring_entries, config.min_wait)?;
        let (small, large) = groups(config);
        let buffers = BufferRing::register(ring.uring(), small, 0)?;
        let large = BufferRing::register(ring.uring(), large, 0)?;
        if let Some(files) = &config.files
            && files.backend == FileBackend::Ring
        {
            ring.limit_workers(u32::from(files.threads), &files.cpus)?;
        }
        wakers.register_ring(own, ring.descriptor());
        let zero_copy =
            ZeroCopySends::new(config.zero_copy_bytes, usize::from(config.zero_copy_pending_max));
        let mut engine = Self {
            ring,
            buffers,
            large,
            own,
            wakers,
            zero_copy,
            wakes_on: Vec::new(),
            second: None,
            in_flight: 0,
            stopped: false,
            calls: 2,
            zero_copy_sends: 0,
        };
        engine.watch_own_event();
        Ok(engine)
    }

    fn watch_own_event(&mut self) {
        self.in_flight += 1;
        self.ring.watch(self.wakers.event_fd(self.own), Token::Watch);
    }

    fn watch_other(&mut self, index: u32) {
        if let Some(fd) = self.wakes_on.get(index as usize) {
            self.in_flight += 1;
            self.ring.watch(fd.as_fd(), Token::WatchOther { index });
        }
    }

    fn complete(&mut self, raw: RingCompletion) -> Option<Completion> {
        let more = cqueue::more(raw.flags);
        let token = Token::unpack(raw.token);
        let counted = !matches!(token, Token::Woken | Token::Message { .. } | Token::Ignored);
        if counted && !more {
            self.in_flight -= 1;
        }
        match token {
            Token::Accept { listener } => self.on_accept(listener as usize, raw.result, more),
            Token::Receive(connection) if is_link(connection) => {
                Some(Completion::ReceivedInto { connection, result: outcome(raw.result) })
            }
            Token::Receive(id) => Some(self.on_receive(id, raw, more)),
            Token::Connect(connection) => {
                Some(Completion::Connected { connection, result: outcome(raw.result).map(drop) })
            }
            Token::Send(connection) => {
                let result = outcome(raw.result);
                Some(Completion::Sent { connection, result, notice: None })
            }
            Token::ZeroCopy { index } => self.zero_copy.complete(index, raw, more),
            Token::Watch => {
                if !more && !self.stopped {
                    self.calls += 1;
                    sys::eventfd_clear(self.wakers.event_fd(self.own));
                    self.watch_own_event();
                }
                None
            }
            Token::WatchOther { index } => {
                if !more && !self.stopped {
                    self.watch_other(index);
                }
                None
            }
            Token::Message { target } => {
                // The other ring is gone or full: its event counter wakes it as well.
                self.calls += 1;
                self.wakers.wake(target);
                None
            }
            Token::File { index } => Some(Completion::File { index, result: outcome(raw.result) }),
            Token::Woken | Token::Ignored => None,
        }
    }

    fn on_receive(&self, connection: ConnectionId, raw: RingCompletion, more: bool) -> Completion {
        let Ok(bytes @ 1..) = usize::try_from(raw.result) else {
            return Completion::ReceiveEnded { connection, end: receive_end(raw.result) };
        };
        let index = cqueue::buffer_select(raw.flags).expect("bytes come in a provided buffer");
        let full = bytes == self.buffers_of(index).buffer_bytes();
        Completion::Received { connection, buffer: Buffer { index, bytes, full }, more }
    }

    fn buffers_of(&self, index: u16) -> &BufferRing {
        if self.large.has(index) { &self.large } else { &self.buffers }
    }

    fn on_accept(&mut self, listener: usize, result: i32, more: bool) -> Option<Completion> {
        let accepted =
            (result >= 0).then(|| Completion::Accepted { listener, socket: sys::take_fd(result) });
        if more {
            return accepted;
        }
        let errno = (result < 0 && !accept_goes_on_after(-result)).then_some(-result);
        let ended = Completion::AcceptEnded { listener, errno };
        if accepted.is_none() {
            return Some(ended);
        }
        self.second = Some(ended);
        accepted
    }

    fn submit_send(
        &mut self,
        socket: BorrowedFd<'_>,
        sending: &mut Sending,
        zero_copy: bool,
        token: Token,
    ) {
        self.in_flight += 1;
        if let Some(bytes) = sending.single() {
            // SAFETY: the bytes are on the heap of `sending`, which the driver keeps until
            // `Completion::Sent` (`SocketDriver::drop_sending` checks it), and until the
            // notice if there is one (`park`); `SocketDriver`'s drop stops this engine before.
            unsafe { self.ring.send(socket, bytes, zero_copy, token) };
            return;
        }
        let mut frame = sending.frame.take().unwrap_or_else(Frame::new);
        frame.fill(sending.pieces());
        let header = frame.header();
        sending.frame = Some(frame);
        // SAFETY: as above; the frame is boxed and stays in `sending`, which is not touched
        // again before its completion, and the pieces are on the heap of `sending`'s output and
        // of the messages that it holds.
        unsafe { self.ring.send_message(socket, header, zero_copy, token) };
    }

    /// Takes completions until `done` or the time is over; whether it is done.
    fn drain(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = sys::monotonic_now() + time;
        while !done(self) {
            let now = sys::monotonic_now();
            if now >= until || self.ring.turn(Block::For(until - now)).is_err() {
                return false;
            }
            while let Some(raw) = self.ring.next_completion() {
                // Descriptors are closed and finished sends freed by dropping the completion.
                drop(self.complete(raw));
                drop(self.second.take());
            }
        }
        true
    }
}

impl Engine for UringEngine {
    fn add_listener(&mut self, _listener: usize, _socket: BorrowedFd<'_>) -> Result<(), i32> {
        Ok(())
    }

    fn start_accept(&mut self, listener: usize, socket: BorrowedFd<'_>) {
        self.in_flight += 1;
        self.ring.accept_many(socket, Token::Accept { listener: listener as u32 });
    }

    fn stop_accept(&mut self, listener: usize) -> bool {
        self.ring.cancel(Token::Accept { listener: listener as u32 });
        false
    }

    fn add(&mut self, connection: ConnectionId, _socket: BorrowedFd<'_>) -> Result<(), i32> {
        if connection.slot < token::SLOTS_MAX { Ok(()) } else { Err(libc::ENFILE) }
    }

    fn remove(&mut self, _connection: ConnectionId, _socket: BorrowedFd<'_>) {}

    fn start_receive(&mut self, connection: ConnectionId, socket: BorrowedFd<'_>, how: Receive) {
        self.in_flight += 1;
        let token = Token::Receive(connection);
        match how {
            Receive::Once => self.ring.receive_once(socket, BUFFER_GROUP, token),
            Receive::BulkOnce => self.ring.receive_once(socket, LARGE_BUFFER_GROUP, token),
            Receive::Many => self.ring.receive_many(socket, BUFFER_GROUP, token),
            Receive::Bulk => self.ring.receive_many(socket, LARGE_BUFFER_GROUP, token),
        }
    }

    fn stop_receive(&mut self, connection: ConnectionId) -> bool {
        self.ring.cancel(Token::Receive(connection));
        false
    }

    fn start_send(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        sending: &mut Sending,
    ) -> SendStart {
        // A link's sends are copied: its output is the core's again as soon as one has ended.
        let zero_copy = match is_link(connection) {
            true => None,
            false => self.zero_copy.begin(connection, sending.left()),
        };
        match zero_copy {
            Some(index) => {
                self.zero_copy_sends += 1;
                sending.in_zero_copy = Some(index);
                self.submit_send(socket, sending, true, Token::ZeroCopy { index });
            }
            None => {
                sending.in_zero_copy = None;
                self.submit_send(socket, sending, false, Token::Send(connection));
            }
        }
        SendStart::InFlight
    }

    fn stop_send(&mut self, connection: ConnectionId, sending: &Sending) -> bool {
        let token = match sending.in_zero_copy {
            Some(index) => Token::ZeroCopy { index },
            None => Token::Send(connection),
        };
        self.ring.cancel(token);
        false
    }

    fn start_connect(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        address: &SockAddr,
    ) -> ConnectStart {
        if let Err(errno) = self.add(connection, socket) {
            return ConnectStart::Ended(Err(errno));
        }
        self.in_flight += 1;
        let token = Token::Connect(connection);
        // SAFETY: the address is boxed in a link's `Dial`, which is neither changed nor freed before
        // `Completion::Connected` (`TcpLinks::settle` waits for it); `SocketDriver`'s drop stops
        // this engine before.
        unsafe { self.ring.connect(socket, address.as_ptr().cast(), address.len(), token) };
        ConnectStart::InFlight
    }

    fn stop_connect(&mut self, connection: ConnectionId) -> bool {
        self.ring.cancel(Token::Connect(connection));
        false
    }

    fn start_receive_into(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        into: &mut [u8],
    ) -> ReceiveStart {
        self.in_flight += 1;
        let bytes = u32::try_from(into.len()).unwrap_or(u32::MAX);
        let token = Token::Receive(connection);
        // SAFETY: the memory is that of a link's `Assembly`, which `TcpLinks` touches only while no
        // receive is in flight (`Peer::receiving`), and keeps until its completion
        // (`TcpLinks::settle`); `SocketDriver`'s drop stops this engine before.
        unsafe { self.ring.receive_into(socket, into.as_mut_ptr(), bytes, token) };
        ReceiveStart::InFlight
    }

    const HAS_FILES: bool = true;

    fn start_file(&mut self, index: u32, operation: &mut RingOperation) {
        self.in_flight += 1;
        let token = Token::File { index };
        let step = operation.step();
        let file = operation.file();
        match step {
            RingStep::Write { slices, count, position } => {
                // SAFETY: the slices and what they name are on the heap of `operation`, which
                // `Files` keeps and does not touch until `Completion::File`; `SocketDriver`'s
                // drop stops this engine before it frees them.
                unsafe { self.ring.write(file, slices, count, position, token) };
            }
            RingStep::Read { into, bytes, position } => {
                // SAFETY: as above, for the buffer of `operation`.
                unsafe { self.ring.read(file, into, bytes, position, token) };
            }
            RingStep::Sync => self.ring.sync_data(file, token),
        }
    }

    fn park(&mut self, notice: u32, sending: Box<Sending>) {
        self.zero_copy.park(notice, sending);
    }

    fn received(&self, buffer: &Buffer) -> &[u8] {
        self.buffers_of(buffer.index).bytes(buffer.index, buffer.bytes)
    }

    fn lend(&mut self, buffer: &Buffer) -> Option<ReceiveBuffer> {
        let lends = self.large.has(buffer.index) && self.large.kept() < KEPT_BUFFERS_MAX;
        lends.then(|| self.large.lend(buffer.index))
    }

    fn give_back(&mut self, buffer: &Buffer) -> bool {
        let large = self.large.has(buffer.index);
        let buffers = if large { &mut self.large } else { &mut self.buffers };
        buffers.give_back(buffer.index)
    }

    fn take_back(&mut self) -> usize {
        self.large.take_back()
    }

    fn has_completions(&mut self) -> bool {
        self.second.is_some() || self.ring.has_completions()
    }

    fn turn(&mut self, block: Block) -> io::Result<()> {
        self.ring.turn(block)
    }

    fn next_completion(&mut self) -> Option<Completion> {
        if let Some(second) = self.second.take() {
            return Some(second);
        }
        loop {
            let raw = self.ring.next_completion()?;
            let completion = self.complete(raw);
            if completion.is_some() {
                return completion;
            }
        }
    }

    fn wake(&mut self, target: CoreId) {
        if let Some(ring) = self.wakers.ring_of(target) {
            self.ring.message(ring, Token::Message { target });
        } else {
            self.calls += 1;
            self.wakers.wake(target);
        }
    }

    fn wake_on(&mut self, fd: OwnedFd) -> Result<(), i32> {
        self.wakes_on.push(fd);
        self.watch_other(self.wakes_on.len() as u32 - 1);
        Ok(())
    }

    fn count(&self, into: &mut DriverCounters) {
        into.system_calls += self.calls + self.ring.calls();
        into.zero_copy_sends += self.zero_copy_sends;
    }

    fn stop(&mut self) -> Stopped {
        self.stopped = true;
        self.wakers.unregister_ring(self.own);
        let stopped = (0..STOP_ROUNDS).any(|_| {
            self.ring.cancel_all();
            self.drain(STOP_ROUND, |engine| engine.in_flight == engine.zero_copy.waiting())
        });
        match stopped {
            true if self.in_flight == 0 => Stopped::Entirely,
            true => Stopped::SaveNotices,
            false => Stopped::NotKnown,
        }
    }

    fn stop_notices(&mut self) {
        let stopped =
            (0..STOP_ROUNDS).any(|_| self.drain(STOP_ROUND, |engine| engine.in_flight == 0));
        if !stopped {
            self.buffers.leak();
            self.large.leak();
            self.zero_copy.leak();
        }
    }
}

/// Large receive buffers of a core: 4 MiB, sixteen times what a turn takes. When all are full the kernel
/// stops receiving into them until the core has caught up.
const LARGE_BUFFERS: u16 = 16;
/// Four times what the loopback device and large segment offload put into one segment, see tcp(7): a receive takes
/// what came in several, and fewer packets are torn.
const LARGE_BUFFER_BYTES: u32 = 256 * 1024;
/// Large receive buffers whose bytes wait to be sent, at most: the others are there to receive into.
const KEPT_BUFFERS_MAX: usize = LARGE_BUFFERS as usize / 2;

/// How long a driver that is dropped waits for the kernel to let go of its memory. What has not
/// ended by then (nothing that is known) is leaked.
const STOP_ROUND: Duration = Duration::from_millis(100);
const STOP_ROUNDS: u32 = 20;

fn receive_end(result: i32) -> ReceiveEnd {
    match -result {
        0 => ReceiveEnd::Finished,
        libc::ENOBUFS => ReceiveEnd::Shortage,
        libc::ECANCELED | libc::EINTR | libc::EAGAIN => ReceiveEnd::Stopped,
        errno => ReceiveEnd::Failed(errno),
    }
}

/// The two sizes of receive buffers. Their numbers do not overlap: a completion says which buffer,
/// not which group.
fn groups(config: &TransportConfig) -> (BufferGroup, BufferGroup) {
    let entries = config.receive_buffers;
    let buffer_bytes = config.receive_buffer_bytes;
    let small = BufferGroup { group: BUFFER_GROUP, first: 0, entries, buffer_bytes };
    let large = BufferGroup {
        group: LARGE_BUFFER_GROUP,
        first: entries,
        entries: LARGE_BUFFERS,
        buffer_bytes: LARGE_BUFFER_BYTES.max(buffer_bytes),
    };
    (small, large)
}

fn outcome(result: i32) -> Result<usize, i32> {
    usize::try_from(result).map_err(|_| -result)
}

/// Not an error of the listener: it was stopped, or the connection has gone; see accept(2).
fn accept_goes_on_after(errno: i32) -> bool {
    matches!(errno, libc::ECANCELED | libc::EAGAIN) || sys::accept_goes_on_after(errno)
}
