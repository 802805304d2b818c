//! Links of nodes that could also talk over RDMA: what is TCP's stays here, what is not is left to the
//! other driver of the core.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

#[path = "support/links.rs"]
mod links;
mod support;

use links::{Node, config, hello, message};
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::link::{Carrier, Dialed, LinkCommand, LinkDown, LinkId};
use ringlane_dataplane::replication::hello::{HELLO_BYTES, Hello, RdmaEnd, Refused, Transports};
use ringlane_transport_uring::{LinkConfig, TransportKind};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;
use support::PATIENCE;

on_both_drivers! {
    an_offer_of_rdma_to_a_node_without_it_is_answered_with_tcp,
    who_offers_rdma_to_a_node_that_has_it_is_left_to_the_other_driver,
    a_node_that_wants_rdma_alone_refuses_tcp,
    what_another_driver_has_dialed_goes_on_over_tcp,
    what_was_left_to_tcp_can_be_revoked_before_it_is_up,
    a_descriptor_of_another_driver_ends_the_wait,
}

const BOTH: Transports = Transports(3);

/// What a node says that offers RDMA as well.
fn offer(from: u16, to: u16) -> Hello {
    let rdma = RdmaEnd {
        queue_pair: 1,
        path_mtu: 1024,
        ring_key: 2,
        ring_address: 4096,
        ring_bytes: 4096,
        ..RdmaEnd::default()
    };
    Hello { transports: BOTH, rdma, ..hello(from, to) }
}

fn called(two: &Node, hello: &Hello) -> TcpStream {
    let mut stream = TcpStream::connect(two.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&hello.encode()).unwrap();
    stream
}

fn answer(two: &mut Node, stream: &mut TcpStream) -> Hello {
    let before = two.ups().len();
    two.until("the link", |two| two.ups().len() > before);
    two.turn(Duration::ZERO);
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    Hello::decode(&bytes).unwrap()
}

fn an_offer_of_rdma_to_a_node_without_it_is_answered_with_tcp(kind: TransportKind) {
    let mut two = Node::new(kind, 2);
    let mut stream = called(&two, &offer(1, 2));
    let answer = answer(&mut two, &mut stream);
    assert_eq!((answer.from, answer.transports), (NodeId(2), Transports::TCP));
    let link = two.ups()[0];
    assert_eq!(two.links.carrier(link), Some(Carrier::Tcp));
    stream.write_all(&message(104, 1)).unwrap();
    two.until("the message", |two| two.received(link) == message(104, 1));
}

fn who_offers_rdma_to_a_node_that_has_it_is_left_to_the_other_driver(kind: TransportKind) {
    let config = LinkConfig { transports: BOTH, ..config(2) };
    let mut two = Node::with(kind, 2, config);
    let _stream = called(&two, &offer(1, 2));
    let mut commands = Vec::new();
    two.until("the caller", |two| two.links.has_work());
    two.turn(Duration::ZERO);
    two.links.take_commands_of(Carrier::Tcp, &mut commands);
    assert!(commands.is_empty(), "{commands:?}");
    two.links.take_commands_of(Carrier::Rdma, &mut commands);
    let [LinkCommand::Adopt(arrival)] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!((arrival.carrier, arrival.hello), (Carrier::Rdma, offer(1, 2)));
    assert!(two.seen.is_empty(), "{:?}", two.seen);
    // One that does not offer it is a link of TCP here.
    let mut stream = called(&two, &hello(1, 2));
    assert_eq!(answer(&mut two, &mut stream).transports, Transports::TCP);
}

fn a_node_that_wants_rdma_alone_refuses_tcp(kind: TransportKind) {
    let config = LinkConfig { transports: Transports::RDMA, ..config(2) };
    let mut two = Node::with(kind, 2, config);
    let _stream = called(&two, &hello(1, 2));
    two.until("the refusal", |two| !two.turned_away().is_empty());
    assert_eq!(two.turned_away(), [LinkDown::Refused(Refused::Transports)]);
}

/// A link that node 1 has dialed with more than TCP, and the answer says TCP.
fn left_to_tcp(one: &mut Node, two: &mut Node) -> LinkId {
    let mut stream = called(two, &offer(1, 2));
    let theirs = Box::new(answer(two, &mut stream));
    let link = one.links.open(Carrier::Rdma).unwrap();
    let (socket, peer) = (OwnedFd::from(stream), two.address);
    let dialed = Dialed { link, socket, peer, own: Box::new(offer(1, 2)), theirs };
    one.links.pass(link, Carrier::Tcp, LinkCommand::GoOn(Box::new(dialed)));
    link
}

fn what_another_driver_has_dialed_goes_on_over_tcp(kind: TransportKind) {
    let (mut one, mut two) = (Node::new(kind, 1), Node::new(kind, 2));
    let link = left_to_tcp(&mut one, &mut two);
    one.until("the link", |one| one.is_up(link));
    assert_eq!(one.links.carrier(link), Some(Carrier::Tcp));
    let there = two.ups()[0];
    one.links.send(link, &message(1000, 1), None).unwrap();
    two.links.send(there, &message(2000, 2), None).unwrap();
    links::until("both messages", &mut one, &mut two, |one, two| {
        two.received(there).len() == 1000 && one.received(link).len() == 2000
    });
    one.links.revoke(link);
    one.until("the end here", |one| one.down(link) == Some(LinkDown::Revoked));
    two.until("the end there", |two| two.down(there).is_some());
}

fn what_was_left_to_tcp_can_be_revoked_before_it_is_up(kind: TransportKind) {
    let (mut one, mut two) = (Node::new(kind, 1), Node::new(kind, 2));
    let link = left_to_tcp(&mut one, &mut two);
    one.links.revoke(link);
    one.until("the end", |one| one.down(link) == Some(LinkDown::Revoked));
    assert!(!one.is_up(link));
}

fn a_descriptor_of_another_driver_ends_the_wait(kind: TransportKind) {
    let mut one = Node::new(kind, 1);
    let (here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
    one.driver.wake_on(here.try_clone().unwrap().into()).unwrap();
    for round in 0..3 {
        one.turn(Duration::ZERO);
        let mut far = there.try_clone().unwrap();
        let writer = std::thread::spawn(move || far.write_all(&[1]).unwrap());
        let begun = std::time::Instant::now();
        one.turn(PATIENCE);
        assert!(begun.elapsed() < PATIENCE, "round {round}: it has slept on");
        writer.join().unwrap();
        (&here).read_exact(&mut [0]).unwrap();
    }
    there.flush().unwrap();
}
