//! Links in memory: what arrives, in which order, and what is lost with a link.

use super::*;
use crate::ids::NodeId;
use crate::link::Unsent;
use crate::log::format::DirectoryId;
use crate::replication::hello::{DirectoryTag, RdmaEnd, Transports};

/// An event without what it borrows.
#[derive(Clone, PartialEq, Debug)]
enum Seen {
    Greeted(LinkId),
    Up(LinkId, NodeId),
    Received(LinkId, u8),
    Room(LinkId),
    Down(LinkId, LinkDown),
}

fn see(event: &LinkEvent<'_>) -> Seen {
    match event {
        LinkEvent::Greeted { link, .. } => Seen::Greeted(*link),
        LinkEvent::Up { link, hello } => Seen::Up(*link, hello.from),
        LinkEvent::Received { link, message } => Seen::Received(*link, message[4]),
        LinkEvent::Room { link } => Seen::Room(*link),
        LinkEvent::Down { link, cause } => Seen::Down(*link, *cause),
        LinkEvent::Elsewhere { .. } | LinkEvent::TurnedAway { .. } | LinkEvent::Records { .. } => {
            panic!("not here")
        }
    }
}

fn message(tag: u8, bytes: u32) -> Vec<u8> {
    let mut message = bytes.to_le_bytes().to_vec();
    message.resize(bytes as usize, tag);
    message
}

fn hello(from: u16, to: u16) -> Hello {
    Hello {
        cluster: DirectoryId([7; 16]),
        from: NodeId(from),
        to: NodeId(to),
        from_core: CoreId(0),
        to_core: CoreId(0),
        cores: 1,
        partitions: 4,
        message_bytes_max: 1 << 20,
        transports: Transports::TCP,
        directory: DirectoryTag::default(),
        rdma: RdmaEnd::default(),
    }
}

fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8], 7000))
}

/// Two hosts, of the nodes 1 and 2.
struct Rig {
    network: Network,
    links: [Links; 2],
    seen: [Vec<Seen>; 2],
}

impl Rig {
    fn new(room: usize, window: usize) -> Self {
        let mut network = Network::new(window);
        assert_eq!(network.add(address(1), CoreId(0)), HostId(0));
        assert_eq!(network.add(address(2), CoreId(0)), HostId(1));
        let links = [Links::new(room), Links::new(room)];
        Self { network, links, seen: [Vec::new(), Vec::new()] }
    }

    fn turn(&mut self, host: usize) {
        self.network.carry_out(HostId(host), &mut self.links[host]);
        let seen = &mut self.seen[host];
        self.network
            .deliver(HostId(host), &mut self.links[host], &mut |_, event| seen.push(see(&event)));
    }

    fn way_to(&self, host: usize) -> Option<Way> {
        self.network.ways().find(|way| way.to == HostId(host))
    }

    fn arrive(&mut self, host: usize) {
        let id = self.way_to(host).expect("something on its way").id;
        let (links, seen) = (&mut self.links[host], &mut self.seen[host]);
        self.network.arrive(id, links, &mut |links, event| {
            if let LinkEvent::Greeted { link, .. } = event {
                links.answer(link, hello(2, 1));
            }
            seen.push(see(&event));
        });
        self.network.refill(id, &mut self.links[1 - host]);
        self.turn(host);
        self.turn(1 - host);
    }

    /// Node 1 dials node 2; the links of both.
    fn up(&mut self) -> (LinkId, LinkId) {
        let dialed = self.links[0].connect(address(2), hello(1, 2)).unwrap();
        self.turn(0);
        self.arrive(1);
        let Seen::Greeted(called) = self.seen[1][0] else { panic!("{:?}", self.seen) };
        assert_eq!(self.seen[1][1..], [Seen::Up(called, NodeId(1))]);
        self.arrive(0);
        assert_eq!(self.seen[0], [Seen::Up(dialed, NodeId(2))]);
        self.seen = [Vec::new(), Vec::new()];
        (dialed, called)
    }
}

