//! Cores of different nodes that talk over links in memory, turn by turn.
#![cfg(not(loom))]

use ringlane_dataplane::disk::{Disk, DiskEvent, FileDriver};
use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::link::memory::{HostId, Network};
use ringlane_dataplane::link::{LinkCounters, LinkDriver, LinkEvent, LinkId, Links};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::net::{Driver, DriverCounters, NetEvent, Sockets, Wait};
use ringlane_dataplane::replication::hello::{DirectoryTag, Hello, RdmaEnd, Transports};
use ringlane_dataplane::runtime::{
    After, CoreLoop, CoreStats, Idle, Mesh, Service, Turn, TurnLimits,
};
use ringlane_dataplane::time::Nanos;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

type SharedNetwork = Rc<RefCell<Network>>;

/// A driver with links and nothing else. It says when it was asked to wait, and does not.
struct LinkedDriver {
    network: SharedNetwork,
    host: HostId,
    waited: Rc<RefCell<u32>>,
}

impl LinkedDriver {
    /// What has come in for this core.
    fn next_way(&self) -> Option<ringlane_dataplane::link::memory::WayId> {
        let network = self.network.borrow();
        network.ways().find(|way| way.to == self.host).map(|way| way.id)
    }
}

impl Driver for LinkedDriver {
    fn now(&self) -> Nanos {
        Nanos(1)
    }

    fn apply(&mut self, _sockets: &mut Sockets, _now: Nanos) {}

    fn poll(
        &mut self,
        sockets: &mut Sockets,
        wait: Wait,
        _events_max: usize,
        _on_event: &mut dyn FnMut(&mut Sockets, NetEvent<'_>),
    ) -> io::Result<usize> {
        if let Wait::Until(_) = wait {
            *self.waited.borrow_mut() += 1;
            sockets.set_now(self.now());
        }
        Ok(0)
    }

    fn wake(&mut self, _target: CoreId) {}

    fn stop_accepting(&mut self) {}

    fn counters(&self) -> DriverCounters {
        DriverCounters::default()
    }
}

impl FileDriver for LinkedDriver {
    fn submit(&mut self, _disk: &mut Disk) {}

    fn complete(
        &mut self,
        _disk: &mut Disk,
        _events_max: usize,
        _on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        0
    }

    fn in_flight(&self) -> usize {
        0
    }
}

impl LinkDriver for LinkedDriver {
    fn carry_out(&mut self, links: &mut Links) {
        self.network.borrow_mut().carry_out(self.host, links);
    }

    fn deliver(
        &mut self,
        links: &mut Links,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Links, LinkEvent<'_>),
    ) -> usize {
        let mut count = self.network.borrow_mut().deliver(self.host, links, on_event);
        while count < events_max
            && let Some(way) = self.next_way()
        {
            self.network.borrow_mut().arrive(way, links, on_event);
            count += 1;
        }
        count
    }

    fn link_counters(&self) -> LinkCounters {
        LinkCounters::default()
    }
}

fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + node))
}

fn hello(from: u16, to: u16) -> Hello {
    Hello {
        cluster: DirectoryId([3; 16]),
        from: NodeId(from),
        to: NodeId(to),
        from_core: CoreId(0),
        to_core: CoreId(0),
        cores: 1,
        partitions: 1,
        message_bytes_max: 1 << 20,
        transports: Transports::TCP,
        directory: DirectoryTag::default(),
        rdma: RdmaEnd::default(),
    }
}

/// A message that carries a number.
fn message(number: u32) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&32u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Node 1 dials and sends what it is told to; node 2 answers each number with the next one.
struct Counting {
    node: u16,
    has_dialed: bool,
    link: Option<LinkId>,
    to_send: Vec<u32>,
    /// Numbers by the turn that they came in.
    got: Vec<Vec<u32>>,
}

impl Service for Counting {
    type Mail = u32;
    type Timer = u32;

    fn on_net(&mut self, _turn: &mut Turn<'_, u32, u32>, _event: NetEvent<'_>) {}

    fn on_link(&mut self, turn: &mut Turn<'_, u32, u32>, event: LinkEvent<'_>) {
        match event {
            LinkEvent::Greeted { link, .. } => turn.links.answer(link, hello(2, 1)),
            LinkEvent::Up { link, .. } => self.link = Some(link),
            LinkEvent::Received { link, message: bytes } => {
                let number = bytes[4..8].try_into().map(u32::from_le_bytes).expect("a number");
                self.got.last_mut().expect("a turn has begun").push(number);
                if self.node == 2 {
                    turn.links.send(link, &message(number + 1), None).expect("the link has room");
                }
            }
            LinkEvent::Down { .. } => self.link = None,
            LinkEvent::Elsewhere { .. }
            | LinkEvent::TurnedAway { .. }
            | LinkEvent::Room { .. }
            | LinkEvent::Records { .. } => panic!("{event:?}"),
        }
    }

