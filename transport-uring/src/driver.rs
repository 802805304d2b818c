//! The life of connections, the same on every engine: from accept to the last event.
//!
//! A turn is one `poll` and one `apply`. `poll` reports what happened and starts nothing but
//! what finishes an operation already begun; `apply` sends what the broker wrote, carries out
//! what it asked for, and starts receiving again where it had ended. On io_uring all of that
//! reaches the kernel with the next `poll`, in one system call.

mod closing;
mod receive;
mod send;

use crate::config::TransportConfig;
use crate::connection::Connections;
use crate::engine::{Block, Completion, Engine, Stopped};
use crate::file::Files;
use crate::link::{TcpLinks, is_link};
use crate::listen::ListenSocket;
use crate::sending::Sending;
use crate::sys;
use core::time::Duration;
use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use ringlane_dataplane::link::{LinkCounters, LinkDriver, LinkEvent, Links};
use ringlane_dataplane::net::{
    Close, Closure, Driver, DriverCounters, NetEvent, SocketCommand, Sockets, Stage, Wait,
};
use ringlane_dataplane::runtime::ThreadUsage;
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The broker's side of an event.
pub(crate) type OnEvent<'a> = dyn FnMut(&mut Sockets, NetEvent<'_>) + 'a;

/// An event that is delivered as soon as the turn's limit allows. At most one of each kind per
/// connection is queued, so the queue is bounded by the table.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Drained(ConnectionId),
    Held(ConnectionId),
    Detached(ConnectionId),
    Closed(ConnectionId, Closure),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accepting {
    Armed,
    /// Told to stop; starts again at the time, or never.
    Stopping(Nanos),
    /// Starts at the time.
    Resting(Nanos),
}

#[derive(Debug)]
struct Listener {
    id: ListenerId,
    /// None once accepting has been stopped for good.
    socket: Option<ListenSocket>,
    accepting: Accepting,
}

/// Points in time at which a phase of a connection is over. Every phase has one length, so
/// each queue is in order by itself; an entry is outdated if the connection has moved on.
#[derive(Debug, Default)]
struct Deadlines {
    flush: VecDeque<(Nanos, ConnectionId)>,
    linger: VecDeque<(Nanos, ConnectionId)>,
}

impl Deadlines {
    fn next(&self) -> Nanos {
        let at = |queue: &VecDeque<(Nanos, ConnectionId)>| {
            queue.front().map_or(Nanos::NEVER, |entry| entry.0)
        };
        at(&self.flush).min(at(&self.linger))
    }

    fn pop_due(&mut self, now: Nanos) -> Option<(Nanos, ConnectionId)> {
        for queue in [&mut self.flush, &mut self.linger] {
            if queue.front().is_some_and(|entry| entry.0 <= now) {
                return queue.pop_front();
            }
        }
        None
    }
}

/// Outputs in flight that are kept for reuse.
const SPARE_SENDINGS_MAX: usize = 256;

/// Received bytes after which a turn takes no further completion: what was received is sent while
/// it still lies in the cache, and one busy publisher does not delay the sends of the others.
///
/// 50 pairs with a window of 200 and 4 KiB of payload are received and sent in pieces of this size,
/// instead of 40 MB at a time.
const RECEIVED_BYTES_MAX: usize = 256 * 1024;

/// A [`Driver`] over an engine.
///
/// Its drop stops the engine before the outputs that the kernel may read are freed.
#[derive(Debug)]
pub(crate) struct SocketDriver<E: Engine> {
    engine: E,
    files: Files,
    links: TcpLinks,
    connections: Connections,
    listeners: Vec<Listener>,
    config: TransportConfig,
    ready: VecDeque<Ready>,
    deadlines: Deadlines,
    /// Connections to look at in `apply`: those that may have to receive again, and those whose
    /// send ended while more output was queued.
    to_receive: Vec<ConnectionId>,
    to_send: Vec<ConnectionId>,
    /// Connections that found no receive buffer, first come first served: as many start again in a
    /// turn as it gave buffers back; more would only fail again.
    starved: VecDeque<ConnectionId>,
    /// Buffers given back since the last [`Driver::apply`].
    given_back: usize,
    commands: Vec<SocketCommand>,
    #[expect(clippy::vec_box, reason = "a box moves between here and a connection as it is")]
    spare: Vec<Box<Sending>>,
    counters: DriverCounters,
    now: Nanos,
}

