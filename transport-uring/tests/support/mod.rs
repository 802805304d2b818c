//! A driver under test, its table of connections, and what it reported.

#![allow(unreachable_pub, reason = "a module of each test file")]
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use ringlane_dataplane::message::{Message, MessageHead};
use ringlane_dataplane::net::{Closure, Driver, DriverCounters, NetEvent, Sockets, Wait};
use ringlane_dataplane::time::Nanos;
use ringlane_transport_uring::{
    AnyDriver, TransportChoice, TransportConfig, TransportKind, Wakers, bind, choose, open, probe,
};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Long enough for anything that happens at all on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes two tests of each function: one per driver.
#[macro_export]
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        mod on_io_uring {
            $(#[test] fn $name() { super::support::run_on_io_uring(super::$name); })*
        }
        mod on_epoll {
            $(#[test] fn $name() {
                super::$name(ringlane_transport_uring::TransportKind::Epoll);
            })*
        }
    };
}

/// Runs the test, or says that it was not run: only where the kernel has no io_uring.
#[allow(clippy::print_stderr, reason = "a test that cannot run says so")]
pub fn run_on_io_uring(test: fn(TransportKind)) {
    match choose(TransportChoice::Uring, &probe::probe()) {
        Ok((kind, _)) => test(kind),
        Err(error) => eprintln!("NOT RUN: {error}"),
    }
}

/// An event that owns what it tells.
#[derive(Debug)]
pub enum Event {
    Accepted(ConnectionId, SocketAddr),
    Received(ConnectionId, Vec<u8>),
    Drained(ConnectionId),
    Detached(ConnectionId, OwnedFd, ListenerId, SocketAddr),
    Closed(ConnectionId, Closure),
}

impl Event {
    fn own(event: NetEvent<'_>) -> Self {
        match event {
            NetEvent::Accepted { connection, peer, .. } => Self::Accepted(connection, peer),
            NetEvent::Received { connection, bytes } => Self::Received(connection, bytes.to_vec()),
            NetEvent::Drained { connection } => Self::Drained(connection),
            NetEvent::Detached { connection, socket, listener, peer } => {
                Self::Detached(connection, socket, listener, peer)
            }
            NetEvent::Closed { connection, cause } => Self::Closed(connection, cause),
        }
    }

    pub fn connection(&self) -> ConnectionId {
        match self {
            Self::Accepted(id, _)
            | Self::Received(id, _)
            | Self::Drained(id)
            | Self::Detached(id, ..)
            | Self::Closed(id, _) => *id,
        }
    }
}

/// One core without a broker.
pub struct Rig {
    pub driver: AnyDriver,
    pub sockets: Sockets,
    pub address: SocketAddr,
    pub wakers: Wakers,
    pub events: Vec<Event>,
    pub events_max: usize,
    /// Whether accepted connections are established in the turn in which they are accepted.
    pub establish: bool,
}

/// Short times, so that tests of the bounds are short.
pub fn quick() -> TransportConfig {
    TransportConfig {
        linger: Duration::from_millis(200),
        flush_timeout: Duration::from_millis(400),
        accept_backoff: Duration::from_millis(20),
        ..TransportConfig::default()
    }
}

impl Rig {
    pub fn new(kind: TransportKind) -> Self {
        Self::with(kind, &quick(), 1000)
    }

    pub fn with(kind: TransportKind, config: &TransportConfig, connections_max: usize) -> Self {
        Self::core(kind, config, connections_max, CoreId(0), Wakers::new(2).unwrap())
    }

    pub fn core(
        kind: TransportKind,
        config: &TransportConfig,
        connections_max: usize,
        core: CoreId,
        wakers: Wakers,
    ) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind(loopback, 1, 1024).unwrap().remove(0);
        let address = listener.local_addr();
        let listeners = vec![(ListenerId(3), listener)];
        let driver = open(kind, core, config, listeners, wakers.clone()).unwrap();
        Self {
            driver,
            sockets: Sockets::new(connections_max),
            address,
            wakers,
            events: Vec::new(),
            events_max: 256,
            establish: true,
        }
    }

    /// One turn that waits at most this long.
    pub fn turn_waiting(&mut self, wait: Duration) {
        let until = self.driver.now() + wait;
        let (events, establish) = (&mut self.events, self.establish);
        let count = self
            .driver
            .poll(&mut self.sockets, Wait::Until(until), self.events_max, &mut |sockets, event| {
                let event = Event::own(event);
                if let Event::Accepted(id, _) = event
                    && establish
                {
                    sockets.establish(id);
                }
                events.push(event);
            })
            .unwrap();
        assert!(count <= self.events_max);
        self.apply();
    }

    pub fn turn(&mut self) {
        self.turn_waiting(Duration::from_millis(20));
    }

    pub fn apply(&mut self) {
        let now = self.driver.now();
        self.driver.apply(&mut self.sockets, now);
    }

    /// Turns until the condition holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}: {:?}", self.events);
            self.turn();
        }
    }

    /// Turns for a while, for what must not happen.
    pub fn turn_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.turn_waiting(Duration::from_millis(5));
        }
    }

    pub fn connect(&mut self) -> (TcpStream, ConnectionId) {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        client.set_nodelay(true).unwrap();
        let own = client.local_addr().unwrap();
        let mut id = None;
        self.until("the accept", |rig| {
            id = rig.events.iter().find_map(|event| match event {
                Event::Accepted(id, peer) if *peer == own => Some(*id),
                _ => None,
            });
            id.is_some()
        });
        (client, id.unwrap())
    }

    pub fn send(&mut self, id: ConnectionId, bytes: &[u8]) {
        self.sockets.output(id).expect("an open connection").bytes.extend_from_slice(bytes);
    }

    pub fn received(&self, id: ConnectionId) -> Vec<u8> {
        let of_id = |event: &Event| match event {
            Event::Received(from, bytes) if *from == id => bytes.clone(),
            _ => Vec::new(),
        };
        self.events.iter().flat_map(of_id).collect()
    }

    pub fn closed(&self, id: ConnectionId) -> Option<Closure> {
        self.events.iter().find_map(|event| match event {
            Event::Closed(closed, cause) if *closed == id => Some(*cause),
            _ => None,
        })
    }

    pub fn count(&self, id: ConnectionId, matches: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| event.connection() == id && matches(event)).count()
    }

    pub fn until_closed(&mut self, id: ConnectionId) -> Closure {
        self.until("the close", |rig| rig.closed(id).is_some());
        let closes = self.count(id, |event| matches!(event, Event::Closed(..)));
        assert_eq!(closes, 1, "exactly one Closed");
        assert!(!self.sockets.is_open(id), "released after the event");
        self.closed(id).unwrap()
    }

    pub fn until_received(&mut self, id: ConnectionId, bytes: usize) -> Vec<u8> {
        self.until("bytes", |rig| rig.received(id).len() >= bytes);
        self.received(id)
    }

    pub fn counters(&self) -> DriverCounters {
        self.driver.counters()
    }
}

/// A message with this payload.
pub fn message(payload: &[u8]) -> Message {
    let head = MessageHead {
        publisher: 0,
        accepted_at: Nanos(0),
        expires_at: Nanos::NEVER,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: 0,
        retain: false,
    };
    Message::new(head, "topic", &[], payload, &mut Vec::new())
}

/// Bytes in which every position can be told from its neighbours.
pub fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at * 31 + at / 251 + seed * 7) % 253) as u8).collect()
}
