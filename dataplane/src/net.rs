//! The socket seam: a table of connections that the broker writes into and a driver carries out.
//!
//! The broker never performs a system call. It puts bytes into a connection's [`Output`] and asks
//! for closes, pauses and moves by methods of [`Sockets`]; the driver (io_uring, epoll, or the
//! simulator) reads those once a turn and answers with [`NetEvent`]s. So a turn sends at most once
//! per connection, whatever happened in it, and the same broker runs on any driver.

mod received;

pub use received::{ReceiveBuffer, ReceivedPart};

use crate::ids::{ConnectionId, CoreId, ListenerId};
use crate::link::Body;
use crate::message::Message;
use crate::peer::PeerAddress;
use crate::runtime::ThreadUsage;
use crate::time::Nanos;
use core::net::SocketAddr;
use std::io;
use std::os::fd::OwnedFd;

/// Something that happened to a connection.
#[derive(Debug)]
pub enum NetEvent<'a> {
    /// A listener accepted a connection; it is in [`Stage::Greeting`].
    Accepted {
        /// The new connection.
        connection: ConnectionId,
        /// Where it came in.
        listener: ListenerId,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// Bytes arrived. They are borrowed from the driver: what is not consumed must be copied.
    Received {
        /// The connection.
        connection: ConnectionId,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// Everything that was put into the output has been handed to the kernel.
    Drained {
        /// The connection.
        connection: ConnectionId,
    },
    /// The connection has left this core after [`Sockets::detach`]; its id is dead.
    Detached {
        /// The connection as it was called here.
        connection: ConnectionId,
        /// The socket, with no operation in flight.
        socket: OwnedFd,
        /// Where it came in.
        listener: ListenerId,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// The connection is over; its id is dead. Exactly one per connection that was not detached.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        cause: Closure,
    },
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closure {
    /// The peer sent FIN.
    Peer,
    /// The broker asked for it.
    Local,
    /// The kernel reported an error (an `errno` value), a reset among them.
    Error(i32),
}

/// How far a connection has come, as far as receiving goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Before CONNECT is complete: one single-shot receive at a time, so that the connection can
    /// move to another core with no operation in flight.
    Greeting,
    /// On its own core: received by multishot, where the kernel has it.
    Established,
}

/// How to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Send what is in the output first, then FIN, then read and drop until the peer's FIN; each
    /// for a bounded time.
    Flush,
    /// At once; what was not sent is dropped.
    Abort,
}

/// Bytes that are sent from where they are, without a copy into the output.
#[derive(Debug)]
pub struct SharedPart {
    /// Position in [`Output::bytes`] before which they go out.
    pub at: usize,
    /// The bytes.
    pub bytes: SharedBytes,
}

/// What keeps them.
#[derive(Debug)]
pub enum SharedBytes {
    /// The payload of a message.
    Payload(Message),
    /// The records of a batch.
    Body(Body),
    /// What was received and goes on as it came.
    Received(ReceivedPart),
}

impl SharedBytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Payload(message) => message.payload(),
            Self::Body(body) => body.bytes(),
            Self::Received(part) => part.as_slice(),
        }
    }

    /// The records of a batch, if that is what it is.
    #[must_use]
    pub fn body(&self) -> Option<&Body> {
        match self {
            Self::Payload(_) | Self::Received(_) => None,
            Self::Body(body) => Some(body),
        }
    }
}

/// What is to be sent on one connection, in order.
#[derive(Debug, Default)]
pub struct Output {
    /// Bytes that were encoded or copied.
    pub bytes: Vec<u8>,
    /// Few outputs ever have one, and every connection has an output.
    shared: Option<Box<SharedParts>>,
}

#[derive(Debug, Default)]
struct SharedParts {
    list: Vec<SharedPart>,
    /// Bytes of all parts.
    bytes: usize,
}

