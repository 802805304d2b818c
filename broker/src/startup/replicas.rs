//! The replicas of a node: its logs opened, and what each core needs to follow with them.
//!
//! Records behind a partition's newest checkpoint are read for good order alone: which of them count
//! shows once a majority is heard, so that the state is that of the checkpoint.

use super::StartError;
use super::checkpoints::{self, PartitionReplay};
use super::learn::{self, InPlace, LearnError};
use super::logs::{LogFacts, RecoveredLog, Replay, recover_all};
use super::manifest::DataDirectory;
use super::plan::Plan;
use crate::clock::unix_ms_now;
use crate::cluster::boottime::boottime;
use crate::cluster::files::LogPlace;
use crate::config::{Config, MemberConfig, StreamConfig, StreamLevel};
use crate::durable::Recovery;
use crate::replicated::control_mail::ToControl;
use crate::replicated::setup::{ClusterSetup, ReplicaSetup, host_tag};
use crate::service::CoreSetup;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::{CoreId, NodeId, PartitionId};
use ringlane_dataplane::log::epoch_table::{FoundEpochs, KnownEpochs, epoch_table};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::recovery::{Recovered, ReplayFrom};
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::writer::BATCH_BYTES_MAX;
use ringlane_dataplane::replication::election;
use ringlane_dataplane::replication::epochs::EpochTable;
use ringlane_dataplane::replication::hello::{DirectoryTag, Hello, RdmaEnd, Transports};
use ringlane_dataplane::replication::message::Claim;
use ringlane_dataplane::replication::replica::{Opened, READ_BYTES_MAX};
use ringlane_dataplane::replication::wire::{HEAD_BYTES_MAX, MESSAGE_BYTES_MAX};
use ringlane_transport_uring::StdFiles;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Bytes of records that a follower takes of a partition before they are flushed.
const WINDOW_BYTES: u64 = 4 << 20;
/// Bytes that wait on a link, unless one message is longer.
const ROOM_BYTES: usize = 8 << 20;
/// A takeover that has come to nothing in so many times the silence that is borne, and in so long, is given up.
const CAMPAIGN_SILENCES: u32 = 10;
const CAMPAIGN_LEAST: Duration = Duration::from_secs(3);

/// A log that is opened and not replayed.
struct Unapplied(PartitionReplay);

impl Replay for Unapplied {
    fn from(&self) -> Option<ReplayFrom> {
        self.0.recovery.replay_from()
    }