    fn on_mail(&mut self, _turn: &mut Turn<'_, u32, u32>, _from: CoreId, _mail: u32) {}

    fn on_disk(&mut self, _turn: &mut Turn<'_, u32, u32>, _event: DiskEvent) {}

    fn on_timer(&mut self, _turn: &mut Turn<'_, u32, u32>, _key: u32) {}

    fn end_turn(&mut self, turn: &mut Turn<'_, u32, u32>) -> After {
        if self.node == 1 && !core::mem::replace(&mut self.has_dialed, true) {
            turn.links.connect(address(2), hello(1, 2)).expect("the table has room");
        }
        if let Some(link) = self.link {
            for number in self.to_send.drain(..) {
                turn.links.send(link, &message(number), None).expect("the link has room");
            }
        }
        self.got.push(Vec::new());
        After::Idle
    }
}

struct Node {
    core: CoreLoop<LinkedDriver, Counting>,
    stats: Arc<CoreStats>,
    waited: Rc<RefCell<u32>>,
}

fn nodes(link_events_max: usize) -> [Node; 2] {
    let network: SharedNetwork = Rc::new(Network::new(1 << 20).into());
    [1, 2].map(|node| {
        let host = network.borrow_mut().add(address(node), CoreId(0));
        let waited = Rc::default();
        let driver =
            LinkedDriver { network: Rc::clone(&network), host, waited: Rc::clone(&waited) };
        let got = vec![Vec::new()];
        let service = Counting { node, has_dialed: false, link: None, to_send: Vec::new(), got };
        let endpoint = Mesh::build(1, 8).remove(0);
        let stats = Arc::new(CoreStats::default());
        let limits = TurnLimits { link_events_max, ..TurnLimits::default() };
        let (sockets, shared) = (Sockets::new(1), Arc::clone(&stats));
        let core = CoreLoop::new(driver, service, sockets, endpoint, Idle::Park, limits, shared);
        Node { core: core.with_links(Links::new(1 << 20)), stats, waited }
    })
}

/// Turns of both until they have a link.
fn join(nodes: &mut [Node; 2]) {
    for _ in 0..8 {
        for node in &mut *nodes {
            node.core.turn().expect("the driver works");
        }
    }
    let are_up = nodes.iter_mut().all(|node| node.core.service_mut().link.is_some());
    assert!(are_up, "a link is up within a few turns");
}

fn turn(node: &mut Node) -> Vec<u32> {
    let got = node.core.service_mut().got.len() - 1;
    node.core.turn().expect("the driver works");
    node.core.service_mut().got[got].clone()
}

#[test]
fn a_message_takes_one_turn_of_each_node() {
    let mut nodes = nodes(256);
    join(&mut nodes);
    let [one, two] = &mut nodes;
    one.core.service_mut().to_send = vec![4, 10];
    assert_eq!(turn(one), []);
    assert_eq!(turn(two), [4, 10], "sent at the end of that turn");
    assert_eq!(turn(one), [5, 11], "answered at the end of the turn that it came in");
}

#[test]
fn a_core_that_slept_is_busy_with_what_a_link_brought() {
    let mut nodes = nodes(256);
    join(&mut nodes);
    let [one, two] = &mut nodes;
    let asleep = *two.waited.borrow();
    turn(two);
    assert_eq!(*two.waited.borrow(), asleep + 1, "nothing happens");
    one.core.service_mut().to_send = vec![4];
    turn(one);
    let before = two.stats.link_events.get();
    assert_eq!(turn(two), [4], "in the turn that the wait ended in");
    assert_eq!((*two.waited.borrow(), two.stats.link_events.get()), (asleep + 2, before + 1));
    turn(two);
    assert_eq!(
        *two.waited.borrow(),
        asleep + 2,
        "a turn in which something happened is followed up"
    );
}

#[test]
fn a_turn_takes_a_bounded_number_of_messages() {
    let mut nodes = nodes(3);
    join(&mut nodes);
    let [one, two] = &mut nodes;
    one.core.service_mut().to_send = (0..8).collect();
    turn(one);
    assert_eq!([turn(two), turn(two), turn(two)], [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
}
