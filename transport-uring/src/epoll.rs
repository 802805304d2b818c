//! The engine on epoll: readiness is remembered, operations are plain calls that never wait.
//!
//! Sockets are registered once, edge-triggered, for both directions. What an edge said is kept
//! per socket until a call returns short or `EAGAIN`, so no call changes a registration later,
//! and a paused connection costs nothing. A turn serves each ready socket once, with at most one
//! scratch buffer of bytes, so that a fast peer cannot starve the others.

use crate::engine::{
    Block, Buffer, Completion, ConnectStart, Engine, Receive, ReceiveEnd, ReceiveStart, SendStart,
    Stopped,
};
use crate::file::RingOperation;
use crate::link::{is_link, position};
use crate::sending::{SLICES_MAX, Sending};
use crate::sys;
use crate::wake::Wakers;
use core::ffi::c_int;
use core::time::Duration;
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_dataplane::net::{DriverCounters, ReceiveBuffer};
use socket2::SockAddr;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

/// Bytes that one connection may receive in one turn.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Scratch buffers at most: those whose bytes are yet to be sent, and the one to receive into.
const SCRATCHES_MAX: usize = 17;
/// Events taken from the kernel in one turn.
const EVENTS_MAX: usize = 256;
/// Connections accepted per listener in one turn.
const ACCEPTS_PER_TURN: u16 = 64;

/// Slots from here on do not name connections in the kernel's event data.
const LISTENER_SLOTS: u32 = u32::MAX - 0xFFFF;
const WAKE_DATA: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Off,
    Once,
    Many,
    /// A link waits for bytes, to receive them itself.
    Into,
}

/// What is known of one socket.
#[derive(Clone, Copy, Debug)]
struct Socket {
    id: ConnectionId,
    fd: RawFd,
    mode: Mode,
    readable: bool,
    /// The peer's FIN or an error is behind what is left to read, so a short read says nothing.
    ending: bool,
    writable: bool,
    send_waits: bool,
    /// A link's, which is writable once it is connected.
    connecting: bool,
    queued: bool,
}

impl Socket {
    fn new(id: ConnectionId, fd: RawFd) -> Self {
        Self {
            id,
            fd,
            mode: Mode::Off,
            // Tried at once, before any edge: bytes often come with the connection.
            readable: true,
            ending: false,
            writable: true,
            send_waits: false,
            connecting: false,
            queued: false,
        }
    }
}

/// The sockets of a core: those of connections by their slots, and those of links.
#[derive(Debug, Default)]
struct SocketTable {
    connections: Vec<Option<Socket>>,
    links: Vec<Option<Socket>>,
}