#[test]
fn messages_arrive_in_order_when_the_test_says_so() {
    let mut rig = Rig::new(1000, 1000);
    let (one, two) = rig.up();
    for tag in 0..3 {
        rig.links[0].send(one, &message(tag, 24), None).unwrap();
    }
    rig.links[1].send(two, &message(9, 24), None).unwrap();
    rig.turn(0);
    rig.turn(1);
    assert_eq!(rig.way_to(1).map(|way| (way.from, way.waiting)), Some((HostId(0), 3)));
    assert_eq!(rig.seen, [vec![], vec![]]);
    (0..3).for_each(|_| rig.arrive(1));
    assert_eq!(rig.seen[1], [0, 1, 2].map(|tag| Seen::Received(two, tag)));
    assert_eq!(rig.seen[0], []);
    rig.arrive(0);
    assert_eq!(rig.seen[0], [Seen::Received(one, 9)]);
}

#[test]
fn a_way_that_stands_still_fills_up_and_tells_of_room_later() {
    let mut rig = Rig::new(192, 96);
    let (one, two) = rig.up();
    let mut sent = 0;
    loop {
        match rig.links[0].send(one, &message(sent, 48), None) {
            Ok(()) => sent += 1,
            Err(why) => break assert_eq!(why, Unsent::NoRoom),
        }
        rig.turn(0);
    }
    assert_eq!(sent, 6, "96 bytes on the way and 192 before it");
    assert_eq!(rig.seen[0], []);
    rig.arrive(1);
    assert_eq!(rig.seen[0], [Seen::Room(one)]);
    (1..sent).for_each(|_| rig.arrive(1));
    let all = (0..sent).map(|tag| Seen::Received(two, tag)).collect::<Vec<_>>();
    assert_eq!(rig.seen[1], all);
    assert!(rig.way_to(1).is_none());
}

#[test]
fn an_end_loses_what_has_not_arrived_and_only_on_its_side() {
    let mut rig = Rig::new(1000, 1000);
    let (one, two) = rig.up();
    for tag in 0..3 {
        rig.links[0].send(one, &message(tag, 24), None).unwrap();
    }
    rig.turn(0);
    rig.arrive(1);
    let ways: Vec<_> = rig.network.between(HostId(0), HostId(1)).collect();
    assert_eq!(ways.len(), 2);
    let id = rig.way_to(1).unwrap().id;
    rig.network.end(id, LinkDown::Error(ECONNRESET));
    rig.arrive(1);
    let down = Seen::Down(two, LinkDown::Error(ECONNRESET));
    assert_eq!(rig.seen[1], [Seen::Received(two, 0), down]);
    assert!(rig.links[0].is_up(one), "it does not know");
    rig.links[0].send(one, &message(3, 24), None).unwrap();
    rig.turn(0);
    assert!(rig.way_to(1).is_none(), "nobody is there");
    let other = ways.into_iter().find(|way| *way != id).unwrap();
    rig.network.end(other, LinkDown::Ended);
    rig.arrive(0);
    assert_eq!(rig.seen[0], [Seen::Down(one, LinkDown::Ended)]);
    assert_eq!(rig.network.between(HostId(0), HostId(1)).count(), 0);
}

#[test]
fn after_a_revocation_nothing_of_the_peer_is_heard() {
    let mut rig = Rig::new(1000, 1000);
    let (one, two) = rig.up();
    rig.links[0].send(one, &message(1, 24), None).unwrap();
    rig.turn(0);
    rig.links[1].revoke(two);
    rig.arrive(1);
    rig.turn(1);
    assert_eq!(rig.seen[1], [Seen::Down(two, LinkDown::Revoked)]);
    rig.arrive(0);
    assert_eq!(rig.seen[0], [Seen::Down(one, LinkDown::Ended)]);
}

#[test]
fn what_a_process_sent_before_its_end_arrives() {
    let mut rig = Rig::new(1000, 1000);
    let (one, two) = rig.up();
    rig.links[0].send(one, &message(1, 24), None).unwrap();
    rig.turn(0);
    rig.network.crash(HostId(0));
    rig.arrive(1);
    rig.arrive(1);
    let reset = LinkDown::Error(ECONNRESET);
    assert_eq!(rig.seen[1], [Seen::Received(two, 1), Seen::Down(two, reset)]);
    let link = rig.links[1].connect(address(1), hello(2, 1)).unwrap();
    rig.turn(1);
    let refused = LinkDown::Unreachable(ECONNREFUSED);
    assert_eq!(rig.seen[1][2..], [Seen::Down(link, refused)]);
    rig.network.restart(HostId(0));
    rig.links[0] = Links::new(1000);
    rig.seen = [Vec::new(), Vec::new()];
    rig.up();
}
