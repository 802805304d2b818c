//! Cores of nodes with nothing but links, and what they were told.

#![allow(unreachable_pub, reason = "a module of each test file")]
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

use super::support::PATIENCE;
use ringlane_dataplane::batch::{Batch, BatchPool, Level, Parts};
use ringlane_dataplane::disk::{Disk, DiskCommand, DiskDone, DiskEvent};
use ringlane_dataplane::ids::{CoreId, ListenerId, NodeId, PartitionId};
use ringlane_dataplane::link::{Arrival, LinkDown, LinkDriver, LinkEvent, LinkId, Links};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::segments::{LogEnd, LogSetup};
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::message::{MessageHead, MessageMeter};
use ringlane_dataplane::net::{Driver, Sockets, Wait};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::replication::hello::{DirectoryTag, Expected, Hello, RdmaEnd, Transports};
use ringlane_dataplane::routing::CoreSet;
use ringlane_dataplane::time::Nanos;
use ringlane_transport_uring::{
    AnyDriver, LinkConfig, ListenSocket, TransportConfig, TransportKind, Wakers, bind, open,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use triomphe::Arc;

/// Bytes that may wait on a link.
pub const ROOM_BYTES: usize = 1 << 20;
/// The longest message that a node of these tests takes.
pub const MESSAGE_BYTES_MAX: u32 = 2 << 20;
const CLUSTER: DirectoryId = DirectoryId([7; 16]);

/// An event that owns what it tells.
#[derive(Debug)]
pub enum Seen {
    Greeted(LinkId, NodeId),
    Elsewhere(CoreId, Option<Arrival>),
    TurnedAway(LinkDown),
    Up(LinkId, NodeId),
    Received(LinkId, Vec<u8>),
    Room(LinkId),
    Down(LinkId, LinkDown),
}

impl Seen {
    fn own(event: LinkEvent<'_>) -> Self {
        match event {
            LinkEvent::Greeted { link, hello, .. } => Self::Greeted(link, hello.from),
            LinkEvent::Elsewhere { core, arrival } => Self::Elsewhere(core, Some(arrival)),
            LinkEvent::TurnedAway { cause, .. } => Self::TurnedAway(cause),
            LinkEvent::Up { link, hello } => Self::Up(link, hello.from),
            LinkEvent::Received { link, message } => Self::Received(link, message.to_vec()),
            LinkEvent::Records { .. } => panic!("this driver leaves no body elsewhere"),
            LinkEvent::Room { link } => Self::Room(link),
            LinkEvent::Down { link, cause } => Self::Down(link, cause),
        }
    }
}

/// What a core of node `from` says to core 0 of node `to`.
pub fn hello(from: u16, to: u16) -> Hello {
    Hello {
        cluster: CLUSTER,
        from: NodeId(from),
        to: NodeId(to),
        from_core: CoreId(0),
        to_core: CoreId(0),
        cores: 4,
        partitions: 8,
        message_bytes_max: MESSAGE_BYTES_MAX,
        transports: Transports::TCP,
        directory: DirectoryTag::default(),
        rdma: RdmaEnd::default(),
    }
}

/// The links of a core of a node, with times that are short enough for tests of them.
pub fn config(node: u16) -> LinkConfig {
    let expected = Expected { cluster: CLUSTER, node: NodeId(node), cores: 4, partitions: 8 };
    LinkConfig {
        silence: Duration::from_secs(30),
        hello_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        dial_timeout: Duration::from_millis(200),
        backoff_min: Duration::from_micros(500),
        backoff_max: Duration::from_millis(5),
        ..LinkConfig::new(ListenerId(9), expected)
    }
}

/// One core of a node.
pub struct Node {
    pub number: u16,
    pub driver: AnyDriver,
    pub links: Links,
    pub sockets: Sockets,
    pub address: SocketAddr,
    pub seen: Vec<Seen>,
    pub events_max: usize,
    /// Greetings are answered in the turn in which they come.
    pub answers: bool,
}

impl Node {
    pub fn new(kind: TransportKind, number: u16) -> Self {
        Self::with(kind, number, config(number))
    }

    pub fn with(kind: TransportKind, number: u16, config: LinkConfig) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind(loopback, 1, 1024).unwrap().remove(0);
        Self::core(kind, (number, CoreId(0)), config, listener, Wakers::new(4).unwrap())
    }

    pub fn core(
        kind: TransportKind,
        (number, core): (u16, CoreId),
        config: LinkConfig,
        listener: ListenSocket,
        wakers: Wakers,
    ) -> Self {
        let address = listener.local_addr();
        let listeners = vec![(config.listener, listener)];
        let config = TransportConfig { links: Some(config), ..TransportConfig::default() };
        Self {
            number,
            driver: open(kind, core, &config, listeners, wakers).unwrap(),
            links: Links::new(ROOM_BYTES),
            sockets: Sockets::new(0),
            address,
            seen: Vec::new(),
            events_max: 64,
            answers: true,
        }
    }

    /// One turn that waits at most this long.
    pub fn turn(&mut self, wait: Duration) {
        let until = self.driver.now() + wait;
        let wait = Wait::Until(until);
        self.driver.poll(&mut self.sockets, wait, 64, &mut |_, event| panic!("{event:?}")).unwrap();
        let (seen, answers, number) = (&mut self.seen, self.answers, self.number);
        let count = self.driver.deliver(&mut self.links, self.events_max, &mut |links, event| {
            if let LinkEvent::Greeted { link, hello: theirs, .. } = event
                && answers
            {
                let own = Hello {
                    from_core: theirs.to_core,
                    to_core: theirs.from_core,
                    ..hello(number, theirs.from.0)
                };
                links.answer(link, own);
            }
            seen.push(Seen::own(event));
        });
        assert!(count <= self.events_max);
        self.driver.carry_out(&mut self.links);
        let now = self.driver.now();
        self.driver.apply(&mut self.sockets, now);
    }

    pub fn dial(&mut self, to: &Self) -> LinkId {
        self.links.connect(to.address, hello(self.number, to.number)).unwrap()
    }

    /// The bytes of all messages of a link, one behind the other.
    pub fn received(&self, link: LinkId) -> Vec<u8> {
        let of_link = self.seen.iter().filter_map(|seen| match seen {
            Seen::Received(from, message) if *from == link => Some(message),
            _ => None,
        });
        of_link.flatten().copied().collect()
    }

    pub fn is_up(&self, link: LinkId) -> bool {
        self.seen.iter().any(|seen| matches!(seen, Seen::Up(up, _) if *up == link))
    }

    pub fn down(&self, link: LinkId) -> Option<LinkDown> {
        let mut downs = self.seen.iter().filter_map(|seen| match seen {
            Seen::Down(down, cause) if *down == link => Some(*cause),
            _ => None,
        });
        let down = downs.next();
        assert_eq!(downs.next(), None, "one per link");
        down
    }

    pub fn turned_away(&self) -> Vec<LinkDown> {
        let causes = self.seen.iter().filter_map(|seen| match seen {
            Seen::TurnedAway(cause) => Some(*cause),
            _ => None,
        });
        causes.collect()
    }

    /// The links that are or were up.
    pub fn ups(&self) -> Vec<LinkId> {
        let ups = self.seen.iter().filter_map(|seen| match seen {
            Seen::Up(link, _) => Some(*link),
            _ => None,
        });
        ups.collect()
    }

    /// Turns until the condition holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}: {:?}", self.seen.len());
            self.turn(Duration::from_millis(5));
        }
    }
}

