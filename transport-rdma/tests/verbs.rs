//! Real verbs, both ends in one process on one device: soft-RoCE in a guest (scripts/guest/rdma.sh),
//! or any card. Without a device each test says so and ends; where `RINGLANE_RDMA_REQUIRED` is set
//! that is a failure.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use ringlane_dataplane::batch::{BatchPool, Foreign};
use ringlane_dataplane::ids::{CoreId, NodeId, PartitionId};
use ringlane_dataplane::link::{
    Arrival, Body, Carrier, LinkCommand, LinkDown, LinkDriver, LinkEvent, LinkId, Links,
};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::message::MessageMeter;
use ringlane_dataplane::replication::hello::{
    DirectoryTag, Expected, HELLO_BYTES, Hello, RdmaEnd, Refused, Transports,
};
use ringlane_dataplane::replication::message::{Append, Envelope, Message, Run};
use ringlane_transport_rdma::{
    Channel, Completion, Device, DownCause, Endpoint, Fallen, Queue, QueuePair, RdmaLinkConfig,
    RdmaLinks, RdmaSettings, Received, Slice, Write, choose, devices, ring,
};
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Nothing here takes that long, also where the processor is emulated.
const PATIENCE: Duration = Duration::from_secs(60);
const RING_BYTES: u32 = 64 * 1024;

