//! Links between nodes: order, bounds, peers that stand still, leave, or are none.

#![allow(clippy::unwrap_used, reason = "this is test code, though not inside a test function")]

#[path = "support/links.rs"]
mod links;
mod support;

use links::{
    MESSAGE_BYTES_MAX, Node, ROOM_BYTES, Seen, batches, config, head, hello, message, pair,
    pair_of, until,
};
use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::link::{Body, LinkDown, LinkDriver, LinkId, Unsent};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::net::Driver;
use ringlane_dataplane::replication::hello::{HELLO_BYTES, Hello, HelloError, Refused, Transports};
use ringlane_transport_uring::{LinkConfig, TransportKind, Wakers, bind};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::PATIENCE;

on_both_drivers! {
    messages_go_both_ways_in_order_and_each_once,
    bodies_go_out_of_their_batches_which_are_free_afterwards,
    a_peer_that_reads_later_gives_no_room_and_then_room,
    the_longest_message_is_taken_and_a_longer_one_ends_the_link,
    a_delivery_is_bounded_and_goes_on,
    nothing_is_heard_after_a_revocation,
    what_a_peer_sent_before_it_ended_is_delivered,
    a_reset_is_told,
    a_peer_that_stops_reading_is_given_up,
    a_hello_that_does_not_fit_is_turned_away_with_its_reason,
    an_answer_of_somebody_else_ends_the_link,
    who_says_no_hello_is_turned_away,
    who_says_nothing_is_turned_away_and_few_may_be_silent,
    nonsense_after_the_hello_ends_the_link,
    a_greeting_that_is_not_answered_ends,
    a_greeting_can_be_refused,
    an_answer_to_a_peer_that_has_gone_ends,
    a_link_moves_to_the_core_that_its_hello_names,
    a_dial_in_vain_is_given_up_after_few_tries,
    a_dial_reaches_a_peer_that_comes_later,
    a_peer_that_goes_at_once_is_not_dialed_in_a_loop,
    a_dial_that_is_revoked_ends,
    thousands_of_links_leave_no_descriptor,
    a_core_that_waits_is_woken_by_a_message,
    a_driver_ends_with_everything_under_way,
}

/// Sends what is left of these, in their order, as far as there is room.
fn send_more(from: &mut Node, link: LinkId, messages: &[Vec<u8>], next: &mut usize) {
    while let Some(message) = messages.get(*next) {
        match from.links.send(link, message, None) {
            Ok(()) => *next += 1,
            Err(why) => return assert_eq!(why, Unsent::NoRoom),
        }
    }
}

/// Whoever speaks for node 1 without being one, and is greeted.
fn stranger(two: &mut Node) -> (TcpStream, LinkId) {
    let mut stream = TcpStream::connect(two.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&hello(1, 2).encode()).unwrap();
    let before = two.ups().len();
    two.until("the stranger", |two| two.ups().len() > before);
    let mut answer = [0; HELLO_BYTES];
    two.turn(Duration::ZERO);
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(Hello::decode(&answer).unwrap().from, NodeId(2));
    (stream, *two.ups().last().unwrap())
}