impl<E: Engine> SocketDriver<E> {
    /// Takes the listeners in and starts to accept with the first turn.
    pub(crate) fn new(
        mut engine: E,
        files: Files,
        links: TcpLinks,
        config: TransportConfig,
        listeners: Vec<(ListenerId, ListenSocket)>,
    ) -> Result<Self, i32> {
        for (index, (_, socket)) in listeners.iter().enumerate() {
            engine.add_listener(index, socket.as_fd())?;
        }
        let resting = Accepting::Resting(Nanos(0));
        let listeners = listeners
            .into_iter()
            .map(|(id, socket)| Listener { id, socket: Some(socket), accepting: resting })
            .collect();
        Ok(Self {
            engine,
            files,
            links,
            connections: Connections::default(),
            listeners,
            config,
            ready: VecDeque::new(),
            deadlines: Deadlines::default(),
            to_receive: Vec::new(),
            to_send: Vec::new(),
            starved: VecDeque::new(),
            given_back: 0,
            commands: Vec::new(),
            spare: Vec::new(),
            counters: DriverCounters::default(),
            now: sys::monotonic_now(),
        })
    }

    /// Ends waits of this core when a descriptor of another driver's becomes readable.
    pub(crate) fn wake_on(&mut self, fd: OwnedFd) -> Result<(), i32> {
        self.engine.wake_on(fd)
    }

    // ---- accepting ----

    fn on_accepted(
        &mut self,
        sockets: &mut Sockets,
        index: usize,
        socket: OwnedFd,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let listener = self.listeners[index].id;
        if self.listeners[index].socket.is_none() {
            self.close_descriptor(socket);
            return 0;
        }
        self.counters.system_calls += 1;
        let Some(peer) = sys::peer_address(socket.as_fd()) else {
            // The peer has gone before it was accepted.
            self.close_descriptor(socket);
            return 0;
        };
        if self.links.is_listener(listener) {
            self.links.accept(&mut self.engine, socket, peer);
            return 0;
        }
        let Some(connection) = sockets.open(listener, peer) else {
            self.close_descriptor(socket);
            self.counters.accepts_refused += 1;
            self.rest(index);
            return 0;
        };
        self.take_in(sockets, connection, socket);
        on_event(sockets, NetEvent::Accepted { connection, listener, peer });
        1
    }

    fn on_accept_ended(&mut self, index: usize, errno: Option<i32>) {
        let again_at = match (self.listeners[index].accepting, errno) {
            (Accepting::Stopping(at), _) => at,
            (_, None) => self.now,
            (_, Some(_)) => {
                self.counters.accepts_refused += 1;
                self.now + self.config.accept_backoff
            }
        };
        self.listeners[index].accepting = Accepting::Resting(again_at);
        if again_at == Nanos::NEVER && self.listeners[index].socket.take().is_some() {
            self.counters.system_calls += 1;
        }
    }

    /// Leaves connections in the kernel's queue for a while, instead of turning them away one
    /// by one as fast as they come.
    fn rest(&mut self, index: usize) {
        let again_at = self.now + self.config.accept_backoff;
        self.stop_listener(index, again_at);
    }

    /// Lets connections that found no buffer receive again, one buffer each. What this turn gave
    /// back is theirs first: they are submitted before all others, and the kernel serves receives
    /// that are armed already only after that.
    fn feed_starved(&mut self) {
        let given_back = core::mem::take(&mut self.given_back);
        let buffers_are_free = !self.engine.has_completions();
        let count = if buffers_are_free { self.starved.len() } else { given_back };
        for _ in 0..count {
            let Some(id) = self.starved.pop_front() else { break };
            self.receive_if_wanted(id, true);
        }
    }

    fn stop_listener(&mut self, index: usize, again_at: Nanos) {
        let was = self.listeners[index].accepting;
        if matches!(was, Accepting::Stopping(Nanos::NEVER)) {
            return;
        }
        self.listeners[index].accepting = Accepting::Stopping(again_at);
        let ended = match was {
            Accepting::Armed => self.engine.stop_accept(index),
            Accepting::Stopping(_) => false,
            Accepting::Resting(_) => true,
        };
        if ended {
            self.on_accept_ended(index, None);
        }
    }

