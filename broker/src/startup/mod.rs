//! From a configuration to a running node, and to its end.
//!
//! Everything that can be refused is refused before a core runs: CPUs, data directory, transport,
//! addresses. Then each core's thread pins itself and opens its driver; when all have done so they
//! start together, and the calling thread becomes the control thread.

pub mod affinity;
mod carriers;
pub(crate) mod checkpoints;
mod cluster;
mod core_driver;
pub(crate) mod learn;
mod life;
pub mod limits;
mod listeners;
pub mod logs;
pub mod manifest;
pub mod member;
mod metered;
mod plan;
pub(crate) mod replicas;
pub(crate) mod state;
mod threads;

use crate::cluster::membership::ClusterError;
use crate::config::Config;
use crate::control::{self, Control, ControlError, Desk, Doors};
use crate::logging::Logging;
use crate::service::{CoreSetup, RestoredState, log_tag};
use affinity::AffinityError;
pub(crate) use life::Life;
use life::{Ground, launch};
use logs::{LogFacts, RecoveredLog, recover_all};
use manifest::{DataDirectory, ManifestError};
use plan::Plan;
use ringlane_dataplane::disk::is_transient;
use ringlane_dataplane::ids::{CoreId, ENDPOINTS_MAX};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::recovery::RecoverError;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::routing::{Placement, default_partitions};
use ringlane_transport_uring::{StdFiles, TransportError};
use std::io;
use std::time::{Duration, Instant};
use thiserror::Error;
pub use threads::CoreThreads;
use tracing::{info, warn};
use tracing_appender::non_blocking::ErrorCounter;

/// The most cores a node can have: one mailbox endpoint is the control thread's.
pub const CORES_MAX: usize = ENDPOINTS_MAX - 1;

/// Why the node did not start, or ended by itself.
#[derive(Debug, Error)]
pub enum StartError {
    /// The CPUs that were asked for cannot be had.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDirectory(#[from] ManifestError),
    /// The log of a partition cannot be opened.
    #[error("partition {partition}: {error}")]
    Log {
        /// Its number.
        partition: u32,
        /// What is wrong, and what to do.
        error: Box<RecoverError>,
    },
    /// A log has a record of sessions that this release cannot read.
    #[error(
        "partition {partition}: offset {offset}: {message}; a later release wrote it: upgrade \
         ringlane, or start with an empty data_dir"
    )]
    State {
        /// The partition.
        partition: u32,
        /// Where the record is.
        offset: u64,
        /// What is wrong.
        message: String,
    },
    /// What a log says begins behind its beginning, and no checkpoint has what came before.
    #[error(
        "partition {partition}: {}: the log begins at offset {begins}, and no checkpoint can be \
         used that says what came before: its sessions and retained messages are not known. Put a \
         checkpoint of this log back from a backup, or give up what came before with `ringlane log \
         truncate-tail`",
        directory.display()
    )]
    NoCheckpoint {
        /// The partition.
        partition: u32,
        /// Where checkpoints are looked for.
        directory: std::path::PathBuf,
        /// The first offset that the log has.
        begins: u64,
    },
    /// A checkpoint that came from a leader cannot be put in place.
    #[error(
        "partition {partition}: {error}; it was to take the place of what is in the directory, which is not whole any \
         more: start this node with an empty data_dir, and it is filled from the others"
    )]
    Learn {
        /// The partition.
        partition: u32,
        /// What is wrong.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A log that was recovered could not be read again.
    #[error("partition {partition}: {}: {message}; check the disk", path.display())]
    Reread {
        /// The partition.
        partition: u32,
        /// The segment.
        path: std::path::PathBuf,
        /// What is wrong.
        message: String,
        /// The errno value, if the system said that (errno(3)).
        errno: Option<i32>,
    },
    /// The node cannot be one of its cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The manifest is behind a log.
    #[error(
        "partition {partition}: its log has records of epoch {found}, and the manifest knows none \
         above {known}: manifest.json was put back from a backup. Restore the whole data directory \
         from one backup, or start with an empty data_dir, which is then filled from the others"
    )]
    EpochLost {
        /// The partition.
        partition: u32,
        /// In the log.
        found: u64,
        /// In the manifest.
        known: u64,
    },
    /// No driver, or no listener.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// RDMA is demanded and cannot be had.
    #[error(
        "replication.transport is \"rdma\", and that cannot be had: {why}. See `ringlane doctor`, or set \
         replication.transport = \"auto\""
    )]
    NoRdma {
        /// Why not.
        why: String,
    },
    /// The control plane could not start.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A core could not start, or ended by itself.
    #[error("core {core}: {message}")]
    Core {
        /// Which one.
        core: CoreId,
        /// What happened.
        message: String,
    },
    /// A second signal came while clients were being told.
    #[error("left at once after a second signal")]
    Interrupted,
    /// Cores did not end in time.
    #[error("cores did not end within {waited:?}")]
    Stuck {
        /// How long they were waited for.
        waited: Duration,
    },
    /// A call that hardly ever fails did.
    #[error("cannot {what}: {error}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl StartError {
    /// Whether the configuration has to change.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Affinity(AffinityError::Kernel(_)) => false,
            Self::Affinity(_) | Self::Transport(TransportError::Config { .. }) => true,
            Self::Cluster(ClusterError::Metadata(_)) => false,
            Self::Cluster(_) => true,
            Self::EpochLost { .. } | Self::NoRdma { .. } => false,
            Self::DataDirectory(_) | Self::Log { .. } | Self::Transport(_) => false,
            Self::State { .. } | Self::Reread { .. } | Self::NoCheckpoint { .. } => false,
            Self::Learn { .. } => false,
            Self::Control(_) | Self::Core { .. } | Self::Interrupted => false,
            Self::Stuck { .. } | Self::System { .. } => false,
        }
    }

    /// Whether the host was short of something just then, which says nothing of what is on the disk.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Reread { errno: Some(errno), .. } if is_transient(*errno))
    }

    pub(crate) fn system(what: &'static str, error: io::Error) -> Self {
        Self::System { what, error }
    }
}

