//! A node: what survives the loss of its power, and its clock.

use crate::core::{Core, PARTITIONS};
use core::time::Duration;
use ringlane_dataplane::clock::Clock;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::disk::{Disk, FileDriver, StartFiles};
use ringlane_dataplane::ids::{NodeId, Offset, PartitionId};
use ringlane_dataplane::link::Links;
use ringlane_dataplane::link::memory::HostId;
use ringlane_dataplane::log::epoch_table::epoch_table;
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::recovery::{RecoverError, Recovered, recover};
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::segments::LogSetup;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::replication::epochs::EpochTable;
use ringlane_dataplane::replication::host::{HOST_TAGS, Host};
use ringlane_dataplane::replication::message::Claim;
use ringlane_dataplane::replication::reign::Reign;
use ringlane_dataplane::replication::replica::{Opened, Setup};
use ringlane_dataplane::time::Nanos;
use std::path::PathBuf;

/// The cluster, which is the identity of each node's directory.
pub const CLUSTER: DirectoryId = DirectoryId([0x5A; 16]);
/// Bytes of a segment: small, so that there are many.
const SEGMENT_BYTES: u64 = 64 * 1024;
/// Bytes of the longest record.
pub const RECORD_BYTES_MAX: u64 = 8 * 1024;
/// Bytes of records that a follower has not flushed, at most.
const WINDOW_BYTES: u64 = 48 * 1024;
/// Bytes that wait on a link, at most.
const ROOM_BYTES: usize = 96 * 1024;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its place in the network.
    pub host: HostId,
    /// What it has on disk.
    pub disk: MemoryDisk,
    /// Its clock.
    pub clock: Clock,
    /// What is gone with the power.
    pub core: Option<Core>,
    /// Its links, likewise.
    pub links: Links,
    /// How often it was started.
    pub starts: u32,
    /// What its logs held durably when its process ended, while there is none.
    held: Vec<(EpochTable, Offset)>,
    /// It stands still until then.
    pub paused_until: Nanos,
    /// What each completion of its disk takes at least.
    pub disk_delay: Duration,
    random: Random,
    /// Whether a stream has the level `quorum_memory`: then what only memory had counts at a takeover.
    counts_memory: bool,
}

/// What was found at a start.
#[derive(Clone, Copy, Default, Debug)]
pub struct Found {
    /// Torn tails that were cut.
    pub torn: u32,
    /// Logs that were damaged.
    pub damaged: u32,
}

impl Node {
    /// A node that has never been started.
    #[must_use]
    pub fn new(id: NodeId, host: HostId, counts_memory: bool, mut random: Random) -> Self {
        let clock = Clock::drawn(&mut random);
        Self {
            id,
            host,
            disk: MemoryDisk::shuffled(random.any()),
            clock,
            core: None,
            links: Links::new(ROOM_BYTES),
            starts: 0,
            held: Vec::new(),
            paused_until: Nanos(0),
            disk_delay: Duration::ZERO,
            random,
            counts_memory,
        }
    }

    /// Opens its logs, after any end.
    ///
    /// # Errors
    /// What nobody should find.
    pub fn start(&mut self, members: &[NodeId], now: Nanos) -> Result<Found, String> {
        self.starts += 1;
        self.links = Links::new(ROOM_BYTES);
        let mut found = Found::default();
        let mut replicas = Vec::new();
        for partition in 0..PARTITIONS {
            replicas.push(self.open(partition, members, &mut found)?);
        }
        let random = self.random.fork();
        let files = self.disk.clone();
        self.core = Some(Core::new(self.id, members, replicas, files, self.clock.at(now), random));
        Ok(found)
    }

    fn open(
        &mut self,
        partition: usize,
        members: &[NodeId],
        found: &mut Found,
    ) -> Result<(Host, Partition<u64>), String> {
        let reign = stored_reign(&self.disk, partition)?;
        let setup = log_setup(partition, reign.epoch, self.random.any());
        let owner = LogOwner { directory: CLUSTER, partition: setup.partition };
        let opened = open_log(&mut self.disk, &setup, &owner);
        let (recovered, epochs) = match opened {
            Ok(opened) => opened,
            Err(RecoverError::Io { path, error, .. }) => return Err(format!("{path:?}: {error}")),
            Err(_) => {
                found.damaged += 1;
                self.wipe(partition);
                (Recovered::default(), EpochTable::new())
            }
        };
        found.torn += u32::from(recovered.torn.is_some());
        let damage = self.disk.content(&damage_path(partition)).map(|_| Claim::ALL);
        let opened = Opened {
            reign,
            start: recovered.log_start,
            next: recovered.next_offset,
            epochs,
            damage,
        };
        let setup_of = Setup {
            node: self.id,
            partition: owner.partition,
            members: members.to_vec(),
            seed: owner.seed(),
            record_bytes_max: RECORD_BYTES_MAX,
            counts_memory: self.counts_memory,
            window_bytes: WINDOW_BYTES,
        };
        let setup = LogSetup { epoch: recovered.epoch, ..setup };
        let (start, tag) = (opened.start, setup.tag);
        let log = Partition::with_log(owner.partition, Writer::new(setup, recovered.log_end()));
        Ok((Host::new(setup_of, opened, start, tag), log))
    }