/// The device, or a line that says that there is none.
fn device() -> Option<Device> {
    let settings = RdmaSettings::default();
    let opened = choose(&devices().devices, &settings).and_then(|place| Device::open(&place));
    match opened {
        Ok(device) => Some(device),
        Err(reason) => {
            assert!(std::env::var_os("RINGLANE_RDMA_REQUIRED").is_none(), "{reason}");
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn settings() -> RdmaSettings {
    RdmaSettings { ring_bytes: RING_BYTES, stage_bytes: RING_BYTES, ..RdmaSettings::default() }
}

fn pairs(device: &Device) -> (QueuePair, QueuePair) {
    let pair = |psn| QueuePair::new(device, None, &settings(), psn).expect("a queue pair");
    let (mut first, mut second) = (pair(0x00_1234), pair(0xff_fff0));
    let (one, two) = (first.address(), second.address());
    first.connect(two, &settings()).expect("connected");
    second.connect(one, &settings()).expect("connected");
    (first, second)
}

type Link = Endpoint<QueuePair>;

fn links(device: &Device) -> (Link, Link) {
    let (first, second) = pairs(device);
    let link = |pair| Endpoint::new(pair, RING_BYTES, ring::WRITES_MAX, 1 << 24);
    (link(first), link(second))
}

/// A message of that many bytes that begins with its length and then its number.
fn message(bytes: usize, number: u32) -> Vec<u8> {
    let mut message = (bytes as u32).to_le_bytes().to_vec();
    message.extend(number.to_le_bytes());
    message.extend((8..bytes).map(|at| (at as u32).wrapping_mul(31).wrapping_add(number) as u8));
    message
}

fn turn(link: &mut Link) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    link.poll().expect("up");
    while let Some(message) = link.next_message().expect("up") {
        messages.push(match message {
            Received::Whole(message) => message.to_vec(),
            Received::Records(head, body) => body.behind(head),
        });
    }
    link.flush().expect("up");
    messages
}

/// Repeats until it is true.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn messages_go_both_ways_and_wrap_many_times() {
    let Some(device) = device() else { return };
    let (mut first, mut second) = links(&device);
    let (mut sent, mut there, mut back) = (0, 0, 0);
    until("2,000 messages there and back", || {
        while sent < 2000 && first.waiting_bytes() < 32 * 1024 {
            first.push(&message(24 + 8 * (sent as usize % 100), sent), None);
            sent += 1;
        }
        for came in turn(&mut second) {
            assert_eq!(came, message(came.len(), there));
            second.push(&came, None);
            there += 1;
        }
        for came in turn(&mut first) {
            assert_eq!(came, message(came.len(), back));
            back += 1;
        }
        back == 2000
    });
    let (one, two) = (first.counters(), second.counters());
    assert!(5 < one.wraps && 5 < two.wraps, "{one:?}");
    assert!(one.doorbells < 2000 && one.writes < 2000, "several messages a write: {one:?}");
    assert!(one.sent_bytes <= two.received_bytes && two.sent_bytes <= one.received_bytes);
    println!("counted: {one:?}");
}

/// A body of that many bytes, from a pool of batches.
fn body(pool: &mut BatchPool, bytes: usize, number: u32) -> Body {
    Body::new(pool.copy_records(&message(bytes, number), 1))
}

#[test]
fn batches_are_sent_from_where_they_are() {
    let Some(device) = device() else { return };
    let (mut first, mut second) = links(&device);
    let mut pool = BatchPool::new(MessageMeter::leaked());
    // The last one has memory of its own.
    for (number, bytes) in [1000, 48 * 1024, 100_000].into_iter().enumerate() {
        let body = body(&mut pool, bytes, number as u32);
        let mut head = ((24 + bytes) as u32).to_le_bytes().to_vec();
        head.resize(24, 0);
        first.push(&head, Some(body.clone()));
        let mut came = Vec::new();
        until("the message", || {
            turn(&mut first);
            came.extend(turn(&mut second));
            came.len() == 1
        });
        assert_eq!(came[0][24..], *body.bytes());
        let copied = if number == 2 { 100_000 } else { 0 };
        assert_eq!(first.counters().staged_body_bytes, copied);
    }
    assert!(first.queue_mut().take_refusal().is_none());
}

#[test]
fn records_are_copied_once_out_of_the_ring_while_batches_are_used_again() {
    let Some(device) = device() else { return };
    let (mut first, mut second) = links(&device);
    let mut pool = BatchPool::new(MessageMeter::leaked());
    let (mut sent, mut came) = (0, 0);
    let bytes_of = |number: u32| 800 + 8 * (number as usize * 37 % 1000);
    until("300 records", || {
        while sent < 300 && first.waiting_bytes() < 32 * 1024 {
            let body = body(&mut pool, bytes_of(sent), sent);
            let body_bytes = body.len() as u32;
            let run = Run { records: 1, body_bytes, epoch: 1, ..Run::default() };
            let append = Append { run, ..Append::default() };
            let (partition, message) = (PartitionId(0), Message::Append(append));
            let mut head = Vec::new();
            Envelope { partition, epoch: 1, message }.encode(&mut head);
            pool.give_out(body.batch().clone());
            first.push(&head, Some(body));
            sent += 1;
        }
        turn(&mut first);
        pool.look(100);
        for records in turn(&mut second) {
            assert_eq!(records[80..], message(bytes_of(came), came));
            came += 1;
        }
        came == 300
    });
    let (one, two) = (first.counters(), second.counters());
    assert!(3 < one.wraps && one.staged_body_bytes == 0, "{one:?}");
    assert_eq!(two.assembled_bytes, 0, "{two:?}");
    println!("counted: {one:?} {two:?}");
}

#[test]
fn credit_that_is_not_returned_stops_the_sender_and_returned_it_goes_on() {
    let Some(device) = device() else { return };
    let (mut first, mut second) = links(&device);
    let long = message(4 * RING_BYTES as usize, 1);
    first.push(&long, None);
    until("a full ring", || {
        first.poll().expect("up");
        first.flush().expect("up");
        first.counters().sent_bytes == u64::from(RING_BYTES) && 0 < first.counters().exhausted
    });
    let mut came = Vec::new();
    until("the message", || {
        came.extend(turn(&mut second));
        turn(&mut first);
        !came.is_empty()
    });
    assert_eq!(came[0], long);
    assert!(4 <= second.counters().credits);
}

/// Posts one write of 64 bytes at the ring's beginning.
fn write(pair: &mut QueuePair, id: u64, fill: u8) -> Result<(), DownCause> {
    pair.stage(0, &[fill; 64]);
    let slice = Slice { region: 0, at: 0, bytes: 64 };
    let write = Write { id, at: 0, bytes: 64, slices: 1, imm: 64, inline: false, signalled: true };
    pair.post(&[write], &[slice])
}

fn completion(pair: &mut QueuePair) -> Completion {
    let mut found = Vec::new();
    until("a completion", || {
        pair.poll(&mut found).expect("a device");
        !found.is_empty()
    });
    found[0]
}

fn ring_of(pair: &QueuePair) -> [u8; 64] {
    let mut bytes = [0; 64];
    pair.copy_ring(0, &mut bytes);
    bytes
}

#[test]
fn a_writer_whose_right_was_revoked_leaves_no_byte() {
    let Some(device) = device() else { return };
    let (mut old_leader, mut follower) = pairs(&device);
    write(&mut old_leader, 1, 0xaa).expect("posted");
    assert_eq!(completion(&mut old_leader), Completion::Done { id: 1 });
    assert_eq!(completion(&mut follower), Completion::Landed { imm: 64 });
    assert_eq!(ring_of(&follower), [0xaa; 64]);
    follower.disconnect().expect("revoked");
    write(&mut old_leader, 2, 0xbb).expect("posted");
    let refused = completion(&mut old_leader);
    assert!(matches!(refused, Completion::Failed(_)), "{refused:?}");
    assert_eq!(ring_of(&follower), [0xaa; 64], "not one byte");
    println!("after the revocation: {refused:?}");
}

#[test]
fn a_write_with_an_old_key_leaves_no_byte() {
    let Some(device) = device() else { return };
    let pair = |psn| QueuePair::new(&device, None, &settings(), psn).expect("a queue pair");
    let (mut first, mut second) = (pair(1), pair(2));
    let mut wrong = second.address();
    wrong.ring_key ^= 0x55;
    second.connect(first.address(), &settings()).expect("connected");
    first.connect(wrong, &settings()).expect("connected");
    write(&mut first, 1, 0xcc).expect("posted");
    let Completion::Failed(status) = completion(&mut first) else { panic!("it was taken") };
    assert!(matches!(status.cause(), DownCause::Refused(_)), "{status}");
    assert_eq!(ring_of(&second), [0; 64]);
}

#[test]
fn a_sleeper_is_told_of_a_write() {
    let Some(device) = device() else { return };
    let channel = Channel::new(&device).expect("a channel");
    let pair = |psn| QueuePair::new(&device, Some(&channel), &settings(), psn).expect("a pair");
    let (mut first, mut second) = (pair(1), pair(2));
    let (one, two) = (first.address(), second.address());
    first.connect(two, &settings()).expect("connected");
    second.connect(one, &settings()).expect("connected");
    assert!(!channel.take_notice());
    second.arm().expect("armed");
    write(&mut first, 1, 1).expect("posted");
    let mut found = [rustix::event::PollFd::new(&channel, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut found, Some(&patience)), Ok(1));
    assert!(channel.take_notice());
    assert_eq!(completion(&mut second), Completion::Landed { imm: 64 });
}

// ---- whole links, agreed on over TCP ----

/// Where nodes are called; it does not wait.
fn door() -> TcpListener {
    let door = TcpListener::bind("127.0.0.1:0").expect("a port");
    door.set_nonblocking(true).expect("a listener");
    door
}

/// Who has called, on a socket that does not wait.
fn called(door: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    let (stream, peer) = door.accept().ok()?;
    stream.set_nonblocking(true).expect("a socket");
    Some((stream, peer))
}

/// The hello of a caller, once it is there.
fn said(stream: &mut TcpStream) -> Option<Hello> {
    let mut bytes = [0; HELLO_BYTES];
    let is_whole = stream.peek(&mut bytes).is_ok_and(|found| found == HELLO_BYTES);
    is_whole.then(|| {
        stream.read_exact(&mut bytes).expect("a hello");
        Hello::decode(&bytes).expect("a hello")
    })
}

/// What a node with a device offers that demands nothing.
fn both() -> Transports {
    Transports::TCP.with(Transports::RDMA)
}

/// A node with one core.
struct Node {
    number: u16,
    links: Links,
    driver: RdmaLinks,
    door: TcpListener,
    callers: Vec<(TcpStream, SocketAddr)>,
    seen: Vec<String>,
    up: Vec<LinkId>,
    received: u32,
}

impl Node {
    fn new(device: &Device, number: u16, cluster: u8) -> Self {
        Self::with(device, number, cluster, both(), settings())
    }

    fn with(
        device: &Device,
        number: u16,
        cluster: u8,
        transports: Transports,
        settings: RdmaSettings,
    ) -> Self {
        let expected = Expected {
            cluster: DirectoryId([cluster; 16]),
            node: NodeId(number),
            cores: 1,
            partitions: 4,
        };
        let mut config = RdmaLinkConfig::new(CoreId(0), expected, settings);
        config.transports = transports;
        config.hello_timeout = PATIENCE;
        config.connect_timeout = PATIENCE;
        let driver = RdmaLinks::new(device.clone(), config).expect("a driver");
        let links = Links::new(1 << 20);
        let (door, callers) = (door(), Vec::new());
        Self { number, links, driver, door, callers, seen: Vec::new(), up: Vec::new(), received: 0 }
    }

    /// As the driver of TCP does it: who has called and said hello is left to this one.
    fn accept(&mut self) {
        self.callers.extend(called(&self.door));
        for at in (0..self.callers.len()).rev() {
            let Some(hello) = said(&mut self.callers[at].0) else { continue };
            let (stream, peer) = self.callers.swap_remove(at);
            let carrier = Carrier::Rdma;
            self.links.adopt(Arrival { socket: stream.into(), peer, hello, carrier });
        }
    }

    fn hello(&self, to: u16, cluster: u8) -> Hello {
        Hello {
            cluster: DirectoryId([cluster; 16]),
            from: NodeId(self.number),
            to: NodeId(to),
            from_core: CoreId(0),
            to_core: CoreId(0),
            cores: 1,
            partitions: 4,
            message_bytes_max: 1 << 20,
            transports: Transports::RDMA,
            directory: DirectoryTag::default(),
            rdma: RdmaEnd::default(),
        }
    }

    fn turn(&mut self, cluster: u8) {
        self.accept();
        let Self { links, driver, seen, up, received, number, .. } = self;
        let mut answers = Vec::new();
        driver.deliver(links, 100, &mut |_, event| match event {
            LinkEvent::Greeted { link, hello, .. } => answers.push((link, hello.from)),
            LinkEvent::Up { link, .. } => up.push(link),
            LinkEvent::Received { message: came, .. } => {
                assert_eq!(came, message(came.len(), *received), "node {number}");
                *received += 1;
            }
            LinkEvent::TurnedAway { cause, .. } => seen.push(format!("turned away: {cause:?}")),
            LinkEvent::Down { cause, .. } => seen.push(format!("down: {cause:?}")),
            LinkEvent::Records { .. } => panic!("node {number} was sent none"),
            LinkEvent::Room { .. } | LinkEvent::Elsewhere { .. } => {}
        });
        for (link, from) in answers {
            let hello = self.hello(from.0, cluster);
            self.links.answer(link, hello);
        }
        self.driver.carry_out(&mut self.links);
    }
}

/// Two nodes with a link between them, dialed by the first.
fn linked(device: &Device) -> (Node, Node) {
    let (mut one, mut two) = (Node::new(device, 1, 1), Node::new(device, 2, 1));
    let address = two.door.local_addr().expect("bound");
    one.links.connect(address, one.hello(2, 1)).expect("a slot");
    until("the link", || {
        one.turn(1);
        two.turn(1);
        !one.up.is_empty() && !two.up.is_empty()
    });
    (one, two)
}

#[test]
fn links_carry_messages_until_they_are_revoked() {
    let Some(device) = device() else { return };
    let (mut one, mut two) = linked(&device);
    let mut sent = 0;
    until("a thousand messages", || {
        while sent < 1000
            && one
                .links
                .send(one.up[0], &message(24 + 8 * (sent as usize % 50), sent), None)
                .is_ok()
        {
            sent += 1;
        }
        one.turn(1);
        two.turn(1);
        two.received == 1000
    });
    two.links.revoke(two.up[0]);
    until("the revocation", || {
        two.turn(1);
        !two.seen.is_empty()
    });
    assert_eq!(two.seen, [format!("down: {:?}", LinkDown::Revoked)]);
    until("the other end", || {
        one.turn(1);
        !one.seen.is_empty()
    });
    assert!(one.seen[0].starts_with("down: "), "{:?}", one.seen);
    assert_eq!(two.received, 1000);
}

#[test]
fn the_end_of_a_node_is_noticed_at_once() {
    let Some(device) = device() else { return };
    let (mut one, two) = linked(&device);
    drop(two);
    until("the end", || {
        one.turn(1);
        !one.seen.is_empty()
    });
    assert_eq!(one.seen, [format!("down: {:?}", LinkDown::Ended)]);
}

/// Node 1 dials node 2, which is only a door: the dial, the connection and its hello, or the command by which it is left to TCP.
fn dialed(
    one: &mut Node,
    door: &TcpListener,
) -> Result<(LinkId, TcpStream, Hello), Box<LinkCommand>> {
    let address = door.local_addr().expect("bound");
    let hello = Hello { transports: both(), ..one.hello(2, 1) };
    let link = one.links.connect(address, hello).expect("a slot");
    let (mut caller, mut found, mut left) = (None, None, Vec::new());
    until("the hello", || {
        one.turn(1);
        one.links.take_commands_of(Carrier::Tcp, &mut left);
        caller = caller.take().or_else(|| called(door));
        found = caller.as_mut().and_then(|(stream, _)| said(stream));
        found.is_some() || !left.is_empty()
    });
    if let Some(command) = left.pop() {
        return Err(Box::new(command));
    }
    let (Some((stream, _)), Some(theirs)) = (caller, found) else { unreachable!() };
    assert_eq!(theirs.transports, both());
    Ok((link, stream, theirs))
}

/// What node 2 answers to that hello.
fn answer_to(theirs: Hello, transports: Transports, rdma: RdmaEnd) -> Hello {
    let (from, to, directory) = (NodeId(2), NodeId(1), DirectoryTag::default());
    Hello { from, to, transports, directory, rdma, ..theirs }
}

/// What node 1 makes of it when node 2 answers with this.
fn answered(device: &Device, transports: Transports, cluster: u8) -> (Node, LinkId, TcpStream) {
    let (mut one, door) = (Node::new(device, 1, 1), door());
    let (link, mut stream, theirs) = dialed(&mut one, &door).expect("a dial over verbs");
    let answer = answer_to(theirs, transports, RdmaEnd::default());
    let answer = Hello { cluster: DirectoryId([cluster; 16]), ..answer };
    stream.write_all(&answer.encode()).expect("sent");
    (one, link, stream)
}

#[test]
fn an_answer_that_says_tcp_leaves_the_connection_to_tcp() {
    let Some(device) = device() else { return };
    let (mut one, link, _stream) = answered(&device, Transports::TCP, 1);
    let mut commands = Vec::new();
    until("what is TCP's", || {
        one.turn(1);
        one.links.take_commands_of(Carrier::Tcp, &mut commands);
        !commands.is_empty()
    });
    let [LinkCommand::GoOn(dialed)] = commands.as_slice() else { panic!("{commands:?}") };
    assert_eq!((dialed.link, dialed.theirs.from), (link, NodeId(2)));
    assert_eq!(one.links.carrier(link), Some(Carrier::Tcp));
    assert!(one.seen.is_empty() && one.up.is_empty());
}

#[test]
fn an_answer_of_another_cluster_ends_the_dial() {
    let Some(device) = device() else { return };
    let (mut one, ..) = answered(&device, Transports::TCP, 9);
    until("the refusal", || {
        one.turn(1);
        !one.seen.is_empty()
    });
    assert_eq!(one.seen, [format!("down: {:?}", LinkDown::Refused(Refused::Cluster))]);
}

/// The end of a queue pair with an address that no device has.
fn end_without_a_way(pair: &QueuePair) -> RdmaEnd {
    RdmaEnd { gid: [0; 16], ..RdmaEnd::from(&pair.address()) }
}

#[test]
fn a_peer_that_is_not_reached_over_verbs_is_dialed_over_tcp() {
    let Some(device) = device() else { return };
    // It is never connected, so that it discards what comes.
    let deaf = QueuePair::new(&device, None, &settings(), 7).expect("a queue pair");
    for has_way in [true, false] {
        let (mut one, door) = (Node::new(&device, 1, 1), door());
        for _ in 0..3 {
            let (_, mut stream, theirs) = dialed(&mut one, &door).expect("a dial over verbs");
            let end =
                if has_way { RdmaEnd::from(&deaf.address()) } else { end_without_a_way(&deaf) };
            let answer = answer_to(theirs, Transports::RDMA, end);
            stream.write_all(&answer.encode()).expect("sent");
            until("the link, or the end of the dial", || {
                one.turn(1);
                !one.up.is_empty() || !one.seen.is_empty()
            });
            assert_eq!(one.up.len(), usize::from(has_way), "{:?}", one.seen);
            if let Some(link) = one.up.first() {
                one.links.send(*link, &message(24, 0), None).expect("room");
            }
            let found = ended(&mut one);
            let silent = format!("down: {:?}", LinkDown::Error(libc::ETIMEDOUT));
            assert!(found == silent || !has_way, "{found}");
        }
        let address = door.local_addr().expect("bound");
        let left = dialed(&mut one, &door).expect_err("a dial over TCP");
        assert!(matches!(*left, LinkCommand::Connect { address: to, .. } if to == address));
        assert_eq!(one.driver.take_fallen().collect::<Vec<_>>(), [Fallen::Dialed(address)]);
    }
}

#[test]
fn a_peer_that_turns_calls_away_is_dialed_over_verbs_again() {
    let Some(device) = device() else { return };
    let (mut one, door) = (Node::new(&device, 1, 1), door());
    for _ in 0..4 {
        let (_, stream, _) = dialed(&mut one, &door).expect("a dial over verbs");
        drop(stream);
        assert_eq!(ended(&mut one), format!("down: {:?}", LinkDown::TurnedAway));
    }
    assert_eq!(one.driver.take_fallen().count(), 0);
}

/// Node 1, whose queue pair is never connected, so that it discards what comes.
struct DeafCaller {
    stream: TcpStream,
    _pair: QueuePair,
    /// None: its call was left to TCP, or turned away.
    answer: Option<Hello>,
}

impl DeafCaller {
    fn call(device: &Device, two: &mut Node) -> Self {
        Self::call_as(device, two, |pair| RdmaEnd::from(&pair.address()))
    }

    /// Its hello says `end` of its queue pair.
    fn call_as(device: &Device, two: &mut Node, end: impl FnOnce(&QueuePair) -> RdmaEnd) -> Self {
        let pair = QueuePair::new(device, None, &settings(), 7).expect("a queue pair");
        let rdma = end(&pair);
        let (from, to, transports) = (NodeId(1), NodeId(2), both());
        let hello = Hello { from, to, transports, rdma, ..two.hello(2, 1) };
        let door = two.door.local_addr().expect("bound");
        let mut stream = TcpStream::connect(door).expect("connected");
        stream.write_all(&hello.encode()).expect("sent");
        stream.set_nonblocking(true).expect("a socket");
        let (mut answer, mut left) = (None, Vec::new());
        until("what becomes of a call", || {
            two.turn(1);
            two.links.take_commands_of(Carrier::Tcp, &mut left);
            answer = said(&mut stream);
            answer.is_some() || !left.is_empty() || !two.seen.is_empty()
        });
        if let Some(command) = left.first() {
            let LinkCommand::Adopt(arrival) = command else { panic!("{command:?}") };
            assert_eq!((arrival.carrier, arrival.hello), (Carrier::Tcp, hello));
        }
        Self { stream, _pair: pair, answer }
    }

    /// A link over verbs on which node 2 has posted a write.
    fn with_link(device: &Device, two: &mut Node) -> Self {
        let mut caller = Self::call(device, two);
        assert_eq!(caller.answer.map(|hello| hello.transports), Some(Transports::RDMA));
        caller.stream.write_all(&[1]).expect("ready");
        until("the link", || {
            two.turn(1);
            !two.up.is_empty()
        });
        two.links.send(two.up[0], &message(24, 0), None).expect("room");
        two.turn(1);
        caller
    }
}

fn ended(two: &mut Node) -> String {
    until("the end of the link", || {
        two.turn(1);
        !two.seen.is_empty()
    });
    two.up.clear();
    two.seen.remove(0)
}

#[test]
fn who_calls_and_is_not_reached_over_verbs_is_left_to_tcp_unless_rdma_is_demanded() {
    let Some(device) = device() else { return };
    for transports in [both(), Transports::RDMA] {
        let mut two = Node::with(&device, 2, 1, transports, settings());
        for _ in 0..3 {
            let _caller = DeafCaller::with_link(&device, &mut two);
            assert_eq!(ended(&mut two), format!("down: {:?}", LinkDown::Error(libc::ETIMEDOUT)));
        }
        assert_eq!(two.driver.take_fallen().collect::<Vec<_>>(), [Fallen::Accepted(NodeId(1))]);
        let answered = DeafCaller::call(&device, &mut two).answer.map(|hello| hello.transports);
        let demanded = (transports == Transports::RDMA).then_some(Transports::RDMA);
        assert_eq!(answered, demanded);
    }
}

#[test]
fn who_calls_from_an_address_that_is_not_reached_is_left_to_tcp() {
    let Some(device) = device() else { return };
    let mut two = Node::new(&device, 2, 1);
    for _ in 0..3 {
        let caller = DeafCaller::call_as(&device, &mut two, end_without_a_way);
        assert_eq!(caller.answer, None);
        let found = ended(&mut two);
        assert!(found.starts_with("down: Error"), "{found}");
    }
    assert_eq!(two.driver.take_fallen().collect::<Vec<_>>(), [Fallen::Accepted(NodeId(1))]);
    assert_eq!(DeafCaller::call(&device, &mut two).answer, None);
}

/// A node that gives up a write after half a minute.
fn patient(device: &Device) -> Node {
    let settings = RdmaSettings { ack_timeout: 20, retries: 7, ..settings() };
    Node::with(device, 2, 1, both(), settings)
}

#[test]
fn links_that_a_node_has_revoked_itself_say_nothing_of_the_way() {
    let Some(device) = device() else { return };
    let mut two = patient(&device);
    for _ in 0..4 {
        let _caller = DeafCaller::with_link(&device, &mut two);
        two.links.revoke(two.up[0]);
        assert_eq!(ended(&mut two), format!("down: {:?}", LinkDown::Revoked));
    }
    assert_eq!(two.driver.take_fallen().count(), 0);
}

#[test]
fn links_that_the_peer_has_ended_before_a_write_was_confirmed_say_nothing_of_the_way() {
    let Some(device) = device() else { return };
    let mut two = patient(&device);
    for _ in 0..4 {
        drop(DeafCaller::with_link(&device, &mut two));
        assert_eq!(ended(&mut two), format!("down: {:?}", LinkDown::Ended));
    }
    assert_eq!(two.driver.take_fallen().count(), 0);
}

#[test]
fn a_core_sleeps_on_one_descriptor() {
    let Some(device) = device() else { return };
    let (mut one, mut two) = linked(&device);
    until("nothing to do", || {
        two.turn(1);
        one.turn(1);
        two.driver.prepare_sleep()
    });
    let mut found = [rustix::event::PollFd::new(&two.driver, rustix::event::PollFlags::IN)];
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut found, Some(&at_once)), Ok(0), "{:?}", two.driver.as_fd());
    one.links.send(one.up[0], &message(24, 0), None).expect("room");
    one.turn(1);
    let mut found = [rustix::event::PollFd::new(&two.driver, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut found, Some(&patience)), Ok(1));
    until("the message", || {
        two.turn(1);
        two.received == 1
    });
}