/// What a core of node 2 says to somebody who has dialed it with these bytes, and nothing more.
fn turned_away(two: &mut Node, bytes: &[u8]) -> LinkDown {
    let before = two.turned_away().len();
    let mut stream = TcpStream::connect(two.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    two.until("the end", |two| two.turned_away().len() > before);
    let ended = stream.read(&mut [0; 8]);
    assert!(matches!(ended, Ok(0) | Err(_)), "no answer for somebody like that");
    *two.turned_away().last().unwrap()
}

fn messages_go_both_ways_in_order_and_each_once(kind: TransportKind) {
    let (mut one, dialed, mut two, called) = pair(kind);
    let lengths = [24, 32, 4096, 100_000, 24, 600_000, 48, 65_536, 1 << 20, 24, 8192];
    let messages: Vec<_> =
        (0..110).map(|number| message(lengths[number % lengths.len()], number)).collect();
    let (mut sent, mut answered) = (0, 0);
    until("all messages", &mut one, &mut two, |one, two| {
        send_more(one, dialed, &messages, &mut sent);
        send_more(two, called, &messages, &mut answered);
        let counts = [one, two].map(|node| node.driver.link_counters().received_messages);
        counts == [110, 110]
    });
    let all: Vec<u8> = messages.concat();
    assert!(one.received(dialed) == all);
    assert!(two.received(called) == all);
    let counters = one.driver.link_counters();
    assert_eq!(counters.received_bytes, all.len() as u64);
    assert_eq!(counters.sent_bytes, (all.len() + HELLO_BYTES) as u64);

    assert_eq!((one.down(dialed), two.down(called)), (None, None));
}

fn bodies_go_out_of_their_batches_which_are_free_afterwards(kind: TransportKind) {
    let (mut one, dialed, mut two, called) = pair(kind);
    let batches = batches(400, 256);
    assert!(batches.len() > 1);
    let mut expected = Vec::new();
    for batch in &batches {
        let whole = Body::new(batch.clone());
        let part = Body::part(batch.clone(), 8..whole.len() as u32 - 8);
        for body in [whole, part] {
            let head = head(body.len());
            expected.extend_from_slice(&head);
            expected.extend_from_slice(body.bytes());
            one.links.send(dialed, &head, Some(body)).unwrap();
        }
    }
    until("all bodies", &mut one, &mut two, |one, two| {
        two.received(called).len() == expected.len() && one.links.unsent_bytes(dialed) == 0
    });
    assert!(two.received(called) == expected);
    assert!(batches.iter().all(triomphe::Arc::is_unique), "the driver has let go of them");
}

fn a_peer_that_reads_later_gives_no_room_and_then_room(kind: TransportKind) {
    let (mut one, dialed, mut two, called) = pair(kind);
    // More than the kernel keeps for both sockets.
    let messages: Vec<_> = (0..400).map(|number| message(100_000, number)).collect();
    let mut sent = 0;
    let mut refused = 0;
    while refused < 50 {
        let before = sent;
        send_more(&mut one, dialed, &messages, &mut sent);
        refused += u32::from(sent == before);
        one.turn(Duration::from_millis(1));
        assert!(one.links.unsent_bytes(dialed) <= ROOM_BYTES);
        assert!(sent < 400, "the kernel takes more than this test has");
    }
    let rooms = |node: &Node| node.seen.iter().filter(|seen| matches!(seen, Seen::Room(_))).count();
    let before = rooms(&one);
    until("room", &mut one, &mut two, |one, _| rooms(one) > before);
    until("all messages", &mut one, &mut two, |one, two| {
        send_more(one, dialed, &messages, &mut sent);
        two.driver.link_counters().received_messages == 400
    });
    assert!(two.received(called) == messages.concat());
}

fn the_longest_message_is_taken_and_a_longer_one_ends_the_link(kind: TransportKind) {
    let (mut one, dialed, mut two, called) = pair(kind);
    let longest = message(MESSAGE_BYTES_MAX as usize, 1);
    one.links.send(dialed, &longest, None).unwrap();
    until("the longest", &mut one, &mut two, |_, two| two.received(called).len() == longest.len());
    assert!(two.received(called) == longest);
    let longer = message(MESSAGE_BYTES_MAX as usize + 8, 2);
    one.links.send(dialed, &longer, None).unwrap();
    until("the end", &mut one, &mut two, |one, two| {
        one.down(dialed).is_some() && two.down(called).is_some()
    });
    assert_eq!(two.down(called), Some(LinkDown::Length(MESSAGE_BYTES_MAX + 8)));
    assert_eq!(two.received(called).len(), longest.len());
}

fn a_delivery_is_bounded_and_goes_on(kind: TransportKind) {
    let (mut one, dialed, mut two, called) = pair(kind);
    two.events_max = 3;
    let messages: Vec<_> = (0..100).map(|number| message(24, number)).collect();
    send_more(&mut one, dialed, &messages, &mut 0);
    until("all messages", &mut one, &mut two, |_, two| {
        two.driver.link_counters().received_messages == 100
    });
    assert!(two.received(called) == messages.concat());
}

fn nothing_is_heard_after_a_revocation(kind: TransportKind) {
    let (mut one, dialed, mut two, called) = pair(kind);
    for number in 0..10 {
        one.links.send(dialed, &message(4096, number), None).unwrap();
    }
    // On their way, or in the kernel.
    one.turn(Duration::ZERO);
    one.turn(Duration::ZERO);
    two.links.revoke(called);
    until("both ends", &mut one, &mut two, |one, two| {
        one.down(dialed).is_some() && two.down(called).is_some()
    });
    assert_eq!(two.down(called), Some(LinkDown::Revoked));
    assert_eq!(two.received(called), []);
    assert_eq!(one.links.send(dialed, &message(24, 0), None), Err(Unsent::NotUp));
    // The nodes find each other again.
    pair_of(one, two);
}

fn what_a_peer_sent_before_it_ended_is_delivered(kind: TransportKind) {
    let mut two = Node::new(kind, 2);
    let (mut stream, link) = stranger(&mut two);
    let messages: Vec<_> = (0..20).map(|number| message(60_000, number)).collect();
    let all = messages.concat();
    let writer = std::thread::spawn(move || {
        stream.write_all(&messages.concat()).unwrap();
        stream.write_all(&message(4096, 0)[..1000]).unwrap();
    });
    two.until("the end", |two| two.down(link).is_some());
    writer.join().unwrap();
    assert_eq!(two.down(link), Some(LinkDown::Ended));
    assert!(two.received(link) == all, "and not the one that was not whole");
    assert!(matches!(two.seen.last(), Some(Seen::Down(..))));
}

fn a_reset_is_told(kind: TransportKind) {
    let mut two = Node::new(kind, 2);
    let (stream, link) = stranger(&mut two);
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    two.until("the reset", |two| two.down(link).is_some());
    assert_eq!(two.down(link), Some(LinkDown::Error(libc::ECONNRESET)));
    assert_eq!(two.links.send(link, &message(24, 0), None), Err(Unsent::NotUp));
}

fn a_peer_that_stops_reading_is_given_up(kind: TransportKind) {
    let config = LinkConfig { silence: Duration::from_millis(300), ..config(2) };
    let mut two = Node::with(kind, 2, config);
    let (_stream, link) = stranger(&mut two);
    let messages: Vec<_> = std::iter::repeat_n(message(100_000, 1), 1000).collect();
    let mut sent = 0;
    let deadline = Instant::now() + PATIENCE;
    while two.down(link).is_none() {
        assert!(Instant::now() < deadline);
        if two.links.is_up(link) {
            send_more(&mut two, link, &messages, &mut sent);
        }
        two.turn(Duration::from_millis(5));
    }
    assert_eq!(two.down(link), Some(LinkDown::Error(libc::ETIMEDOUT)));
    assert!(sent < 1000);
}

fn a_hello_that_does_not_fit_is_turned_away_with_its_reason(kind: TransportKind) {
    let mut one = Node::new(kind, 1);
    let mut two = Node::new(kind, 2);
    let right = hello(1, 2);
    let cases = [
        (Hello { cluster: DirectoryId([8; 16]), ..right }, Refused::Cluster),
        (hello(1, 3), Refused::Node(NodeId(3))),
        (Hello { partitions: 9, ..right }, Refused::Partitions(9)),
        (Hello { to_core: CoreId(4), ..right }, Refused::Core(CoreId(4))),
        (Hello { transports: Transports(4), ..right }, Refused::Transports),
    ];
    for (index, (hello, refused)) in cases.into_iter().enumerate() {
        let link = one.links.connect(two.address, hello).unwrap();
        until("the end", &mut one, &mut two, |one, two| {
            one.down(link).is_some() && two.turned_away().len() > index
        });
        assert_eq!(two.turned_away()[index], LinkDown::Refused(refused));
        assert_eq!(one.down(link), Some(LinkDown::TurnedAway));
    }
    assert_eq!(two.driver.link_counters().turned_away, 5);
    assert_eq!(two.ups(), []);
}

fn an_answer_of_somebody_else_ends_the_link(kind: TransportKind) {
    let mut one = Node::new(kind, 1);
    let mut two = Node::new(kind, 2);
    two.answers = false;
    let link = one.dial(&two);
    let greeted = |node: &Node| {
        node.seen.iter().find_map(|seen| match seen {
            Seen::Greeted(link, NodeId(1)) => Some(*link),
            _ => None,
        })
    };
    until("the greeting", &mut one, &mut two, |_, two| greeted(two).is_some());
    let called = greeted(&two).unwrap();
    two.links.answer(called, Hello { from_core: CoreId(1), ..hello(2, 1) });
    until("the end", &mut one, &mut two, |one, two| {
        one.down(link).is_some() && two.down(called).is_some()
    });
    let cause = one.down(link).unwrap();
    assert!(matches!(cause, LinkDown::Refused(Refused::Lane(_))), "{cause}");
    assert!(!one.is_up(link));
}

fn who_says_no_hello_is_turned_away(kind: TransportKind) {
    let mut two = Node::new(kind, 2);
    let mut damaged = hello(1, 2).encode();
    damaged[40] ^= 1;
    let mut newer = hello(1, 2).encode();
    newer[8] += 1;
    let cases: [(&[u8], HelloError); 5] = [
        (b"GET / HTTP/1.1\r\n", HelloError::Magic),
        (&damaged, HelloError::Checksum),
        (&newer, HelloError::Version(2)),
        (&hello(1, 2).encode()[..50], HelloError::Short),
        (b"", HelloError::Short),
    ];
    for (bytes, error) in cases {
        assert_eq!(turned_away(&mut two, bytes), LinkDown::NoHello(error));
    }
}

fn who_says_nothing_is_turned_away_and_few_may_be_silent(kind: TransportKind) {
    let timeout = Duration::from_secs(2);
    let config = LinkConfig { greetings_max: 3, hello_timeout: timeout, ..config(2) };
    let mut two = Node::with(kind, 2, config);
    let silent: Vec<_> = (0..5).map(|_| TcpStream::connect(two.address).unwrap()).collect();
    two.until("two that make room", |two| two.turned_away().len() == 2);
    // Who says at once who it is finds room however many are silent.
    let (_stream, _link) = stranger(&mut two);
    two.until("all of them", |two| two.turned_away().len() == 5);
    let crowded = [LinkDown::Crowded; 3];
    let late = [LinkDown::Silent; 2];
    assert_eq!(two.turned_away(), [crowded.as_slice(), &late].concat());
    drop(silent);
}

fn nonsense_after_the_hello_ends_the_link(kind: TransportKind) {
    let mut two = Node::new(kind, 2);
    for length in [0u32, 23, 25, u32::MAX] {
        let (mut stream, link) = stranger(&mut two);
        let good = message(32, 1);
        stream.write_all(&good).unwrap();
        stream.write_all(&length.to_le_bytes()).unwrap();
        two.until("the end", |two| two.down(link).is_some());
        assert_eq!(two.down(link), Some(LinkDown::Length(length)));
        assert_eq!(two.received(link), good);
        assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
        two.seen.retain(|seen| matches!(seen, Seen::Up(..)));
    }
}

fn a_greeting_that_is_not_answered_ends(kind: TransportKind) {
    let quick = |number| {
        let hello_timeout = Duration::from_millis(100);
        Node::with(kind, number, LinkConfig { hello_timeout, ..config(number) })
    };
    let (mut one, mut two) = (Node::new(kind, 1), quick(2));
    two.answers = false;
    let link = one.dial(&two);
    until("the end", &mut one, &mut two, |one, _| one.down(link).is_some());
    assert_eq!(one.down(link), Some(LinkDown::TurnedAway));
    let silent = |seen: &Seen| matches!(seen, Seen::Down(_, LinkDown::Silent));
    assert!(two.seen.iter().any(silent), "{:?}", two.seen);
    // And the other way round: the one that dialed is the one that does not wait.
    let (mut one, mut two) = (quick(1), Node::new(kind, 2));
    two.answers = false;
    let link = one.dial(&two);
    until("the end", &mut one, &mut two, |one, _| one.down(link).is_some());
    assert_eq!(one.down(link), Some(LinkDown::Silent));
}

fn a_greeting_can_be_refused(kind: TransportKind) {
    let (mut one, mut two) = (Node::new(kind, 1), Node::new(kind, 2));
    two.answers = false;
    let link = one.dial(&two);
    until("the end", &mut one, &mut two, |one, two| {
        if let Some(Seen::Greeted(called, _)) = two.seen.first() {
            two.links.revoke(*called);
        }
        one.down(link).is_some()
    });
    assert_eq!(one.down(link), Some(LinkDown::TurnedAway));
    let revoked = |seen: &Seen| matches!(seen, Seen::Down(_, LinkDown::Revoked));
    assert_eq!(two.seen.iter().filter(|seen| revoked(seen)).count(), 1);
}

fn an_answer_to_a_peer_that_has_gone_ends(kind: TransportKind) {
    let mut two = Node::new(kind, 2);
    two.answers = false;
    let mut stream = TcpStream::connect(two.address).unwrap();
    stream.write_all(&hello(1, 2).encode()).unwrap();
    two.until("the greeting", |two| !two.seen.is_empty());
    let Some(Seen::Greeted(link, _)) = two.seen.first() else { panic!("{:?}", two.seen) };
    let link = *link;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    two.links.answer(link, hello(2, 1));
    two.until("the end", |two| two.down(link).is_some());
    let cause = two.down(link).unwrap();
    assert!(matches!(cause, LinkDown::Error(libc::ECONNRESET | libc::EPIPE)), "{cause}");
}

fn a_link_moves_to_the_core_that_its_hello_names(kind: TransportKind) {
    let wakers = Wakers::new(4).unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut listeners = bind(loopback, 2, 64).unwrap().into_iter();
    let mut cores: Vec<_> = (0..2)
        .map(|core| {
            let listener = listeners.next().unwrap();
            Node::core(kind, (2, CoreId(core)), config(2), listener, wakers.clone())
        })
        .collect();
    let mut one = Node::new(kind, 1);
    let (mut links, mut moved) = (Vec::new(), 0);
    for number in 0..20u16 {
        let hello = Hello { to_core: CoreId(number % 2), ..hello(1, 2) };
        links.push(one.links.connect(cores[0].address, hello).unwrap());
    }
    let mut sent = [false; 20];
    let mut turns = 0;
    while cores.iter().map(|core| core.driver.link_counters().received_messages).sum::<u64>() < 20 {
        one.turn(Duration::from_micros(100));
        for (number, link) in links.iter().enumerate() {
            if one.is_up(*link) && !sent[number] {
                one.links.send(*link, &message(24, number), None).unwrap();
                sent[number] = true;
            }
        }
        for index in 0..2 {
            cores[index].turn(Duration::from_micros(100));
            for at in 0..cores[index].seen.len() {
                if let Seen::Elsewhere(core, arrival) = &mut cores[index].seen[at]
                    && let Some(arrival) = arrival.take()
                {
                    assert_eq!((core.index(), arrival.hello.to_core), (1 - index, *core));
                    let core = core.index();
                    cores[core].links.adopt(arrival);
                    moved += 1;
                }
            }
        }
        turns += 1;
        assert!(turns < 100_000, "{:?}", one.seen);
    }
    assert!(moved > 0, "the kernel spreads what it accepts");
    for core in &cores {
        assert_eq!(core.ups().len(), 10);
    }
}

fn a_dial_in_vain_is_given_up_after_few_tries(kind: TransportKind) {
    let mut one = Node::new(kind, 1);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let link = one.links.connect(nobody, hello(1, 2)).unwrap();
    one.until("the end", |one| one.down(link).is_some());
    assert_eq!(one.down(link), Some(LinkDown::Unreachable(libc::ECONNREFUSED)));
    let dials = one.driver.link_counters().dials;
    assert!((2..=60).contains(&dials), "{dials} in 200 ms, 5 ms apart");
    // The next one does not begin before its time either.
    let link = one.links.connect(nobody, hello(1, 2)).unwrap();
    one.until("the end", |one| one.down(link).is_some());
    assert!(one.driver.link_counters().dials <= 2 * 60);
}

fn a_dial_reaches_a_peer_that_comes_later(kind: TransportKind) {
    let dial_timeout = Duration::from_secs(30);
    let mut one = Node::with(kind, 1, LinkConfig { dial_timeout, ..config(1) });
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let link = one.links.connect(address, hello(1, 2)).unwrap();
    one.until("a try", |one| one.driver.link_counters().dials > 2);
    let listener = bind(address, 1, 16).unwrap().remove(0);
    let wakers = Wakers::new(2).unwrap();
    let mut two = Node::core(kind, (2, CoreId(0)), config(2), listener, wakers);
    until("the link", &mut one, &mut two, |one, _| one.is_up(link));
}

fn a_peer_that_goes_at_once_is_not_dialed_in_a_loop(kind: TransportKind) {
    let (backoff_min, backoff_max) = (Duration::from_millis(20), Duration::from_millis(80));
    let mut one = Node::with(kind, 1, LinkConfig { backoff_min, backoff_max, ..config(1) });
    let mut two = Node::new(kind, 2);
    let started = one.driver.now();
    let mut link = one.dial(&two);
    for _ in 0..6 {
        until("the link", &mut one, &mut two, |one, _| one.is_up(link));
        one.links.revoke(link);
        link = one.dial(&two);
    }
    until("the last link", &mut one, &mut two, |one, _| one.is_up(link));
    let least = Duration::from_millis(20 + 40 + 80 * 4);
    assert!(one.driver.now() - started >= least, "{:?}", one.driver.now() - started);
}

fn a_dial_that_is_revoked_ends(kind: TransportKind) {
    let mut one = Node::new(kind, 1);
    // In a documentation network: nobody answers.
    let nobody = SocketAddr::from(([192, 0, 2, 1], 9));
    let link = one.links.connect(nobody, hello(1, 2)).unwrap();
    for _ in 0..3 {
        one.turn(Duration::from_millis(1));
    }
    one.links.revoke(link);
    one.until("the end", |one| one.down(link).is_some());
    assert_eq!(one.down(link), Some(LinkDown::Revoked));
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn thousands_of_links_leave_no_descriptor(kind: TransportKind) {
    let quick = Duration::from_nanos(1);
    let quick = |number| LinkConfig { backoff_min: quick, backoff_max: quick, ..config(number) };
    let (mut one, mut two) = (Node::with(kind, 1, quick(1)), Node::with(kind, 2, quick(2)));
    let mut before = 0;
    for round in 0..2000 {
        let dialed;
        let called;
        (one, dialed, two, called) = pair_of(one, two);
        let (node, link) = if round % 2 == 0 { (&mut one, dialed) } else { (&mut two, called) };
        node.links.revoke(link);
        until("the end", &mut one, &mut two, |one, two| {
            one.down(dialed).is_some() && two.down(called).is_some()
        });
        one.seen.clear();
        two.seen.clear();
        if round == 10 {
            before = descriptors();
        }
    }
    // Other tests of this process have some of their own meanwhile.
    assert!(descriptors() < before + 500, "{before}, and {} after 2000 links", descriptors());
}

fn a_core_that_waits_is_woken_by_a_message(kind: TransportKind) {
    let mut two = Node::new(kind, 2);
    let (mut stream, link) = stranger(&mut two);
    two.turn(Duration::ZERO);
    let sender = std::thread::spawn(move || {
        stream.write_all(&message(32, 1)).unwrap();
        stream
    });
    let until = two.driver.now() + PATIENCE;
    while two.received(link).is_empty() {
        assert!(two.driver.now() < until, "it sleeps on");
        two.turn(PATIENCE);
    }
    drop(sender.join().unwrap());
}

fn a_driver_ends_with_everything_under_way(kind: TransportKind) {
    let (mut one, dialed, two, _called) = pair(kind);
    let batches = batches(1000, 1024);
    let mut next = 0;
    for _ in 0..20 {
        let batch = batches[next % batches.len()].clone();
        let body = Body::new(batch);
        next += usize::from(one.links.send(dialed, &head(body.len()), Some(body)).is_ok());
        one.turn(Duration::ZERO);
    }
    let nobody = SocketAddr::from(([192, 0, 2, 1], 9));
    one.links.connect(nobody, hello(1, 2)).unwrap();
    one.turn(Duration::ZERO);
    one.turn(Duration::ZERO);
    drop(one);
    assert!(batches.iter().all(triomphe::Arc::is_unique));
    drop(two);
}
