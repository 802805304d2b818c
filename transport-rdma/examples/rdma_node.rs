//! A node of the soft-RoCE tests (tests/rdma): it replicates numbered messages over RDMA links and
//! tells what it sees, one JSON object per line.
//!
//!     rdma_node NODE FACTOR ADDRESS...      NODE is its number, from 1; ADDRESS are those of all nodes
//!
//! It stands in for the replication that the broker does, with the same rules in small: a message
//! carries the epoch of its leader and its number; a follower takes what is next, refuses an older
//! epoch, and says up to where it has come. What a message holds follows from its number, so that
//! every byte is checked. Commands come by standard input:
//!
//!     lead EPOCH COUNT   dial the others and bring them to COUNT messages
//!     fence EPOCH        revoke every link, obey nothing older than EPOCH
//!     have COUNT         begin with that many, as a node that comes back with its log
//!     hold | go          stop and go on taking what has come, as a core that is stuck
//!     status             say what there is
//!     quit

#![expect(clippy::print_stdout, reason = "its output is what the tests read")]

use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::link::{LinkDriver, LinkEvent, LinkId, Links};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::replication::hello::{Expected, Hello, RdmaEnd, Transports};
use ringlane_transport_rdma::{Device, RdmaLinkConfig, RdmaLinks, RdmaSettings, choose, devices};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// Kinds of messages, in the field where the replication has its own.
const DATA: u16 = 100;
const NEXT: u16 = 101;
const HEARTBEAT: u16 = 102;
/// Bytes of what a message begins with: length, zero, kind, 0, zero, epoch, number.
const HEAD_BYTES: usize = 32;
const BODY_BYTES: usize = 256;
/// Bytes that wait on a link at most, and of a ring: small, so that credits matter.
const ROOM_BYTES: usize = 128 * 1024;
const RING_BYTES: u32 = 256 * 1024;
/// Events per turn.
const EVENTS_MAX: usize = 512;