    fn start_rested_listeners(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let rested = matches!(listener.accepting, Accepting::Resting(at) if at <= self.now);
            if rested && let Some(socket) = &listener.socket {
                listener.accepting = Accepting::Armed;
                self.engine.start_accept(index, socket.as_fd());
            }
        }
    }

    fn next_listener_start(&self) -> Nanos {
        let starts = self.listeners.iter().map(|listener| match listener.accepting {
            Accepting::Resting(at) => at,
            Accepting::Armed | Accepting::Stopping(_) => Nanos::NEVER,
        });
        starts.min().unwrap_or(Nanos::NEVER)
    }

    /// A socket becomes a connection of this core.
    fn take_in(&mut self, sockets: &mut Sockets, id: ConnectionId, socket: OwnedFd) {
        let added = self.engine.add(id, socket.as_fd());
        self.connections.insert(id, socket);
        match added {
            Ok(()) => {
                self.to_receive.push(id);
                // The broker may have written in the turn that adopts: its output was taken
                // before the commands, when the connection was not known here.
                self.send_queued(sockets, id);
            }
            Err(errno) => self.finish(sockets, id, Closure::Error(errno)),
        }
    }

    fn close_descriptor(&mut self, socket: OwnedFd) {
        self.counters.system_calls += 1;
        drop(socket);
    }

    // ---- the turn ----

    fn on_completion(
        &mut self,
        sockets: &mut Sockets,
        completion: Completion,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        match completion {
            Completion::Accepted { listener, socket } => {
                return self.on_accepted(sockets, listener, socket, on_event);
            }
            Completion::AcceptEnded { listener, errno } => self.on_accept_ended(listener, errno),
            Completion::Received { connection, buffer, more } => {
                let delivered = self.on_received(sockets, connection, &buffer, more, on_event);
                self.given_back += usize::from(self.engine.give_back(&buffer));
                return delivered;
            }
            Completion::ReceiveEnded { connection, end } => {
                self.on_receive_ended(sockets, connection, end);
            }
            Completion::Connected { connection, result } => {
                self.links.on_connected(&mut self.engine, connection, result);
            }
            Completion::ReceivedInto { connection, result } => {
                self.links.on_received(&mut self.engine, connection, result);
            }
            Completion::Readable { connection } => {
                self.links.on_readable(&mut self.engine, connection);
            }
            Completion::Sent { connection, result, .. } if is_link(connection) => {
                self.links.on_sent(&mut self.engine, connection, result);
            }
            Completion::Writable { connection } if is_link(connection) => {
                self.links.on_writable(&mut self.engine, connection);
            }
            Completion::Sent { connection, result, notice } => {
                self.on_sent(sockets, connection, result, notice);
            }
            Completion::Writable { connection } | Completion::Noticed { connection } => {
                self.on_writable(sockets, connection);
            }
            Completion::File { index, result } => {
                self.files.on_result(&mut self.engine, index, result);
            }
            Completion::Released { sending } => self.recycle(sockets, NOBODY, sending),
        }
        0
    }

    fn deliver_ready(
        &mut self,
        sockets: &mut Sockets,
        events_max: usize,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let mut delivered = 0;
        while delivered < events_max
            && let Some(ready) = self.ready.pop_front()
        {
            delivered += match ready {
                Ready::Drained(id) => self.deliver_drained(sockets, id, on_event),
                Ready::Held(id) => self.deliver_held(sockets, id, on_event),
                Ready::Detached(id) => self.deliver_detached(sockets, id, on_event),
                Ready::Closed(id, cause) => self.deliver_closed(sockets, id, cause, on_event),
            };
        }
        delivered
    }

    fn expire(&mut self, sockets: &mut Sockets) {
        while let Some((at, id)) = self.deadlines.pop_due(self.now) {
            self.on_deadline(sockets, id, at);
        }
        self.links.expire(&mut self.engine, self.now);
        self.start_rested_listeners();
    }

    fn block(&self, wait: Wait) -> Block {
        let Wait::Until(until) = wait else { return Block::No };
        let until = until.min(self.deadlines.next()).min(self.next_listener_start());
        let until = until.min(self.links.next_deadline());
        match until {
            Nanos::NEVER => Block::Forever,
            until if until <= self.now => Block::No,
            until => Block::For(until - self.now),
        }
    }

    fn command(&mut self, sockets: &mut Sockets, command: SocketCommand) {
        match command {
            SocketCommand::Establish(id) => {
                if let Some(connection) = self.connections.get(id) {
                    connection.stage = Stage::Established;
                    self.to_receive.push(id);
                }
            }
            SocketCommand::Close(id, Close::Flush) => self.close_after_flush(sockets, id),
            SocketCommand::Close(id, Close::Abort) => self.abort(sockets, id),
            SocketCommand::Detach(id) => self.detach(sockets, id),
            SocketCommand::Adopt(id, socket) => self.take_in(sockets, id, socket),
            SocketCommand::Pause(id) => self.pause(id),
            SocketCommand::Resume(id) => self.resume(sockets, id),
        }
    }
}

/// An id that no table gives out: outputs that belong to no connection any more.
const NOBODY: ConnectionId = ConnectionId { slot: u32::MAX, generation: u32::MAX };

