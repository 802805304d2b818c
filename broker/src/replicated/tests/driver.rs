//! Sockets, files and links of a core in memory, behind the seams that it runs on.

use super::ways::Ways;
use ringlane_dataplane::clock::Clock;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use ringlane_dataplane::link::memory::{HostId, Network, WayId};
use ringlane_dataplane::link::{LinkCounters, LinkDriver, LinkEvent, Links};
use ringlane_dataplane::net::{
    Close, Closure, Driver, DriverCounters, NetEvent, SocketCommand, Sockets, Wait,
};
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// A client's socket, seen from the client.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) to_broker: Vec<u8>,
    pub(super) from_broker: Vec<u8>,
    pub(super) closed: bool,
    /// The client cannot be reached: what is sent to it is never taken, and the socket does not close for it.
    pub(super) is_out_of_reach: bool,
    /// The client has closed it.
    pub(super) hung_up: bool,
}

thread_local! {
    static BOOTTIME: Cell<Nanos> = const { Cell::new(Nanos(0)) };
}

/// The clock that leases are counted on, for the node of this thread whose turn it is.
pub(super) fn boottime() -> Nanos {
    BOOTTIME.get()
}

/// What all cores of a cluster share: time, the network, and the sockets of clients.
#[derive(Debug)]
pub(super) struct Outer {
    pub(super) now: Cell<Nanos>,
    /// How long the hosts have slept: only `CLOCK_BOOTTIME` went on then.
    slept: Cell<Duration>,
    pub(super) network: RefCell<Network>,
    pub(super) wires: RefCell<Vec<Wire>>,
    /// Sockets on their way between cores: the descriptor stands for the wire.
    moving: RefCell<HashMap<i32, usize>>,
    /// What arrives when between hosts.
    pub(super) ways: RefCell<Ways>,
}

impl Outer {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(Nanos::from_secs(1)),
            slept: Cell::default(),
            // Nothing waits for room: tests of that are those of links.
            network: Network::new(1 << 40).into(),
            wires: RefCell::default(),
            moving: RefCell::default(),
            ways: Ways::new(Random::new(0)).into(),
        })
    }

    /// Time goes on.
    pub(super) fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }

    /// It is the turn of a node with this clock.
    pub(super) fn set_clock(&self, clock: &Clock) {
        BOOTTIME.set(clock.at(self.now.get() + self.slept.get()));
    }

    /// The hosts sleep for so long.
    pub(super) fn sleep(&self, time: Duration) {
        self.slept.set(self.slept.get() + time);
    }

    /// The wire that a detached socket stands for.
    pub(super) fn wire_of(&self, socket: &OwnedFd) -> Option<usize> {
        self.moving.borrow_mut().remove(&socket.as_raw_fd())
    }

    /// Takes the way on which something arrives at a host now.
    fn next_way(&self, to: HostId) -> Option<WayId> {
        let (network, mut ways) = (self.network.borrow(), self.ways.borrow_mut());
        let now = self.now.get();
        let mut coming = network.ways().filter(|way| way.to == to);
        let next = coming.find(|way| ways.arrives(way, now))?;
        ways.take(next.id);
        Some(next.id)
    }
}

/// The doors of one core: what a test puts in front of it.
#[derive(Debug, Default)]
pub(super) struct Doors {
    /// Wires of clients that connect.
    pub(super) dials: Vec<usize>,
}

/// What happened to sockets, to be told with the next turn.
#[derive(Debug)]
enum Told {
    Drained(ConnectionId),
    Detached(ConnectionId, OwnedFd),
    Closed(ConnectionId),
}

pub(super) struct TestDriver {
    outer: Rc<Outer>,
    clock: Clock,
    host: HostId,
    files: MemoryDisk,
    doors: Rc<RefCell<Doors>>,
    wires: Vec<(ConnectionId, usize)>,
    told: VecDeque<Told>,
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

impl TestDriver {
    pub(super) fn new(
        (outer, clock): (Rc<Outer>, Clock),
        host: HostId,
        files: MemoryDisk,
        doors: Rc<RefCell<Doors>>,
    ) -> Self {
        let (wires, told) = (Vec::new(), VecDeque::new());
        Self { outer, clock, host, files, doors, wires, told }
    }

    fn wire(&self, id: ConnectionId) -> Option<usize> {
        self.wires.iter().find(|(held, _)| *held == id).map(|(_, wire)| *wire)
    }

    fn forget(&mut self, id: ConnectionId) -> Option<usize> {
        let at = self.wires.iter().position(|(held, _)| *held == id)?;
        Some(self.wires.swap_remove(at).1)
    }

    fn send(&mut self, sockets: &mut Sockets) {
        let mut dirty = Vec::new();
        sockets.take_dirty(&mut dirty);
        for id in dirty {
            let Some(output) = sockets.begin_send(id) else { continue };
            let mut bytes = Vec::new();
            let mut from = 0;
            for shared in output.shared() {
                bytes.extend_from_slice(&output.bytes[from..shared.at]);
                bytes.extend_from_slice(shared.bytes.as_slice());
                from = shared.at;
            }
            bytes.extend_from_slice(&output.bytes[from..]);
            sockets.end_send(id, output);
            if let Some(wire) = self.wire(id) {
                self.outer.wires.borrow_mut()[wire].from_broker.extend(bytes);
            }
            self.told.push_back(Told::Drained(id));
        }
    }