impl SocketTable {
    fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        let place = match is_link(id) {
            false => self.connections.get_mut(id.index()),
            true => self.links.get_mut(position(id)),
        };
        place?.as_mut().filter(|socket| socket.id == id)
    }

    fn insert(&mut self, socket: Socket) {
        let (table, index) = match is_link(socket.id) {
            false => (&mut self.connections, socket.id.index()),
            true => (&mut self.links, position(socket.id)),
        };
        if table.len() <= index {
            table.resize(index + 1, None);
        }
        table[index] = Some(socket);
    }

    fn remove(&mut self, id: ConnectionId) {
        if self.get_mut(id).is_none() {
            return;
        }
        match is_link(id) {
            false => self.connections[id.index()] = None,
            true => self.links[position(id)] = None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Acceptor {
    fd: RawFd,
    on: bool,
    ready: bool,
    queued: bool,
    left_in_turn: u16,
}

/// One call to make for a ready socket.
#[derive(Clone, Copy, Debug)]
enum Work {
    Accept(usize),
    Receive(ConnectionId),
    Send(ConnectionId),
    Connect(ConnectionId),
}

/// A buffer that bytes are received into.
#[derive(Debug)]
struct Scratch(Box<[u8]>);

impl Scratch {
    fn new() -> Rc<Self> {
        Rc::new(Self(vec![0; SCRATCH_BYTES].into_boxed_slice()))
    }
}

impl AsRef<[u8]> for Scratch {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The epoll engine of one core.
#[derive(Debug)]
pub(crate) struct EpollEngine {
    epoll: OwnedFd,
    wakers: Wakers,
    sockets: SocketTable,
    acceptors: Vec<Acceptor>,
    events: Vec<libc::epoll_event>,
    /// Work of this turn, and work that waits for the next one. At most one entry of each kind
    /// per socket.
    work: VecDeque<Work>,
    next_work: VecDeque<Work>,
    /// What bytes are received into: the first one, which nobody else has a handle on.
    scratches: Vec<Rc<Scratch>>,
    /// Descriptors of others that end the wait.
    wakes_on: Vec<OwnedFd>,
    calls: u64,
}

impl EpollEngine {
    /// Opens the engine of core `own` and listens to its wake-ups.
    pub(crate) fn open(own: CoreId, wakers: Wakers) -> io::Result<Self> {
        let epoll = sys::epoll_create()?;
        let events = libc::EPOLLIN | libc::EPOLLET;
        sys::epoll_add(epoll.as_fd(), wakers.event_fd(own), events, WAKE_DATA)
            .map_err(io::Error::from_raw_os_error)?;
        Ok(Self {
            epoll,
            wakers,
            sockets: SocketTable::default(),
            acceptors: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            work: VecDeque::new(),
            next_work: VecDeque::new(),
            scratches: vec![Scratch::new()],
            wakes_on: Vec::new(),
            calls: 2,
        })
    }

    fn socket(&mut self, id: ConnectionId) -> Option<&mut Socket> {
        self.sockets.get_mut(id)
    }

    fn on_event(&mut self, data: u64, events: u32) {
        if data == WAKE_DATA {
            // An edge says it all: the counter is never read, so it costs no call.
            return;
        }
        let id = id_of(data);
        if id.slot >= LISTENER_SLOTS {
            let listener = (id.slot - LISTENER_SLOTS) as usize;
            self.acceptors[listener].ready = true;
            self.queue_accept(listener);
            return;
        }
        let has = |flag: c_int| events & flag.cast_unsigned() != 0;
        let ending = has(libc::EPOLLRDHUP) || has(libc::EPOLLHUP) || has(libc::EPOLLERR);
        let readable = ending || has(libc::EPOLLIN);
        let writable = has(libc::EPOLLOUT) || has(libc::EPOLLERR) || has(libc::EPOLLHUP);
        let Some(socket) = self.socket(id) else { return };
        socket.readable |= readable;
        socket.ending |= ending;
        socket.writable |= writable;
        if socket.connecting && writable {
            socket.connecting = false;
            self.next_work.push_back(Work::Connect(id));
            return;
        }
        let send_goes_on = socket.send_waits && socket.writable;
        if send_goes_on {
            socket.send_waits = false;
            self.next_work.push_back(Work::Send(id));
        }
        self.queue_receive(id);
    }

    fn register(&mut self, socket: Socket, fd: BorrowedFd<'_>) -> Result<(), i32> {
        let events = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT | libc::EPOLLET;
        self.calls += 1;
        sys::epoll_add(self.epoll.as_fd(), fd, events, data_of(socket.id))?;
        self.sockets.insert(socket);
        Ok(())
    }

    /// A try to connect has ended, unless it was stopped; how, the socket's error says.
    fn connected(&mut self, id: ConnectionId) -> Option<Completion> {
        // One that connects anew has an event of its own to come.
        let socket = self.sockets.get_mut(id).filter(|socket| !socket.connecting)?;
        socket.readable = true;
        socket.writable = true;
        Some(Completion::Connected { connection: id, result: Ok(()) })
    }

    fn queue_receive(&mut self, id: ConnectionId) {
        let Some(socket) = self.socket(id) else { return };
        if socket.readable && socket.mode != Mode::Off && !socket.queued {
            socket.queued = true;
            self.next_work.push_back(Work::Receive(id));
        }
    }

    fn queue_accept(&mut self, listener: usize) {
        let acceptor = &mut self.acceptors[listener];
        if acceptor.on && acceptor.ready && !acceptor.queued {
            acceptor.queued = true;
            acceptor.left_in_turn = ACCEPTS_PER_TURN;
            self.next_work.push_back(Work::Accept(listener));
        }
    }

    /// A scratch buffer behind the first one that nobody else has a handle on.
    fn spare_scratch(&self) -> Option<usize> {
        let is_spare = |at: &usize| Rc::strong_count(&self.scratches[*at]) == 1;
        (1..self.scratches.len()).find(is_spare)
    }

    /// Receives into another scratch buffer from now on: what is in the first one is yet to be sent.
    fn change_scratch(&mut self) {
        let next = self.spare_scratch().unwrap_or_else(|| {
            self.scratches.push(Scratch::new());
            self.scratches.len() - 1
        });
        self.scratches.swap(0, next);
    }

    fn receive(&mut self, id: ConnectionId) -> Option<Completion> {
        let socket = self.sockets.get_mut(id)?;
        socket.queued = false;
        match socket.mode {
            Mode::Once | Mode::Many => {}
            Mode::Off => return None,
            Mode::Into => {
                socket.mode = Mode::Off;
                return Some(Completion::Readable { connection: id });
            }
        }
        self.calls += 1;
        // The driver keeps the socket open while a receive is on, and turns it off before it
        // closes, so this number still names it.
        let scratch = Rc::get_mut(&mut self.scratches[0]).expect("nobody else has a handle on it");
        let end = match sys::receive(socket.fd, &mut scratch.0) {
            Ok(0) => ReceiveEnd::Finished,
            Ok(bytes) => {
                // A short read has emptied the socket, see epoll(7), question 9.
                socket.readable = socket.ending || bytes == SCRATCH_BYTES;
                let more = socket.mode == Mode::Many;
                if more {
                    self.queue_receive(id);
                } else {
                    socket.mode = Mode::Off;
                }
                // There is one size of buffers, and it is the large one.
                let buffer = Buffer { index: 0, bytes, full: false };
                return Some(Completion::Received { connection: id, buffer, more });
            }
            Err(libc::EAGAIN) => {
                socket.readable = false;
                return None;
            }
            Err(libc::EINTR) => {
                self.queue_receive(id);
                return None;
            }
            Err(errno) => ReceiveEnd::Failed(errno),
        };
        socket.mode = Mode::Off;
        Some(Completion::ReceiveEnded { connection: id, end })
    }

    fn accept(&mut self, listener: usize) -> Option<Completion> {
        let acceptor = &mut self.acceptors[listener];
        acceptor.queued = false;
        if !acceptor.on {
            return None;
        }
        self.calls += 1;
        // The driver closes a listener only after it was turned off, as with sockets above.
        match sys::accept(acceptor.fd) {
            Ok(socket) => {
                acceptor.left_in_turn -= 1;
                if acceptor.left_in_turn > 0 {
                    acceptor.queued = true;
                    self.work.push_back(Work::Accept(listener));
                } else {
                    self.queue_accept(listener);
                }
                Some(Completion::Accepted { listener, socket })
            }
            Err(libc::EAGAIN) => {
                acceptor.ready = false;
                None
            }
            Err(errno) if sys::accept_goes_on_after(errno) => {
                self.queue_accept(listener);
                None
            }
            Err(errno) => {
                acceptor.on = false;
                Some(Completion::AcceptEnded { listener, errno: Some(errno) })
            }
        }
    }
}

impl Engine for EpollEngine {
    fn add_listener(&mut self, listener: usize, socket: BorrowedFd<'_>) -> Result<(), i32> {
        assert_eq!(listener, self.acceptors.len(), "listeners come in order");
        let slot = LISTENER_SLOTS + listener as u32;
        self.calls += 1;
        let events = libc::EPOLLIN | libc::EPOLLET;
        let data = data_of(ConnectionId { slot, generation: 0 });
        sys::epoll_add(self.epoll.as_fd(), socket, events, data)?;
        self.acceptors.push(Acceptor {
            fd: socket.as_raw_fd(),
            on: false,
            ready: true,
            queued: false,
            left_in_turn: 0,
        });
        Ok(())
    }

    fn start_accept(&mut self, listener: usize, _socket: BorrowedFd<'_>) {
        let acceptor = &mut self.acceptors[listener];
        acceptor.on = true;
        // Whatever ended accepting has left connections waiting, and no edge for them.
        acceptor.ready = true;
        self.queue_accept(listener);
    }

    fn stop_accept(&mut self, listener: usize) -> bool {
        self.acceptors[listener].on = false;
        true
    }

    fn add(&mut self, connection: ConnectionId, socket: BorrowedFd<'_>) -> Result<(), i32> {
        assert!(connection.slot < LISTENER_SLOTS, "more connections than the event data can name");
        self.register(Socket::new(connection, socket.as_raw_fd()), socket)
    }

    fn remove(&mut self, connection: ConnectionId, socket: BorrowedFd<'_>) {
        self.calls += 1;
        sys::epoll_remove(self.epoll.as_fd(), socket);
        self.sockets.remove(connection);
    }

    fn start_receive(&mut self, connection: ConnectionId, _socket: BorrowedFd<'_>, how: Receive) {
        if let Some(socket) = self.socket(connection) {
            socket.mode = match how {
                Receive::Once | Receive::BulkOnce => Mode::Once,
                Receive::Many | Receive::Bulk => Mode::Many,
            };
            self.queue_receive(connection);
        }
    }

    fn stop_receive(&mut self, connection: ConnectionId) -> bool {
        if let Some(socket) = self.socket(connection) {
            socket.mode = Mode::Off;
        }
        true
    }

    fn start_send(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        sending: &mut Sending,
    ) -> SendStart {
        let Some(state) = self.sockets.get_mut(connection) else {
            return SendStart::Ended(Err(libc::EBADF));
        };
        if !state.writable {
            state.send_waits = true;
            return SendStart::InFlight;
        }
        self.calls += 1;
        let (asked, result) = send(socket, sending);
        match result {
            Ok(taken) => {
                state.writable = taken == asked;
                SendStart::Ended(Ok(taken))
            }
            Err(libc::EAGAIN) => {
                state.writable = false;
                state.send_waits = true;
                SendStart::InFlight
            }
            Err(errno) => SendStart::Ended(Err(errno)),
        }
    }

    fn stop_send(&mut self, connection: ConnectionId, _sending: &Sending) -> bool {
        if let Some(socket) = self.socket(connection) {
            socket.send_waits = false;
        }
        true
    }

    fn start_connect(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        address: &SockAddr,
    ) -> ConnectStart {
        self.calls += 2;
        match sys::connect(socket, address) {
            Ok(()) => ConnectStart::Ended(self.add(connection, socket)),
            Err(libc::EINPROGRESS) => {
                // Before it is connected there is nothing to try.
                let waits = Socket {
                    readable: false,
                    writable: false,
                    connecting: true,
                    ..Socket::new(connection, socket.as_raw_fd())
                };
                match self.register(waits, socket) {
                    Ok(()) => ConnectStart::InFlight,
                    Err(errno) => ConnectStart::Ended(Err(errno)),
                }
            }
            Err(errno) => ConnectStart::Ended(Err(errno)),
        }
    }

    fn stop_connect(&mut self, connection: ConnectionId) -> bool {
        if let Some(socket) = self.socket(connection) {
            socket.connecting = false;
        }
        true
    }

    fn start_receive_into(
        &mut self,
        connection: ConnectionId,
        socket: BorrowedFd<'_>,
        into: &mut [u8],
    ) -> ReceiveStart {
        let Some(state) = self.sockets.get_mut(connection) else {
            return ReceiveStart::Ended(Err(libc::EBADF));
        };
        if state.readable {
            self.calls += 1;
            match sys::receive(socket.as_raw_fd(), into) {
                Ok(bytes) => {
                    state.readable = state.ending || bytes == into.len();
                    return ReceiveStart::Ended(Ok(bytes));
                }
                Err(libc::EAGAIN) => state.readable = false,
                Err(errno) => return ReceiveStart::Ended(Err(errno)),
            }
        }
        state.mode = Mode::Into;
        ReceiveStart::InFlight
    }

    const HAS_FILES: bool = false;

    fn start_file(&mut self, _index: u32, _operation: &mut RingOperation) {
        unreachable!("there is no readiness of files: threads do what would block");
    }

    fn park(&mut self, _notice: u32, _sending: Box<Sending>) {
        unreachable!("a plain send gives no notice");
    }

    fn received(&self, buffer: &Buffer) -> &[u8] {
        &self.scratches[0].0[..buffer.bytes]
    }

    fn lend(&mut self, _buffer: &Buffer) -> Option<ReceiveBuffer> {
        let lends = self.scratches.len() < SCRATCHES_MAX || self.spare_scratch().is_some();
        let handle = || Rc::<Scratch>::clone(&self.scratches[0]);
        lends.then(|| ReceiveBuffer::new(handle()))
    }

    fn give_back(&mut self, _buffer: &Buffer) -> bool {
        if Rc::strong_count(&self.scratches[0]) > 1 {
            self.change_scratch();
        }
        true
    }

    fn take_back(&mut self) -> usize {
        0
    }

    fn has_completions(&mut self) -> bool {
        !self.work.is_empty() || !self.next_work.is_empty()
    }

    fn turn(&mut self, block: Block) -> io::Result<()> {
        let millis = if self.has_completions() { 0 } else { millis_of(block) };
        self.calls += 1;
        match sys::epoll_wait(self.epoll.as_fd(), &mut self.events, millis) {
            Ok(_) => {}
            Err(libc::EINTR) => self.events.clear(),
            Err(errno) => return Err(io::Error::from_raw_os_error(errno)),
        }
        let events = core::mem::take(&mut self.events);
        for event in &events {
            self.on_event(event.u64, event.events);
        }
        self.events = events;
        self.work.append(&mut self.next_work);
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let completion = match self.work.pop_front()? {
                Work::Accept(listener) => self.accept(listener),
                Work::Receive(id) => self.receive(id),
                Work::Send(id) => Some(Completion::Writable { connection: id }),
                Work::Connect(id) => self.connected(id),
            };
            if completion.is_some() {
                return completion;
            }
        }
    }

    fn wake(&mut self, target: CoreId) {
        self.calls += 1;
        self.wakers.wake(target);
    }

    fn wake_on(&mut self, fd: OwnedFd) -> Result<(), i32> {
        self.calls += 1;
        let events = libc::EPOLLIN | libc::EPOLLET;
        sys::epoll_add(self.epoll.as_fd(), fd.as_fd(), events, WAKE_DATA)?;
        self.wakes_on.push(fd);
        Ok(())
    }

    fn count(&self, into: &mut DriverCounters) {
        into.system_calls += self.calls;
    }

    fn stop(&mut self) -> Stopped {
        Stopped::Entirely
    }

    fn stop_notices(&mut self) {}
}

/// One send call; how many bytes were asked for, and what came of it.
fn send(socket: BorrowedFd<'_>, sending: &Sending) -> (usize, Result<usize, i32>) {
    if let Some(bytes) = sending.single() {
        return (bytes.len(), sys::send_slices(socket, &[IoSlice::new(bytes)]));
    }
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut count = 0;
    let mut asked = 0;
    for (slice, piece) in slices.iter_mut().zip(sending.pieces()) {
        *slice = IoSlice::new(piece);
        count += 1;
        asked += piece.len();
    }
    (asked, sys::send_slices(socket, &slices[..count]))
}

/// Rounded up, so that a deadline has come when the wait is over.
fn millis_of(block: Block) -> c_int {
    match block {
        Block::No => 0,
        Block::Forever => -1,
        Block::For(time) => {
            let millis = time.saturating_add(Duration::from_nanos(999_999)).as_millis();
            c_int::try_from(millis).unwrap_or(c_int::MAX)
        }
    }
}

fn data_of(id: ConnectionId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.slot)
}

fn id_of(data: u64) -> ConnectionId {
    ConnectionId { slot: data as u32, generation: (data >> 32) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_data_names_slot_and_generation() {
        let id = ConnectionId { slot: 7, generation: 0xFFFF_FFFF };
        assert_eq!(id_of(data_of(id)), id);
        assert_ne!(data_of(ConnectionId { slot: LISTENER_SLOTS, generation: 0 }), WAKE_DATA);
    }

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(millis_of(Block::For(Duration::from_nanos(1))), 1);
        assert_eq!(millis_of(Block::For(Duration::from_millis(2))), 2);
        assert_eq!(millis_of(Block::Forever), -1);
        assert_eq!(millis_of(Block::No), 0);
    }
}