impl Output {
    /// Sends the message's payload after the bytes put in so far, without copying it.
    pub fn push_payload(&mut self, message: Message) {
        self.push_shared(SharedBytes::Payload(message));
    }

    /// Sends the records after the bytes put in so far, without copying them.
    pub fn push_body(&mut self, body: Body) {
        self.push_shared(SharedBytes::Body(body));
    }

    fn push_shared(&mut self, bytes: SharedBytes) {
        let shared = self.shared.get_or_insert_default();
        shared.bytes += bytes.as_slice().len();
        shared.list.push(SharedPart { at: self.bytes.len(), bytes });
    }

    /// What is sent from where it is, by rising position.
    #[must_use]
    pub fn shared(&self) -> &[SharedPart] {
        self.shared.as_ref().map_or(&[], |shared| &shared.list)
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared.as_ref().map_or(0, |shared| shared.bytes)
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything, keeps the capacity.
    pub fn clear(&mut self) {
        self.bytes.clear();
        if let Some(shared) = &mut self.shared {
            shared.list.clear();
            shared.bytes = 0;
        }
    }

    /// Bytes of memory that it holds when it is empty.
    fn capacity_bytes(&self) -> usize {
        let list = |shared: &SharedParts| {
            size_of::<SharedParts>() + shared.list.capacity() * size_of::<SharedPart>()
        };
        self.bytes.capacity() + self.shared.as_deref().map_or(0, list)
    }
}

/// What the broker asks of the driver, besides sending.
#[derive(Debug)]
pub enum SocketCommand {
    /// CONNECT is complete: receive by multishot from now on.
    Establish(ConnectionId),
    /// Close.
    Close(ConnectionId, Close),
    /// Take the socket out and report [`NetEvent::Detached`].
    Detach(ConnectionId),
    /// Take a socket in that another core detached; its slot is already open.
    Adopt(ConnectionId, OwnedFd),
    /// Stop receiving: no [`NetEvent::Received`] until resumed, save bytes already read, which
    /// the driver holds back.
    Pause(ConnectionId),
    /// Receive again; bytes held back come first.
    Resume(ConnectionId),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    open: bool,
    /// No output is taken any more: a close or a move is under way.
    closing: bool,
    dirty: bool,
    paused: bool,
    sending_bytes: usize,
    output: Output,
    listener: ListenerId,
    peer: PeerAddress,
}

/// The connections of one core: the broker's side and the driver's side of the same table.
#[derive(Debug)]
pub struct Sockets {
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<ConnectionId>,
    commands: Vec<SocketCommand>,
    spare: Vec<Output>,
    /// Bytes that the spare buffers hold.
    spare_bytes: usize,
    connections_max: usize,
    open_count: usize,
    now: Nanos,
    /// Where the bytes of the event in hand lie, if they may stay there until they are sent.
    lent: Option<ReceiveBuffer>,
}

/// Received bytes that go on from where they lie are at least so many: below, copying them costs
/// less than one more piece in a send.
const FORWARD_BYTES_MIN: usize = 8 * 1024;
/// Unsent bytes of a connection from which on received bytes are copied: a peer that does not read is
/// not to keep receive buffers from all others.
const FORWARD_UNSENT_MAX: usize = 512 * 1024;

/// Output buffers kept for reuse per core, the largest one that is kept, and what all may hold: an
/// idle connection holds no buffer, and a burst does not pin its memory. A turn that writes to some
/// thousand connections finds a buffer for each.
const SPARE_OUTPUTS_MAX: usize = 4096;
const SPARE_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
const SPARE_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Sockets {
    /// A table for at most `connections_max` connections.
    #[must_use]
    pub fn new(connections_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            commands: Vec::new(),
            spare: Vec::new(),
            spare_bytes: 0,
            connections_max,
            open_count: 0,
            now: Nanos::default(),
            lent: None,
        }
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    // ---- the broker's side ----

    /// Where to put bytes for this connection; it is sent at the end of the turn. `None` once the
    /// connection is closing or gone.
    pub fn output(&mut self, connection: ConnectionId) -> Option<&mut Output> {
        let slot = self.slots.get_mut(connection.index())?;
        if !slot.open || slot.closing || slot.generation != connection.generation {
            return None;
        }
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(connection);
            if slot.output.capacity_bytes() == 0
                && let Some(spare) = self.spare.pop()
            {
                self.spare_bytes -= spare.capacity_bytes();
                slot.output = spare;
            }
        }
        Some(&mut slot.output)
    }

