//! What runs on a node: the replicas of all partitions with their logs, and the links to other nodes.
//!
//! All of it is the broker's own code but what joins it here, and the clients.

mod asks;
mod disk;
mod leading;
mod links;
mod publish;

pub use links::Weather;
pub use publish::{Publish, publish_of};

use crate::counters::Counter;
use crate::ledger::Mark;
use crate::trace::hash;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use disk::OwnJob;
use ringlane_dataplane::batch::BatchPool;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::disk::{Disk, FileDriver};
use ringlane_dataplane::ids::{NodeId, PartitionId};
use ringlane_dataplane::link::lanes::Lanes;
use ringlane_dataplane::link::{Body, Links, Unsent};
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::message::MessageMeter;
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::replication::election::{self, Election};
use ringlane_dataplane::replication::host::{Ask, Host, Outside, Turn};
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// Partitions of the cluster.
pub const PARTITIONS: usize = 2;
/// How often a node says that it lives, and for how long a leader may be silent.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(50);
const SUSPECT_AFTER: Duration = Duration::from_millis(300);
/// A takeover that takes longer is given up.
const CAMPAIGN_FOR: Duration = Duration::from_secs(2);

/// What a node has done that others have to know of.
#[derive(Debug)]
pub enum Output {
    /// A record below the high watermark: partition, offset, and what it says.
    Applied(usize, u64, Mark),
    /// Who published is answered: partition, offset, and the publish.
    Acknowledged(usize, u64, u64),
    /// It leads: partition, epoch, and the offset at which that begins.
    Leads(usize, u64, u64),
    /// It wants an epoch above this one.
    AskForEpoch(u64),
    /// Something was counted.
    Count(Counter),
    /// The high watermark of a partition, as this node knows it.
    Marks(usize, u64),
    /// It has led and does not any more: its state is of no use, and the process begins again.
    BeginsAgain,
    /// What never happens.
    Failed(String),
}

/// What runs.
#[derive(Debug)]
pub struct Core {
    node: NodeId,
    /// One for each partition.
    pub hosts: Vec<Host>,
    /// Likewise.
    pub partitions: Vec<Partition<u64>>,
    pool: BatchPool,
    disk: Disk,
    files: MemoryDisk,
    lanes: Lanes,
    election: Election,
    asks: VecDeque<(usize, Ask)>,
    /// By their token.
    jobs: Vec<(u64, OwnJob)>,
    again: Vec<(Nanos, OwnJob)>,
    jobs_given: u64,
    /// The epoch that it wants to lead in, or leads in.
    campaigns: Option<u64>,
    random: Random,
    was_full: Vec<bool>,
    pieces_read: Vec<u64>,
    was_corrupted: bool,
    /// Whether its state has become the live one.
    has_led: bool,
    /// What others have to know of.
    pub outputs: Vec<Output>,
}

/// The time, on the node's clock.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Its clock.
    pub now: Nanos,
    /// Its time of day.
    pub unix_ms: u64,
}

struct Around<'a> {
    partition: usize,
    links: &'a mut Links,
    lanes: &'a Lanes,
    asks: &'a mut VecDeque<(usize, Ask)>,
    outputs: &'a mut Vec<Output>,
}

impl Outside for Around<'_> {
    fn send(&mut self, to: NodeId, head: &[u8], body: Option<Body>) -> Result<(), Unsent> {
        let partition = PartitionId(self.partition as u32);
        let link = self.lanes.link_of(to, partition).ok_or(Unsent::NotUp)?;
        let sent = self.links.send(link, head, body);
        if sent == Err(Unsent::NoRoom) {
            self.outputs.push(Output::Count(Counter::NoRoom));
        }
        sent
    }

    fn ask(&mut self, ask: Ask) {
        self.asks.push_back((self.partition, ask));
    }

    fn apply(&mut self, record: &Record<'_>) {
        let mark = (record.head.epoch, mark_of(record.head.kind.0, record.payload));
        let offset = record.head.offset.0;
        self.outputs.push(Output::Applied(self.partition, offset, mark));
    }
}

/// What a record says, as a number.
#[must_use]
pub fn mark_of(kind: u8, payload: &[u8]) -> u64 {
    hash(payload) ^ u64::from(kind)
}

fn meter() -> &'static MessageMeter {
    static METER: OnceLock<&'static MessageMeter> = OnceLock::new();
    METER.get_or_init(MessageMeter::leaked)
}