    fn on_record(&mut self, _: &Record<'_>) {}
}

/// Recovers all logs, and gives each core the replicas of its partitions.
///
/// # Errors
/// A log that cannot be opened, with what to do.
pub(super) fn open(
    plan: &Plan,
    data: &DataDirectory,
    setups: &mut [CoreSetup],
    transports: Transports,
    to_control: &mpsc::Sender<ToControl>,
) -> Result<(LogFacts, Vec<LogPlace>), StartError> {
    let partitions = data.manifest.partitions;
    let facts = LogFacts::new(&plan.config, data)?;
    let recovered = recover_all(data, |partition, directory| {
        let owner = LogOwner { directory: DirectoryId(data.manifest.id), partition };
        go_on_learning(&facts, partition, directory, partitions)?;
        checkpoints::newest(&StdFiles, directory, &owner, partitions).map(Unapplied)
    })?;
    let peers = peers(&plan.config);
    let (begun, mut epochs, mut segments_read) = (Instant::now(), 0, 0);
    let mut places = Vec::new();
    let mut replicas: Vec<Vec<ReplicaSetup>> = setups.iter().map(|_| Vec::new()).collect();
    for log in recovered {
        let owner = setups[0].placement.owner(log.partition).index();
        let (place, replica, read) = give(data, &facts, &mut setups[owner], log)?;
        segments_read += read;
        epochs += replica.opened.epochs.starts().len();
        places.push(place);
        replicas[owner].push(replica);
    }
    info!(epochs, segments_read, took = ?begun.elapsed(), "epochs of the logs found");
    let is_quorum_memory = |stream: &StreamConfig| stream.level == StreamLevel::QuorumMemory;
    let counts_memory = plan.config.streams().iter().any(is_quorum_memory);
    for (setup, replicas) in setups.iter_mut().zip(replicas) {
        setup.cluster = Some(ClusterSetup {
            hello: Hello {
                from_core: setup.core,
                to_core: setup.core,
                cores: setup.cores,
                transports,
                ..hello(&plan.config, data, &facts)
            },
            peers: peers.clone(),
            retry: plan.config.replication.suspect_after / 2,
            room_bytes: ROOM_BYTES,
            election: election(&plan.config, setup.seed),
            epoch: data.manifest.epoch,
            window_bytes: WINDOW_BYTES,
            checkpoint_size: plan.config.commit_log.checkpoint_size,
            counts_memory,
            boottime,
            replicas,
            may_lead: true,
            to_control: to_control.clone(),
        });
    }
    Ok((facts, places))
}

/// Puts a checkpoint in place that had come whole before the node ended.
fn go_on_learning(
    facts: &LogFacts,
    partition: PartitionId,
    directory: &Path,
    partitions: u32,
) -> Result<(), StartError> {
    let setup = facts.with_new_secret()?.setup(partition, directory.to_owned(), 0, 0);
    let found = learn::put_in_place(&mut StdFiles, &setup, partitions, unix_ms_now());
    let failed =
        |error: LearnError| StartError::Learn { partition: partition.0, error: error.into() };
    if let Some(InPlace { start, .. }) = found.map_err(failed)? {
        info!(
            partition = partition.0,
            offset = start.0,
            "a leader's checkpoint was put in place, as it was begun before"
        );
    }
    Ok(())
}

/// Gives a core a log, and says how the replica of it begins, and how many segments were read for its epochs.
fn give(
    data: &DataDirectory,
    facts: &LogFacts,
    setup: &mut CoreSetup,
    recovered: RecoveredLog<Unapplied>,
) -> Result<(LogPlace, ReplicaSetup, usize), StartError> {
    let RecoveredLog { partition, directory, log, replay: Unapplied(replay) } = recovered;
    let PartitionReplay { recovery, found } = replay;
    let epoch = data.manifest.epoch;
    if epoch < log.epoch {
        let (partition, found, known) = (partition.0, log.epoch, epoch);
        return Err(StartError::EpochLost { partition, found, known });
    }
    if recovery.applied().is_none() && log.log_start.0 > 0 {
        let begins = log.log_start.0;
        return Err(StartError::NoCheckpoint { partition: partition.0, directory, begins });
    }
    let known = recovery.known_epochs();
    let FoundEpochs { table, segments_read } =
        epochs(&StdFiles, partition, &directory, &log, &recovery, known.as_ref())?;
    let opened = Opened {
        reign: data.reign(),
        start: log.log_start,
        next: log.next_offset,
        epochs: table,
        // What it had acknowledged before it was emptied is gone.
        damage: data.is_learner().then_some(Claim::ALL),
    };
    setup.metrics.log_recovered_records.add(log.records);
    setup.metrics.log_torn_bytes.add(log.torn.as_ref().map_or(0, |torn| torn.bytes));
    let tag = host_tag(partition, setup.cores);
    let place = LogPlace { directory: directory.clone(), tag };
    setup.logs.push(facts.writer(partition, directory, &log, log.epoch, tag));
    let checkpoints = found.into_kept();
    Ok((place, ReplicaSetup { opened, recovery, checkpoints }, segments_read))
}

/// The epochs of a log, and that of the record before its first one, which its checkpoint knows. What that says of
/// them, `known`, is not read again.
///
/// # Errors
/// The log cannot be read again.
pub(crate) fn epochs<F: StartFiles + ?Sized>(
    files: &F,
    partition: PartitionId,
    directory: &Path,
    log: &Recovered,
    recovery: &Recovery,
    known: Option<&KnownEpochs>,
) -> Result<FoundEpochs, StartError> {
    let found = epoch_table(files, directory, log, known).map_err(|error| StartError::Reread {
        partition: partition.0,
        path: directory.to_owned(),
        message: format!(
            "{error}; the other nodes have what was there: this one can be started with an empty data_dir"
        ),
        errno: None,
    })?;
    let Some((epoch, first)) = recovery.epoch_before(log.log_start) else { return Ok(found) };
    let mut table = EpochTable::new();
    table.push(epoch, first);
    found.table.starts().iter().for_each(|start| table.push(start.epoch, start.first));
    Ok(FoundEpochs { table, ..found })
}

/// Bytes of the longest message that this node takes.
///
/// # Errors
/// What the data directory refuses.
pub(super) fn message_bytes_max(plan: &Plan, data: &DataDirectory) -> Result<u32, StartError> {
    Ok(longest(&LogFacts::new(&plan.config, data)?))
}

fn longest(facts: &LogFacts) -> u32 {
    let body = facts.record_bytes_max().max(u64::from(READ_BYTES_MAX)) + BATCH_BYTES_MAX;
    let message = body + HEAD_BYTES_MAX as u64;
    u32::try_from(message).map_or(MESSAGE_BYTES_MAX, |bytes| bytes.min(MESSAGE_BYTES_MAX))
}

/// What this node says; of which core is put in.
fn hello(config: &Config, data: &DataDirectory, facts: &LogFacts) -> Hello {
    let own = NodeId(config.cluster.node);
    Hello {
        cluster: DirectoryId(data.manifest.id),
        from: own,
        // Who it is for is put in.
        to: own,
        from_core: CoreId(0),
        to_core: CoreId(0),
        cores: 1,
        partitions: data.manifest.partitions,
        message_bytes_max: longest(facts),
        transports: Transports::TCP,
        directory: directory(data),
        rdma: RdmaEnd::default(),
    }
}

fn directory(data: &DataDirectory) -> DirectoryTag {
    data.manifest.member.as_ref().map(|member| member.instance.tag()).unwrap_or_default()
}

fn election(config: &Config, seed: u64) -> election::Setup {
    let replication = &config.replication;
    let mut members: Vec<NodeId> =
        config.cluster.members.iter().map(|member| NodeId(member.node)).collect();
    members.sort_unstable();
    election::Setup {
        node: NodeId(config.cluster.node),
        members,
        heartbeat_every: replication.heartbeat,
        suspect_after: replication.suspect_after,
        campaign_for: (replication.suspect_after * CAMPAIGN_SILENCES).max(CAMPAIGN_LEAST),
        seed,
    }
}

/// The other nodes, and where they are. One whose name is not known now is reached once it is: names are
/// looked up again while the cores run.
fn peers(config: &Config) -> Vec<(NodeId, SocketAddr)> {
    let others = config.cluster.members.iter().filter(|member| member.node != config.cluster.node);
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let address = |address: &str| address.to_socket_addrs().map(|mut found| found.next());
    let peer = |member: &MemberConfig| match address(&member.address) {
        Ok(Some(address)) => (NodeId(member.node), address),
        found => {
            let error = found.err().map(|error| error.to_string()).unwrap_or_default();
            warn!(
                node = member.node,
                address = member.address,
                error,
                "the address of a node cannot be resolved: it is not dialed until it can"
            );
            (NodeId(member.node), nowhere)
        }
    };
    others.map(peer).collect()
}