/// Turns both until the condition holds.
pub fn until(
    what: &str,
    one: &mut Node,
    other: &mut Node,
    mut holds: impl FnMut(&mut Node, &mut Node) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(one, other) {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        one.turn(Duration::ZERO);
        other.turn(Duration::ZERO);
        std::thread::yield_now();
    }
}

/// Two nodes, and the link between them as each calls it; the first one has dialed.
pub fn pair(kind: TransportKind) -> (Node, LinkId, Node, LinkId) {
    pair_of(Node::new(kind, 1), Node::new(kind, 2))
}

pub fn pair_of(mut one: Node, mut two: Node) -> (Node, LinkId, Node, LinkId) {
    let dialed = one.dial(&two);
    let before = two.ups().len();
    until("the link", &mut one, &mut two, |one, two| one.is_up(dialed) && two.ups().len() > before);
    let called = *two.ups().last().unwrap();
    (one, dialed, two, called)
}

/// A message of so many bytes, all of which tell it from others.
pub fn message(bytes: usize, seed: usize) -> Vec<u8> {
    let mut message = u32::try_from(bytes).unwrap().to_le_bytes().to_vec();
    message.extend((4..bytes).map(|at| ((at * 31 + at / 251 + seed * 7) % 253) as u8));
    message
}

/// The head of a message with this body.
pub fn head(body: usize) -> Vec<u8> {
    let mut head = message(24, body);
    head[..4].copy_from_slice(&u32::try_from(24 + body).unwrap().to_le_bytes());
    head
}

/// Batches as a leader hands them to its log, with this many records of so many bytes in all.
pub fn batches(records: u64, payload: usize) -> Vec<Arc<Batch>> {
    let setup = LogSetup {
        partition: PartitionId(0),
        directory: "/".into(),
        directory_id: CLUSTER,
        epoch: 1,
        secret: [2; 16],
        segment_bytes: 64 << 20,
        record_bytes_max: 1 << 20,
        tag: 0,
    };
    let mut partition: Partition<u64> =
        Partition::with_log(PartitionId(0), Writer::new(setup, LogEnd::default()));
    let (mut pool, mut disk) = (BatchPool::new(MessageMeter::leaked()), Disk::new());
    for number in 0..records {
        let parts = parts(number, payload);
        partition.append(&mut pool, &parts, Level::Memory, Some(number));
    }
    while let Some(mut batch) = partition.take_committed() {
        while let Some(at) = batch.next_committed() {
            partition.commit(&batch, at, CoreSet::default());
        }
        partition.finish(&mut pool, batch);
    }
    let mut seen = Vec::new();
    for now in (0..100).map(|turn| Nanos::from_millis(20 * turn)) {
        partition.end_turn(now, 0, &mut disk);
        while let Some(command) = disk.take() {
            let token = command.token();
            if let DiskCommand::Write { batches, .. } = command {
                seen.extend(batches.iter().filter_map(|write| write.batch.clone()));
                disk.give_back(batches);
            }
            partition.on_disk(now, &DiskEvent { token, result: Ok(DiskDone::Done) }, &mut disk);
        }
    }
    assert!(!seen.is_empty(), "the log writes what it has accepted");
    seen
}

fn parts(number: u64, payload: usize) -> Parts<'static> {
    static PAYLOAD: [u8; 4096] = [7; 4096];
    let head = MessageHead {
        publisher: 7,
        accepted_at: Nanos(1),
        expires_at: Nanos::NEVER,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: 1,
        retain: false,
    };
    let payload = &PAYLOAD[..payload];
    let topic = "plant/7/line/31/temperature";
    let client_id = b"client-7";
    Parts { head, client_id, packet_id: 0, unix_ms: number, topic, properties: &[], payload }
}