    /// Puts bytes of the event in hand into a connection's output, from where they lie if the driver
    /// can spare the buffer until they are sent, else as a copy. False once the connection is closing
    /// or gone.
    pub fn forward(&mut self, connection: ConnectionId, bytes: &[u8]) -> bool {
        let part = match &self.lent {
            Some(buffer) if bytes.len() >= FORWARD_BYTES_MIN => buffer.part(bytes),
            _ => None,
        };
        let part = part.filter(|_| self.unsent_bytes(connection) < FORWARD_UNSENT_MAX);
        let Some(output) = self.output(connection) else { return false };
        match part {
            Some(part) => output.push_shared(SharedBytes::Received(part)),
            None => output.bytes.extend_from_slice(bytes),
        }
        true
    }

    /// Bytes accepted for this connection that the kernel has not taken yet.
    #[must_use]
    pub fn unsent_bytes(&self, connection: ConnectionId) -> usize {
        self.slot(connection).map_or(0, |slot| slot.output.len() + slot.sending_bytes)
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(&self, connection: ConnectionId) -> Option<SocketAddr> {
        self.slot(connection).map(|slot| slot.peer.into())
    }

    /// The peer is known to be another than the socket says: a load balancer named its client.
    pub fn set_peer(&mut self, connection: ConnectionId, peer: SocketAddr) {
        if let Some(slot) = self.slot_mut(connection) {
            slot.peer = peer.into();
        }
    }

    /// CONNECT is complete and the connection stays on this core.
    pub fn establish(&mut self, connection: ConnectionId) {
        if self.slot(connection).is_some() {
            self.commands.push(SocketCommand::Establish(connection));
        }
    }

    /// Ends a connection. [`NetEvent::Closed`] follows; no other event does.
    pub fn close(&mut self, connection: ConnectionId, how: Close) {
        if let Some(slot) = self.slot_mut(connection)
            && !slot.closing
        {
            slot.closing = true;
            self.commands.push(SocketCommand::Close(connection, how));
        }
    }

    /// Takes a connection in [`Stage::Greeting`] out of this core, after what is in its output
    /// has been sent. [`NetEvent::Detached`] follows, or [`NetEvent::Closed`] if it broke.
    pub fn detach(&mut self, connection: ConnectionId) {
        if let Some(slot) = self.slot_mut(connection)
            && !slot.closing
        {
            slot.closing = true;
            self.commands.push(SocketCommand::Detach(connection));
        }
    }

    /// Takes in a socket that another core detached, in [`Stage::Greeting`].
    ///
    /// # Errors
    /// The socket, if the table is full.
    pub fn adopt(
        &mut self,
        socket: OwnedFd,
        listener: ListenerId,
        peer: SocketAddr,
    ) -> Result<ConnectionId, OwnedFd> {
        match self.open(listener, peer) {
            Some(connection) => {
                self.commands.push(SocketCommand::Adopt(connection, socket));
                Ok(connection)
            }
            None => Err(socket),
        }
    }

    /// Stops receiving from a connection (back-pressure on its peer).
    pub fn pause(&mut self, connection: ConnectionId) {
        if let Some(slot) = self.slot_mut(connection)
            && !slot.paused
            && !slot.closing
        {
            slot.paused = true;
            self.commands.push(SocketCommand::Pause(connection));
        }
    }

    /// Receives from a paused connection again.
    pub fn resume(&mut self, connection: ConnectionId) {
        if let Some(slot) = self.slot_mut(connection)
            && slot.paused
            && !slot.closing
        {
            slot.paused = false;
            self.commands.push(SocketCommand::Resume(connection));
        }
    }

    /// Whether [`Sockets::pause`] is in force.
    #[must_use]
    pub fn is_paused(&self, connection: ConnectionId) -> bool {
        self.slot(connection).is_some_and(|slot| slot.paused)
    }

    // ---- the driver's side ----

    /// The time that events are handled at: what was last told to [`Sockets::set_now`].
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Sets the time that events are handled at. The core does so before each [`Driver::poll`],
    /// and the driver after it has waited, before the first event: the wait took time.
    pub fn set_now(&mut self, now: Nanos) {
        self.now = now;
    }

    /// The buffer that the next event's bytes lie in may be kept until they are sent; `None` when the
    /// event is over.
    pub fn lend(&mut self, buffer: Option<ReceiveBuffer>) {
        self.lent = buffer;
    }

    /// Opens a slot for an accepted socket; `None` if the table is full.
    pub fn open(&mut self, listener: ListenerId, peer: SocketAddr) -> Option<ConnectionId> {
        if self.open_count >= self.connections_max {
            return None;
        }
        let peer = PeerAddress::from(peer);
        let index = self.free.pop().or_else(|| u32::try_from(self.slots.len()).ok())?;
        if index as usize == self.slots.len() {
            self.slots.push(Slot {
                generation: 0,
                open: false,
                closing: false,
                dirty: false,
                paused: false,
                sending_bytes: 0,
                output: Output::default(),
                listener,
                peer,
            });
        }
        let slot = &mut self.slots[index as usize];
        slot.open = true;
        slot.closing = false;
        slot.paused = false;
        slot.listener = listener;
        slot.peer = peer;
        self.open_count += 1;
        Some(ConnectionId { slot: index, generation: slot.generation })
    }

    /// Whether the id names an open connection (closing ones included).
    #[must_use]
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.slot(connection).is_some()
    }