fn message(kind: u16, epoch: u64, number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEAD_BYTES + body.len()) as u32).to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(kind.to_le_bytes());
    bytes.extend([0; 6]);
    bytes.extend(epoch.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn body(number: u64) -> [u8; BODY_BYTES] {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    core::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A link that is up.
#[derive(Clone, Copy)]
struct Peer {
    node: NodeId,
    link: LinkId,
    /// Of a leader: the next number to send to it; none before it has said where it is.
    next: Option<u64>,
    /// Of a leader: up to here it has taken.
    taken: u64,
}

struct Node {
    number: NodeId,
    addresses: Vec<SocketAddr>,
    factor: u32,
    /// The newest epoch that it obeys.
    epoch: u64,
    /// What it has taken, or, as a leader, has.
    next: u64,
    /// As a leader: its epoch and what it is to come to.
    leads: Option<(u64, u64)>,
    peers: Vec<Peer>,
    /// Nodes that were dialed and are not up, and when to dial them again.
    dials: Vec<(NodeId, Option<LinkId>, Instant)>,
    is_held: bool,
    /// When the next heartbeat goes out: without one nobody notices that an idle peer is gone.
    beats_at: Instant,
    /// Messages of an older epoch that came: refused, all of them.
    stale: u64,
    said_done: u64,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let number = arguments.next().and_then(|text| text.parse().ok()).expect("NODE");
    let factor: u32 = arguments.next().and_then(|text| text.parse().ok()).expect("FACTOR");
    let addresses: Vec<SocketAddr> =
        arguments.map(|text| text.parse().expect("an address")).collect();
    let settings = RdmaSettings {
        ring_bytes: RING_BYTES,
        stage_bytes: RING_BYTES,
        // One more doubles the time: 4.096 us times 2^14, times four tries, is 268 ms.
        ack_timeout: 14 + (factor.max(1).ilog2() as u8).min(4),
        ..RdmaSettings::default()
    };
    let place = choose(&devices().devices, &settings).expect("a place on a device");
    let device = Device::open(&place).expect("the device");
    let mut config = RdmaLinkConfig::new(CoreId(0), expected(number), settings);
    config.listen = Some(addresses[usize::from(number) - 1]);
    config.hello_timeout = Duration::from_secs(2) * factor;
    config.connect_timeout = Duration::from_secs(1) * factor;
    config.dial_timeout = Duration::from_secs(2) * factor;
    let mut driver = RdmaLinks::new(device, config).expect("links");
    let at = format!("{} port {}, address {}", place.device, place.port, place.gid_index);
    println!("{{\"event\":\"ready\",\"node\":{number},\"place\":\"{at}\"}}");
    let node = Node {
        number: NodeId(number),
        addresses,
        factor,
        epoch: 0,
        next: 0,
        leads: None,
        peers: Vec::new(),
        dials: Vec::new(),
        is_held: false,
        beats_at: Instant::now(),
        stale: 0,
        said_done: 0,
    };
    run(node, &mut driver, &commands());
}

fn expected(number: u16) -> Expected {
    Expected { cluster: DirectoryId([7; 16]), node: NodeId(number), cores: 1, partitions: 4 }
}

/// Lines of standard input, read by a thread of their own.
fn commands() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn run(mut node: Node, driver: &mut RdmaLinks, commands: &Receiver<String>) {
    let mut links = Links::new(ROOM_BYTES);
    loop {
        match commands.try_recv() {
            Ok(line) if line.trim() == "quit" => return,
            Ok(line) => node.command(line.trim(), &mut links, driver),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        let mut events = Vec::new();
        let mut count = 0;
        if !node.is_held {
            count = driver.deliver(&mut links, EVENTS_MAX, &mut |links, event| {
                node.on_event(links, &event, &mut events);
            });
        }
        for line in events {
            println!("{line}");
        }
        for (link, cause) in driver.take_causes() {
            println!("{{\"event\":\"cause\",\"link\":{},\"cause\":\"{cause}\"}}", link.slot);
        }
        node.dial(&mut links);
        node.beat(&mut links);
        count += node.send(&mut links);
        driver.carry_out(&mut links);
        let _ = std::io::stdout().flush();
        if count == 0 && (node.is_held || driver.prepare_sleep()) {
            let mut found = [rustix::event::PollFd::new(driver, rustix::event::PollFlags::IN)];
            let nap = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let watched = if node.is_held { &mut [][..] } else { &mut found[..] };
            let _ = rustix::event::poll(watched, Some(&nap));
        }
    }
}

impl Node {
    fn command(&mut self, line: &str, links: &mut Links, driver: &RdmaLinks) {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match command {
            "lead" => {
                let (epoch, count) = (number(), number());
                self.lead(epoch, count);
            }
            "fence" => {
                let epoch = number();
                self.fence(epoch, links);
            }
            "have" => self.next = number(),
            "hold" => self.is_held = true,
            "go" => self.is_held = false,
            "status" => self.status(driver),
            other => println!("{{\"event\":\"unknown\",\"command\":\"{other}\"}}"),
        }
    }

    fn lead(&mut self, epoch: u64, count: u64) {
        self.epoch = epoch;
        self.leads = Some((epoch, count));
        self.next = self.next.max(count);
        self.said_done = 0;
        let others = 1..=self.addresses.len() as u16;
        let now = Instant::now();
        self.dials = others
            .map(NodeId)
            .filter(|node| *node != self.number && self.peers.iter().all(|p| p.node != *node))
            .map(|node| (node, None, now))
            .collect();
        for peer in &mut self.peers {
            peer.next.get_or_insert(peer.taken);
        }
    }

    fn fence(&mut self, epoch: u64, links: &mut Links) {
        self.epoch = self.epoch.max(epoch);
        self.leads = None;
        for peer in &self.peers {
            links.revoke(peer.link);
        }
        println!("{{\"event\":\"fenced\",\"epoch\":{},\"next\":{}}}", self.epoch, self.next);
    }

    fn status(&self, driver: &RdmaLinks) {
        let taken: Vec<String> =
            self.peers.iter().map(|peer| format!("\"{}\":{}", peer.node, peer.taken)).collect();
        println!(
            "{{\"event\":\"status\",\"next\":{},\"epoch\":{},\"stale\":{},\"taken\":{{{}}},\
             \"counters\":\"{:?}\"}}",
            self.next,
            self.epoch,
            self.stale,
            taken.join(","),
            driver.endpoint_counters()
        );
    }

    fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster: DirectoryId([7; 16]),
            from: self.number,
            to,
            from_core: CoreId(0),
            to_core: CoreId(0),
            cores: 1,
            partitions: 4,
            message_bytes_max: 1 << 20,
            transports: Transports::RDMA,
            rdma: RdmaEnd::default(),
        }
    }

    /// Dials those whose time has come, as long as it leads.
    fn dial(&mut self, links: &mut Links) {
        if self.leads.is_none() {
            return;
        }
        let now = Instant::now();
        for index in 0..self.dials.len() {
            let (node, link, at) = self.dials[index];
            if link.is_none() && at <= now {
                let address = self.addresses[usize::from(node.0) - 1];
                self.dials[index].1 = links.connect(address, self.hello(node));
            }
        }
    }

    fn on_event(&mut self, links: &mut Links, event: &LinkEvent<'_>, lines: &mut Vec<String>) {
        match event {
            LinkEvent::Greeted { link, hello, .. } => {
                links.answer(*link, self.hello(hello.from));
            }
            LinkEvent::Up { link, hello } => {
                lines.push(format!("{{\"event\":\"up\",\"peer\":{}}}", hello.from));
                self.dials.retain(|dial| dial.0 != hello.from);
                self.peers.push(Peer { node: hello.from, link: *link, next: None, taken: 0 });
                if self.leads.is_none() {
                    let next = message(NEXT, self.epoch, self.next, &[]);
                    let _sent = links.send(*link, &next, None);
                }
            }
            LinkEvent::Received { link, message } => self.on_message(links, *link, message),
            LinkEvent::Down { link, cause } => self.on_down(*link, &cause.to_string(), lines),
            LinkEvent::TurnedAway { cause, .. } => {
                lines.push(format!("{{\"event\":\"turned_away\",\"cause\":\"{cause}\"}}"));
            }
            LinkEvent::Room { .. } | LinkEvent::Elsewhere { .. } => {}
        }
        self.say_done(lines);
    }

    fn on_down(&mut self, link: LinkId, cause: &str, lines: &mut Vec<String>) {
        let again = Instant::now() + Duration::from_millis(100) * self.factor;
        let node = match self.peers.iter().position(|peer| peer.link == link) {
            Some(index) => {
                let node = self.peers.remove(index).node;
                lines.push(format!("{{\"event\":\"down\",\"peer\":{node},\"cause\":\"{cause}\"}}"));
                Some(node)
            }
            None => {
                let dial = self.dials.iter_mut().find(|dial| dial.1 == Some(link));
                dial.map(|dial| {
                    (dial.1, dial.2) = (None, again);
                    dial.0
                })
            }
        };
        // A leader dials a peer that it has lost; a follower waits to be dialed.
        if let Some(node) = node
            && self.leads.is_some()
            && self.dials.iter().all(|dial| dial.0 != node)
        {
            self.dials.push((node, None, again));
        }
    }

    fn on_message(&mut self, links: &mut Links, link: LinkId, bytes: &[u8]) {
        assert!(HEAD_BYTES <= bytes.len(), "a message of the test");
        let kind = u16::from_le_bytes([bytes[8], bytes[9]]);
        let (epoch, number) = (word(bytes, 16), word(bytes, 24));
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) else { return };
        match kind {
            DATA if epoch < self.epoch => self.stale += 1,
            DATA => {
                self.epoch = epoch;
                assert!(number <= self.next, "message {number} after {}", self.next);
                if number < self.next {
                    return;
                }
                assert_eq!(bytes[HEAD_BYTES..], body(number), "message {number} as it was sent");
                self.next += 1;
                if self.next.is_multiple_of(64) {
                    let next = message(NEXT, epoch, self.next, &[]);
                    let _sent = links.send(link, &next, None);
                }
            }
            NEXT => {
                peer.taken = peer.taken.max(number);
                peer.next.get_or_insert(number);
            }
            HEARTBEAT => {}
            other => panic!("a message of kind {other}"),
        }
    }

    fn beat(&mut self, links: &mut Links) {
        let now = Instant::now();
        if now < self.beats_at {
            return;
        }
        self.beats_at = now + Duration::from_millis(50) * self.factor;
        for peer in &self.peers {
            let _sent = links.send(peer.link, &message(HEARTBEAT, self.epoch, 0, &[]), None);
        }
    }

    /// Sends each peer what it lacks, as far as there is room; how much was sent.
    fn send(&mut self, links: &mut Links) -> usize {
        let Some((epoch, count)) = self.leads else { return 0 };
        let mut sent = 0;
        for peer in &mut self.peers {
            let Some(next) = &mut peer.next else { continue };
            while *next < count {
                let bytes = message(DATA, epoch, *next, &body(*next));
                if links.send(peer.link, &bytes, None).is_err() {
                    break;
                }
                *next += 1;
                sent += 1;
            }
        }
        sent
    }

    /// Says once when a majority, and when all, have what they were to come to.
    fn say_done(&mut self, lines: &mut Vec<String>) {
        let Some((epoch, count)) = self.leads else { return };
        let reached = count / 64 * 64;
        let have = self.peers.iter().filter(|peer| reached <= peer.taken).count() as u64;
        if self.said_done < have {
            self.said_done = have;
            lines.push(format!(
                "{{\"event\":\"done\",\"epoch\":{epoch},\"count\":{reached},\"followers\":{have}}}"
            ));
        }
    }
}