/// Where the node runs.
#[derive(Debug)]
struct Host {
    cpus: Vec<u32>,
    housekeeping: Vec<u32>,
    lines_dropped: ErrorCounter,
    started: Instant,
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// Why it did not start, or which core failed.
pub fn serve(config: &Config) -> Result<(), StartError> {
    let started = Instant::now();
    let allowed = affinity::allowed_cpus().map_err(AffinityError::Kernel)?;
    let online = affinity::online_cpus();
    let cpus = affinity::resolve(&config.runtime.cores, &allowed, &online, CORES_MAX)?;
    // Before any other thread starts, because threads inherit the affinity of their parent.
    let housekeeping = affinity::housekeeping(&allowed, &cpus);
    affinity::pin_current_thread(&housekeeping).map_err(AffinityError::Kernel)?;
    let logging = Logging::start(&config.log)
        .map_err(|error| StartError::system("start logging", io::Error::other(error)))?;
    let host = Host { cpus, housekeeping, lines_dropped: logging.dropped_lines(), started };
    if config.cluster.is_set() { cluster::serve(config, host) } else { serve_alone(config, host) }
}

/// Runs a node that is alone.
fn serve_alone(config: &Config, host: Host) -> Result<(), StartError> {
    let cores = host.cpus.len();
    let partitions_default = default_partitions(cores_u16(cores));
    let wanted = config.runtime.partitions;
    let mut data = DataDirectory::open(&config.data_dir, wanted, partitions_default)?;
    warn_of_idle_cores(data.manifest.partitions, cores);
    let plan = Plan::new(config, host)?;
    let listeners = listeners::open(config, cores)?;
    let http = control::bind(&config.control)?;
    let ctl = control::bind_ctl(&config.control, &config.data_dir)?;
    let address = http.as_ref().map(|(_, address)| *address);
    let ground = Ground {
        plan: &plan,
        transport: &plan.transport,
        listeners,
        control: address,
        status: None,
        rdma: None,
    };
    let life = launch(ground, &mut data, |data, setups| {
        if config.commit_log.enabled {
            return open_logs(config, data, setups);
        }
        warn!("commit_log.enabled = false: nothing survives the end of this process");
        Ok(())
    })?;
    let placement = placement(&data, cores);
    let runtime = control::runtime()?;
    let ended = runtime.block_on(async {
        let doors = Doors { http, ctl: ctl.map(|ctl| (ctl, placement)) };
        let mut desk = Desk::open(config, &life.node, doors)?;
        Control::new(config, life).run(&mut desk).await.map(|_| ())
    });
    // Connections of the control plane end here, before the process does.
    drop(runtime);
    ended.inspect(|()| info!("stopped"))
}

/// Who owns what on a node with so many cores.
fn placement(data: &DataDirectory, cores: usize) -> Placement {
    Placement::new(data.manifest.key, data.manifest.partitions, cores_u16(cores))
}

/// Recovers all logs, begins the new epoch, and gives each core the logs of its partitions.
fn open_logs(
    config: &Config,
    data: &mut DataDirectory,
    setups: &mut [CoreSetup],
) -> Result<(), StartError> {
    let partitions = data.manifest.partitions;
    let recovered = recover_all(data, |partition, directory| {
        let owner = LogOwner { directory: DirectoryId(data.manifest.id), partition };
        checkpoints::newest(&StdFiles, directory, &owner, partitions)
    })?;
    let highest = recovered.iter().map(|log| log.log.epoch).max().unwrap_or(0);
    let placement = setups[0].placement;
    let (recovered, node) = state::build(data, &placement, recovered, config)?;
    let facts = LogFacts::new(config, data)?;
    let epoch = data.begin_epoch(highest)?;
    let states = node.split(&placement, epoch);
    for (setup, state) in setups.iter_mut().zip(states) {
        setup.state = Some(RestoredState(state));
    }
    for RecoveredLog { partition, directory, log, replay } in recovered {
        let owner = setups[0].placement.owner(partition);
        let setup = &mut setups[owner.index()];
        setup.metrics.log_recovered_records.add(log.records);
        setup.metrics.log_torn_bytes.add(log.torn.as_ref().map_or(0, |torn| torn.bytes));
        let tag = log_tag(partition, setup.cores);
        if let Some(RestoredState(state)) = &mut setup.state {
            state.checkpoints.push(replay.into_kept());
        }
        setup.logs.push(facts.writer(partition, directory, &log, epoch, tag));
    }
    Ok(())
}

fn warn_of_idle_cores(partitions: u32, cores: usize) {
    if (partitions as usize) < cores {
        warn!(
            partitions,
            cores,
            "fewer partitions than cores: some cores will own no client; name fewer cores \
             (runtime.cores), or start with an empty data_dir and runtime.partitions = 0"
        );
    }
}

/// There are at most [`CORES_MAX`] cores.
fn cores_u16(cores: usize) -> u16 {
    u16::try_from(cores).unwrap_or(u16::MAX)
}