    /// Whether a close or a move was asked for: events that are still under way are not due.
    #[must_use]
    pub fn is_closing(&self, connection: ConnectionId) -> bool {
        self.slot(connection).is_some_and(|slot| slot.closing)
    }

    /// Where the connection came in, and from whom.
    #[must_use]
    pub fn origin(&self, connection: ConnectionId) -> Option<(ListenerId, SocketAddr)> {
        self.slot(connection).map(|slot| (slot.listener, slot.peer.into()))
    }

    /// Moves the connections that have output into `into`; those of ended connections are left out.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnectionId>) {
        for connection in self.dirty.drain(..) {
            let Some(slot) = self.slots.get_mut(connection.index()) else { continue };
            if slot.generation == connection.generation {
                slot.dirty = false;
                into.push(connection);
            }
        }
    }

    /// Moves the commands of this turn into `into`, in the order in which they were given.
    /// The driver carries them out after it has taken the outputs of the same turn.
    pub fn take_commands(&mut self, into: &mut Vec<SocketCommand>) {
        into.append(&mut self.commands);
    }

    /// Whether the broker has left work for the driver.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.commands.is_empty()
    }

    /// Takes the output to send it. `None` if there is nothing to send.
    pub fn begin_send(&mut self, connection: ConnectionId) -> Option<Output> {
        let slot = self.slot_mut(connection)?;
        if slot.output.is_empty() {
            return None;
        }
        let output = core::mem::take(&mut slot.output);
        slot.sending_bytes = output.len();
        Some(output)
    }

    /// Counts bytes that the kernel has taken of the output that is being sent.
    pub fn sent(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(slot) = self.slot_mut(connection) {
            slot.sending_bytes = slot.sending_bytes.saturating_sub(bytes);
        }
    }

    /// Gives the buffers back after the whole output was sent, or was dropped.
    pub fn end_send(&mut self, connection: ConnectionId, output: Output) {
        if let Some(slot) = self.slot_mut(connection) {
            slot.sending_bytes = 0;
        }
        self.recycle(output);
    }

    /// Bytes that wait in the output and are not being sent.
    #[must_use]
    pub fn queued_bytes(&self, connection: ConnectionId) -> usize {
        self.slot(connection).map_or(0, |slot| slot.output.len())
    }

    /// Ends the id after [`NetEvent::Closed`] or [`NetEvent::Detached`] was handled.
    pub fn release(&mut self, connection: ConnectionId) {
        let Some(slot) = self.slot_mut(connection) else { return };
        slot.open = false;
        slot.dirty = false;
        slot.sending_bytes = 0;
        slot.generation = slot.generation.wrapping_add(1);
        let output = core::mem::take(&mut slot.output);
        self.free.push(connection.slot);
        self.open_count -= 1;
        self.recycle(output);
    }

    fn recycle(&mut self, mut output: Output) {
        output.clear();
        let bytes = output.capacity_bytes();
        let keep = (1..=SPARE_OUTPUT_BYTES_MAX).contains(&bytes)
            && self.spare.len() < SPARE_OUTPUTS_MAX
            && self.spare_bytes + bytes <= SPARE_BYTES_MAX;
        if keep {
            self.spare_bytes += bytes;
            self.spare.push(output);
        }
    }

    fn slot(&self, connection: ConnectionId) -> Option<&Slot> {
        self.slots
            .get(connection.index())
            .filter(|slot| slot.open && slot.generation == connection.generation)
    }

    fn slot_mut(&mut self, connection: ConnectionId) -> Option<&mut Slot> {
        self.slots
            .get_mut(connection.index())
            .filter(|slot| slot.open && slot.generation == connection.generation)
    }
}