    /// A log in which something is missing is given up; a note says so until it is whole again.
    fn wipe(&mut self, partition: usize) {
        self.disk.put(&damage_path(partition), b"damaged");
        let directory = directory_of(partition);
        let paths = self.disk.paths().into_iter().filter(|path| path.starts_with(&directory));
        // A disk in memory removes what it is told to.
        let _removed = self.disk.clone().remove(&paths.collect::<Vec<_>>());
    }

    /// The power goes: whatever was not synced may be lost, in any order.
    pub fn crash(&mut self) {
        if let Some(core) = self.core.take() {
            let hosts = core.hosts.iter().zip(&core.partitions);
            let held = hosts.map(|(host, partition)| {
                (host.replica().epochs().clone(), partition.marks().flushed)
            });
            self.held = held.collect();
        }
        self.disk.crash(self.random.any());
    }

    /// What the disk was asked for ends, before the process does.
    pub fn end_disk_work(&mut self) {
        let mut nobody = Disk::new();
        while self.disk.in_flight() > 0 {
            self.disk.complete(&mut nobody, 64, &mut |_, _| {});
        }
    }

    /// Whether it has a record, durably if its process does not run.
    #[must_use]
    pub fn holds(&self, partition: usize, offset: u64, epoch: u64) -> bool {
        let (epochs, end) = match &self.core {
            Some(core) => {
                let replica = core.hosts[partition].replica();
                (replica.epochs(), replica.next_offset())
            }
            None => match self.held.get(partition) {
                Some((epochs, flushed)) => (epochs, *flushed),
                None => return false,
            },
        };
        offset < end.0 && epochs.epoch_before(Offset(offset + 1)) == Some(epoch)
    }

    /// Whether its disk may be found damaged now, or is.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        (0..PARTITIONS).any(|p| self.disk.content(&damage_path(p)).is_some())
    }
}

/// Opens a log, and finds its epochs.
///
/// # Errors
/// As [`recover`].
pub fn open_log(
    files: &mut MemoryDisk,
    setup: &LogSetup,
    owner: &LogOwner,
) -> Result<(Recovered, EpochTable), RecoverError> {
    let recovered = recover(files, &setup.directory, owner, None, &mut |_| {})?;
    let epochs = epoch_table(files, &setup.directory, &recovered, None)
        .map_err(|error| RecoverError::Io { what: "read", path: setup.directory.clone(), error })?;
    Ok((recovered, epochs.table))
}

/// What a log needs to know.
#[must_use]
pub fn log_setup(partition: usize, epoch: u64, secret: u64) -> LogSetup {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&secret.to_le_bytes());
    LogSetup {
        partition: PartitionId(partition as u32),
        directory: directory_of(partition),
        directory_id: CLUSTER,
        epoch,
        secret: bytes,
        segment_bytes: SEGMENT_BYTES,
        record_bytes_max: RECORD_BYTES_MAX,
        tag: (partition as u32 + 1) * HOST_TAGS,
    }
}

/// Where a partition's log is.
#[must_use]
pub fn directory_of(partition: usize) -> PathBuf {
    PathBuf::from(format!("/data/{partition}"))
}

/// Where a partition's epoch is.
#[must_use]
pub fn epoch_path(partition: usize) -> PathBuf {
    PathBuf::from(format!("/data/epoch-{partition}"))
}

/// Where it says that a partition's log is damaged.
#[must_use]
pub fn damage_path(partition: usize) -> PathBuf {
    PathBuf::from(format!("/data/damage-{partition}"))
}

/// A promise, as it is kept.
#[must_use]
pub fn reign_bytes(reign: &Reign) -> Vec<u8> {
    let numbers =
        [reign.epoch, reign.leader.map_or(0, |node| u64::from(node.0)), reign.memory_epoch];
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn stored_reign(disk: &MemoryDisk, partition: usize) -> Result<Reign, String> {
    let Some(bytes) = disk.content(&epoch_path(partition)) else { return Ok(Reign::default()) };
    let numbers: Vec<u64> =
        bytes.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number)).collect();
    let [epoch, leader, memory_epoch] = numbers[..] else {
        return Err("a manifest of another length".to_owned());
    };
    let leader = (leader > 0).then_some(NodeId(leader as u16));
    Ok(Reign { epoch, leader, memory_epoch })
}
