//! What the tests under load share: thousands of sockets on one thread, and the broker's memory.
//!
//! Environment:
//! - `RINGLANE_TEST_SCALE`: how many times the numbers of the short form; 1 if it is not set.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of this module, and none has a public interface"
)]

use crate::support::{Broker, Connect, Kind, Packet, Version, packets};
use ringlane_bench::link::LinkOptions;
use ringlane_bench::metrics_page::MetricsPage;
use ringlane_bench::process::Process;
use ringlane_bench::swarm::{Event, Leave, LinkId, Swarm};
use ringlane_dataplane::routing::Placement;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// How long a crowd waits for what must come. Reached only by a failing test.
pub const CROWD_PATIENCE: Duration = Duration::from_secs(60);

/// Sockets whose handshake is under way at once.
const PENDING_MAX: usize = 256;
const GLANCE: Duration = Duration::from_millis(10);

/// Writes a line that the runner shows beside a failure.
#[allow(clippy::print_stdout, reason = "a test's output is for the one who reads its failure")]
pub fn note(text: String) {
    println!("{text}");
}

/// `base`, or as many times that as `RINGLANE_TEST_SCALE` says.
pub fn scaled(base: usize) -> usize {
    let scale = std::env::var("RINGLANE_TEST_SCALE").ok().and_then(|text| text.parse().ok());
    base * scale.unwrap_or(1)
}

/// Many sockets on one thread, each sending and receiving any bytes.
pub struct Crowd {
    swarm: Swarm,
    address: SocketAddr,
    receive_buffer_bytes: Option<usize>,
    members: Vec<Member>,
    /// The member that a link belongs to, by the link's position.
    owners: Vec<usize>,
}

struct Member {
    link: LinkId,
    is_open: bool,
    is_closed: bool,
    input: Vec<u8>,
}

impl Crowd {
    pub fn new(address: SocketAddr) -> Self {
        let swarm = Swarm::new().expect("an epoll descriptor");
        let (members, owners) = (Vec::new(), Vec::new());
        Self { swarm, address, receive_buffer_bytes: None, members, owners }
    }