/// How long a driver may block when nothing has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Not at all.
    Poll,
    /// Until something happens, a wake-up included, or this time has come.
    Until(Nanos),
}

/// A socket driver: carries out what [`Sockets`] collected and reports what happened.
pub trait Driver {
    /// The monotonic clock, read now.
    fn now(&self) -> Nanos;

    /// Sends and carries out the commands of this turn. Nothing blocks; completions come with
    /// the next [`Driver::poll`].
    fn apply(&mut self, sockets: &mut Sockets, now: Nanos);

    /// Submits what [`Driver::apply`] prepared, waits as told, and reports at most `events_max`
    /// events. Returns how many there were. After a wait that may have blocked, it reads the clock
    /// and calls [`Sockets::set_now`] before the first event.
    ///
    /// # Errors
    /// Only what leaves the driver unusable; errors of one connection are its `Closed` event.
    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize>;

    /// Wakes another core (or the control thread) that advertised that it sleeps.
    fn wake(&mut self, target: CoreId);

    /// Stops accepting on all listeners.
    fn stop_accepting(&mut self);

    /// System calls made so far, and completions or readiness events taken.
    fn counters(&self) -> DriverCounters;

    /// What the kernel says of the thread that the driver runs on; `None` if nothing is known.
    fn usage(&self) -> Option<ThreadUsage> {
        None
    }
}

/// What a driver counts; all only grow.
#[derive(Clone, Copy, Default, Debug)]
pub struct DriverCounters {
    /// System calls of every kind.
    pub system_calls: u64,
    /// Completions or readiness events.
    pub completions: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Send operations that were zero-copy.
    pub zero_copy_sends: u64,
    /// Times the kernel had no receive buffer to put bytes into.
    pub buffer_shortages: u64,
    /// Connections turned away because the table or the descriptors were exhausted.
    pub accepts_refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_takes_little_of_the_table() {
        assert!(size_of::<Slot>() <= 72, "{}", size_of::<Slot>());
    }
}