    fn is_out_of_reach(&self, id: ConnectionId) -> bool {
        self.wire(id).is_some_and(|wire| self.outer.wires.borrow()[wire].is_out_of_reach)
    }

    fn carry_out(&mut self, command: SocketCommand) {
        match command {
            SocketCommand::Close(id, Close::Flush) if self.is_out_of_reach(id) => {}
            SocketCommand::Close(id, Close::Flush | Close::Abort) => {
                if let Some(wire) = self.forget(id) {
                    self.outer.wires.borrow_mut()[wire].closed = true;
                }
                self.told.push_back(Told::Closed(id));
            }
            SocketCommand::Detach(id) => {
                let Some(wire) = self.forget(id) else { return };
                let socket: OwnedFd = std::fs::File::open("/dev/null").expect("a file").into();
                self.outer.moving.borrow_mut().insert(socket.as_raw_fd(), wire);
                self.told.push_back(Told::Detached(id, socket));
            }
            SocketCommand::Adopt(id, socket) => {
                let wire = self.outer.wire_of(&socket).expect("it was detached");
                self.wires.push((id, wire));
            }
            SocketCommand::Establish(_) | SocketCommand::Pause(_) | SocketCommand::Resume(_) => {}
        }
    }
}

/// With the process its sockets are closed.
impl Drop for TestDriver {
    fn drop(&mut self) {
        for (_, wire) in &self.wires {
            self.outer.wires.borrow_mut()[*wire].closed = true;
        }
    }
}

type OnNet<'a> = &'a mut dyn FnMut(&mut Sockets, NetEvent<'_>);

impl TestDriver {
    fn tell(&mut self, sockets: &mut Sockets, on_event: OnNet<'_>) {
        while let Some(told) = self.told.pop_front() {
            let (listener, peer) = (ListenerId(0), peer());
            match told {
                Told::Drained(connection) => on_event(sockets, NetEvent::Drained { connection }),
                Told::Detached(connection, socket) => {
                    on_event(sockets, NetEvent::Detached { connection, socket, listener, peer });
                    sockets.release(connection);
                }
                Told::Closed(connection) => {
                    let cause = Closure::Local;
                    on_event(sockets, NetEvent::Closed { connection, cause });
                    sockets.release(connection);
                }
            }
        }
    }

    fn accept(&mut self, sockets: &mut Sockets, on_event: OnNet<'_>) {
        let dials = core::mem::take(&mut self.doors.borrow_mut().dials);
        for wire in dials {
            let (listener, peer) = (ListenerId(0), peer());
            let connection = sockets.open(listener, peer).expect("the table has room");
            self.wires.push((connection, wire));
            on_event(sockets, NetEvent::Accepted { connection, listener, peer });
        }
    }

    fn receive(&mut self, sockets: &mut Sockets, on_event: OnNet<'_>) {
        for (connection, wire) in self.wires.clone() {
            if self.outer.wires.borrow()[wire].hung_up {
                self.forget(connection);
                let cause = Closure::Peer;
                on_event(sockets, NetEvent::Closed { connection, cause });
                sockets.release(connection);
                continue;
            }
            let bytes = core::mem::take(&mut self.outer.wires.borrow_mut()[wire].to_broker);
            if !bytes.is_empty() {
                on_event(sockets, NetEvent::Received { connection, bytes: &bytes });
            }
        }
    }
}

impl Driver for TestDriver {
    fn now(&self) -> Nanos {
        self.clock.at(self.outer.now.get())
    }

    fn apply(&mut self, sockets: &mut Sockets, _now: Nanos) {
        self.send(sockets);
        let mut commands = Vec::new();
        sockets.take_commands(&mut commands);
        commands.into_iter().for_each(|command| self.carry_out(command));
    }

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        _wait: Wait,
        _events_max: usize,
        on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize> {
        self.tell(sockets, on_event);
        self.accept(sockets, on_event);
        self.receive(sockets, on_event);
        Ok(0)
    }

    fn wake(&mut self, _target: CoreId) {}

    fn stop_accepting(&mut self) {}

    fn counters(&self) -> DriverCounters {
        DriverCounters::default()
    }
}

impl FileDriver for TestDriver {
    fn submit(&mut self, disk: &mut Disk) {
        self.files.submit(disk);
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

impl LinkDriver for TestDriver {
    fn carry_out(&mut self, links: &mut Links) {
        self.outer.network.borrow_mut().carry_out(self.host, links);
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        let mut count = self.outer.network.borrow_mut().deliver(self.host, links, on_event);
        while count < events_max
            && let Some(way) = self.outer.next_way(self.host)
        {
            self.outer.network.borrow_mut().arrive(way, links, on_event);
            count += 1;
        }
        count
    }

    fn link_counters(&self) -> LinkCounters {
        LinkCounters::default()
    }
}