    /// Makes the receive buffers of sockets opened from now on small: readers that are soon full.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer_bytes = Some(bytes);
        self
    }

    /// Opens sockets that each send `first(index)` at once; returns when all of them stand, or
    /// are over already.
    pub fn open(&mut self, count: usize, first: impl Fn(usize) -> Vec<u8>) {
        let start = self.members.len();
        let options = LinkOptions {
            receive_buffer_bytes: self.receive_buffer_bytes,
            ..LinkOptions::raw(self.address)
        };
        while self.members.len() < start + count {
            let index = self.members.len();
            let link = self.swarm.open(&options).expect("a socket");
            self.swarm.send(link, &first(index));
            self.owners.resize(self.swarm.slots().max(self.owners.len()), usize::MAX);
            self.owners[link.index()] = index;
            let input = Vec::new();
            self.members.push(Member { link, is_open: false, is_closed: false, input });
            self.wait("sockets stand", |crowd| crowd.pending() < PENDING_MAX);
        }
        self.wait("all sockets stand", |crowd| crowd.pending() == 0);
    }

    /// Opens clients and waits until each has its CONNACK, which must say success.
    pub fn connect(&mut self, count: usize, connect: impl Fn(usize) -> Connect) {
        let version = connect(0).version;
        let start = self.members.len();
        self.open(count, |index| connect(index - start).encode());
        for index in start..start + count {
            let connack = self.next_packet(index, version);
            assert_eq!((connack.kind(), connack.reason()), (Kind::Connack, 0), "client {index}");
        }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn send(&mut self, index: usize, bytes: &[u8]) {
        self.swarm.send(self.members[index].link, bytes);
    }

    pub fn send_all(&mut self, bytes: impl Fn(usize) -> Vec<u8>) {
        for index in 0..self.members.len() {
            self.send(index, &bytes(index));
        }
    }

    /// Stops or resumes reading from a member's socket.
    pub fn pause(&mut self, index: usize, paused: bool) {
        self.swarm.pause(self.members[index].link, paused);
    }

    /// Ends a member's connection with a reset.
    pub fn reset(&mut self, index: usize) {
        self.swarm.close(self.members[index].link, Leave::Reset);
        self.members[index].is_closed = true;
    }

    /// Ends all connections with a reset and forgets the members.
    pub fn reset_all(&mut self) {
        (0..self.members.len()).for_each(|index| self.reset(index));
        self.members.clear();
        self.owners.fill(usize::MAX);
    }

    /// One turn: sends, receives.
    pub fn turn(&mut self) {
        let (members, owners) = (&mut self.members, &self.owners);
        self.swarm
            .poll(GLANCE, &mut |_, link, event| {
                let index = owners.get(link.index()).copied().unwrap_or(usize::MAX);
                let Some(member) = members.get_mut(index) else { return };
                match event {
                    Event::Opened => member.is_open = true,
                    Event::Bytes(bytes) => member.input.extend_from_slice(bytes),
                    Event::Closed(_) => (member.is_closed, member.is_open) = (true, true),
                    Event::Packet(_) | Event::Packets(_) | Event::Malformed(_) => {}
                }
            })
            .expect("the swarm works");
    }

    /// Turns until a condition holds.
    pub fn wait(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + CROWD_PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            self.turn();
        }
    }

    /// Turns until every member's connection was ended by the broker.
    pub fn wait_closed(&mut self) {
        self.wait("the broker has closed all", |crowd| crowd.closed() == crowd.len());
    }

    fn pending(&self) -> usize {
        self.members.iter().filter(|member| !member.is_open).count()
    }

    /// Connections that are over.
    pub fn closed(&self) -> usize {
        self.members.iter().filter(|member| member.is_closed).count()
    }

    pub fn is_closed(&self, index: usize) -> bool {
        self.members[index].is_closed
    }

    /// Bytes that came and were not taken.
    pub fn input(&self, index: usize) -> &[u8] {
        &self.members[index].input
    }

    /// Takes the whole packets that came.
    pub fn take_packets(&mut self, index: usize, version: Version) -> Vec<Packet> {
        let input = &mut self.members[index].input;
        let (mut packets, mut taken) = (Vec::new(), 0);
        while let Some((packet, bytes)) = Packet::parse(version, &input[taken..]) {
            packets.push(packet);
            taken += bytes;
        }
        input.drain(..taken);
        packets
    }

    /// Waits until each member has received this many bytes, or its connection is over.
    pub fn wait_bytes(&mut self, what: &str, bytes: usize) {
        self.wait(what, |crowd| {
            (0..crowd.len())
                .all(|index| crowd.is_closed(index) || crowd.input(index).len() >= bytes)
        });
    }

    /// Waits for a member's next packet and takes it.
    pub fn next_packet(&mut self, index: usize, version: Version) -> Packet {
        self.wait("a packet comes", |crowd| {
            crowd.is_closed(index) || Packet::parse(version, crowd.input(index)).is_some()
        });
        let input = &mut self.members[index].input;
        let (packet, bytes) = Packet::parse(version, input).expect("a packet before the end");
        input.drain(..bytes);
        packet
    }

    /// Sends PINGREQ on every open connection and waits for each PINGRESP, the last packet then
    /// in the input: what was sent before has been read. Not for a publish with QoS 1 or 2, whose
    /// answer waits for its commit and may follow.
    pub fn fence(&mut self) {
        let open: Vec<usize> = (0..self.len()).filter(|index| !self.is_closed(*index)).collect();
        for index in &open {
            self.send(*index, &packets::PINGREQ);
        }
        self.wait("every PINGRESP came", |crowd| {
            open.iter().all(|index| {
                crowd.is_closed(*index) || crowd.input(*index).ends_with(&[0xd0, 0x00])
            })
        });
    }
}

/// The memory of the broker, against what it was when the attack began.
pub struct Memory {
    process: Process,
    before: u64,
}

impl Memory {
    pub fn of(broker: &Broker) -> Self {
        let process = Process(broker.pid());
        Self { process, before: process.resident_bytes().expect("the broker lives") }
    }

    /// Bytes by which it has grown.
    pub fn growth(&self) -> u64 {
        let now = self.process.resident_bytes().expect("the broker lives");
        now.saturating_sub(self.before)
    }

    /// Fails if it has grown by more than `bytes_max`.
    pub fn assert_growth(&self, bytes_max: u64, what: &str) {
        let growth = self.growth();
        note(format!("{what}: memory grew by {} KiB of {} KiB", growth / KIB, bytes_max / KIB));
        assert!(growth <= bytes_max, "{what}: memory grew by {growth} bytes, not {bytes_max}");
    }
}

/// The broker's Prometheus page.
pub fn metrics(broker: &Broker) -> MetricsPage {
    MetricsPage::fetch(&format!("http://{}/metrics", broker.control)).expect("the metrics page")
}

/// Where a client's session lives, as the broker's manifest decides.
pub fn placement(broker: &Broker, cores: u16) -> Placement {
    let path = broker.data_dir().join("manifest.json");
    let text = std::fs::read_to_string(path).expect("the manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let digits = manifest["hash_key"].as_str().expect("the key");
    let key = u128::from_str_radix(digits, 16).expect("32 hexadecimal digits").to_be_bytes();
    let partitions = manifest["partitions"].as_u64().expect("the number of partitions");
    Placement::new(key, u32::try_from(partitions).expect("a small number"), cores)
}

/// Client identifiers that live on a core.
pub fn ids_on(placement: &Placement, core: u16, prefix: &str, count: usize) -> Vec<String> {
    let ids = (0..).map(|number| format!("{prefix}-{number}"));
    ids.filter(|id| placement.client_owner(id).0 == core).take(count).collect()
}