/// Where a node accepts.
#[must_use]
pub fn address_of(node: NodeId) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, node.0 as u8), 7400))
}

impl Core {
    /// A node that has just been started.
    #[must_use]
    pub fn new(
        node: NodeId,
        members: &[NodeId],
        replicas: Vec<(Host, Partition<u64>)>,
        files: MemoryDisk,
        now: Nanos,
        mut random: Random,
    ) -> Self {
        let election = election::Setup {
            node,
            members: members.to_vec(),
            heartbeat_every: HEARTBEAT_EVERY,
            suspect_after: SUSPECT_AFTER,
            campaign_for: CAMPAIGN_FOR,
            seed: random.any(),
        };
        let (hosts, partitions): (Vec<_>, Vec<_>) = replicas.into_iter().unzip();
        let epochs = hosts.iter().map(|host| host.replica().epoch());
        let epoch = epochs.max().unwrap_or(0);
        Self {
            node,
            was_full: vec![false; hosts.len()],
            pieces_read: vec![0; hosts.len()],
            has_led: false,
            was_corrupted: false,
            hosts,
            partitions,
            pool: BatchPool::new(meter()),
            disk: Disk::new(),
            files,
            lanes: links::lanes(node, members),
            election: Election::new(election, epoch, now),
            asks: VecDeque::new(),
            jobs: Vec::new(),
            again: Vec::new(),
            jobs_given: 0,
            campaigns: None,
            random,
            outputs: Vec::new(),
        }
    }

    fn with_host<R>(
        &mut self,
        partition: usize,
        time: Time,
        links: &mut Links,
        call: impl FnOnce(&mut Host, &mut Turn<'_, u64>, &mut Around<'_>) -> R,
    ) -> R {
        let Self { hosts, partitions, pool, disk, lanes, asks, outputs, .. } = self;
        let Time { now, unix_ms } = time;
        let mut turn = Turn { now, unix_ms, pool, disk, partition: &mut partitions[partition] };
        let mut around = Around { partition, links, lanes, asks, outputs };
        call(&mut hosts[partition], &mut turn, &mut around)
    }

    fn with_all(
        &mut self,
        time: Time,
        links: &mut Links,
        mut call: impl FnMut(&mut Host, &mut Turn<'_, u64>, &mut Around<'_>),
    ) {
        for partition in 0..self.hosts.len() {
            self.with_host(partition, time, links, &mut call);
        }
    }

    /// The rest of a turn.
    pub fn end_turn(&mut self, links: &mut Links, time: Time) {
        self.elect(links, time);
        if self.lanes.next_tick() <= time.now {
            self.lanes.tick(time.now, links);
        }
        let due: Vec<_> = self.again.extract_if(.., |(at, _)| *at <= time.now).collect();
        due.into_iter().for_each(|(_, job)| self.give(job));
        for partition in 0..self.hosts.len() {
            self.commit(partition);
            self.with_host(partition, time, links, |host, turn, around| {
                host.end_turn(turn, around);
            });
            self.commit(partition);
            self.note_full(partition);
            self.note_reads(partition);
        }
        self.do_asks(links, time);
        self.files.clone().submit(&mut self.disk);
    }

    fn note_full(&mut self, partition: usize) {
        let is_full = self.partitions[partition].log().is_some_and(|log| log.full().is_some());
        if is_full && !self.was_full[partition] {
            self.outputs.push(Output::Count(Counter::DiskFull));
        }
        self.was_full[partition] = is_full;
    }

    fn note_reads(&mut self, partition: usize) {
        let read = self.hosts[partition].pieces_read();
        for _ in self.pieces_read[partition]..read {
            self.outputs.push(Output::Count(Counter::CatchUp));
        }
        self.pieces_read[partition] = read;
    }

    /// When the next turn is due without an event.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        let hosts = self.hosts.iter().zip(&self.partitions);
        let hosts = hosts.map(|(host, partition)| host.next_deadline(partition));
        let again = self.again.iter().map(|(at, _)| *at);
        let own = [self.election.next_deadline(), self.lanes.next_tick()];
        hosts.chain(again).chain(own).min().unwrap_or(Nanos::NEVER)
    }

    /// Whether the disk has something under way.
    #[must_use]
    pub fn uses_disk(&self) -> bool {
        self.files.in_flight() > 0
    }
}