impl<E: Engine> Driver for SocketDriver<E> {
    fn now(&self) -> Nanos {
        sys::monotonic_now()
    }

    fn apply(&mut self, sockets: &mut Sockets, now: Nanos) {
        self.now = self.now.max(now);
        let mut ids = core::mem::take(&mut self.to_send);
        sockets.take_dirty(&mut ids);
        for id in ids.drain(..) {
            self.send_queued(sockets, id);
        }
        ids.append(&mut self.to_send);
        self.to_send = ids;

        let mut commands = core::mem::take(&mut self.commands);
        sockets.take_commands(&mut commands);
        for command in commands.drain(..) {
            self.command(sockets, command);
        }
        self.commands = commands;

        self.given_back += self.engine.take_back();
        self.feed_starved();
        let mut ids = core::mem::take(&mut self.to_receive);
        for id in ids.drain(..) {
            self.receive_if_wanted(id, false);
        }
        ids.append(&mut self.to_receive);
        self.to_receive = ids;
    }

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        events_max: usize,
        on_event: &mut OnEvent<'_>,
    ) -> io::Result<usize> {
        self.now = self.now.max(sys::monotonic_now());
        sockets.set_now(self.now);
        self.expire(sockets);
        let mut delivered = self.deliver_ready(sockets, events_max, on_event);
        let busy = delivered > 0
            || !self.ready.is_empty()
            || self.engine.has_completions()
            || self.files.have_ended()
            || self.links.have_events();
        let block = if busy { Block::No } else { self.block(wait) };
        // Its file threads only wake a core that has told them that it sleeps.
        let sleeps = block != Block::No && self.files.sleep();
        let block = if sleeps { block } else { Block::No };
        let turned = self.engine.turn(block);
        self.files.wake();
        turned?;
        if block != Block::No {
            self.now = self.now.max(sys::monotonic_now());
            sockets.set_now(self.now);
            self.expire(sockets);
        }
        let received_max = self.counters.received_bytes + RECEIVED_BYTES_MAX as u64;
        while delivered < events_max && self.counters.received_bytes < received_max {
            let Some(completion) = self.engine.next_completion() else { break };
            self.counters.completions += 1;
            delivered += self.on_completion(sockets, completion, on_event);
            delivered += self.deliver_ready(sockets, events_max - delivered, on_event);
        }
        delivered += self.deliver_ready(sockets, events_max - delivered, on_event);
        Ok(delivered)
    }

    fn wake(&mut self, target: CoreId) {
        self.engine.wake(target);
    }

    fn stop_accepting(&mut self) {
        for index in 0..self.listeners.len() {
            self.stop_listener(index, Nanos::NEVER);
        }
    }

    fn counters(&self) -> DriverCounters {
        let mut counters = self.counters;
        self.engine.count(&mut counters);
        counters
    }

    fn usage(&self) -> Option<ThreadUsage> {
        sys::thread_usage()
    }
}

impl<E: Engine> FileDriver for SocketDriver<E> {
    fn submit(&mut self, disk: &mut Disk) {
        self.files.submit(disk, &mut self.engine);
    }

    fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        self.files.complete(disk, events_max, on_event)
    }

    fn in_flight(&self) -> usize {
        self.files.in_flight()
    }
}

impl<E: Engine> LinkDriver for SocketDriver<E> {
    fn carry_out(&mut self, links: &mut Links) {
        self.links.carry_out(&mut self.engine, links);
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        self.links.deliver(&mut self.engine, links, events_max, on_event)
    }

    fn link_counters(&self) -> LinkCounters {
        self.links.counters()
    }
}

impl<E: Engine> Drop for SocketDriver<E> {
    fn drop(&mut self) {
        let stopped = self.engine.stop();
        if stopped == Stopped::NotKnown {
            self.files.leak();
            self.links.leak();
        }
        for connection in self.connections.iter_mut() {
            match (connection.sending.take(), stopped) {
                (None, _) => {}
                (Some(sending), Stopped::NotKnown) => core::mem::forget(sending),
                (Some(sending), _) => match sending.in_zero_copy {
                    Some(index) => self.engine.park(index, sending),
                    None => drop(sending),
                },
            }
            if let Some(socket) = connection.socket.take()
                && stopped == Stopped::SaveNotices
            {
                // A notice comes when the peer has the bytes, or when the kernel drops them.
                sys::reset_on_close(socket.as_fd());
            }
        }
        self.engine.stop_notices();
    }
}

/// The time that a phase of this length is over.
fn after(now: Nanos, length: Duration) -> Nanos {
    now + length
}
