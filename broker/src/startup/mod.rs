//! From a configuration to a running node, and to its end.
//!
//! Everything that can be refused is refused before a core runs: CPUs, data directory, transport,
//! addresses. Then each core's thread pins itself and opens its driver; when all have done so they
//! start together, and the calling thread becomes the control thread.

pub mod affinity;
pub(crate) mod checkpoints;
pub mod limits;
pub mod logs;
pub mod manifest;
pub mod member;
mod metered;
mod state;
mod threads;

use crate::clock::WallClock;
use crate::config::{Config, FileDriverSetting, IdleChoice, TransportSetting};
use crate::control::{self, Control, ControlError, CoreView, Doors, ListenerView, Node};
use crate::logging::Logging;
use crate::mail::Mail;
use crate::metrics::CoreMetrics;
use crate::replay::Room;
use crate::service::{CoreSetup, ListenerKind, RestoredState, Sizes, log_tag};
use affinity::AffinityError;
use logs::{LogFacts, RecoveredLog, recover_all};
use manifest::{DataDirectory, ManifestError};
use ringlane_dataplane::ids::{CoreId, ENDPOINTS_MAX, ListenerId};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::recovery::RecoverError;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::routing::Placement;
use ringlane_dataplane::routing::default_partitions;
use ringlane_dataplane::runtime::{CoreStats, Endpoint, Idle, Mesh};
use ringlane_transport_uring::{
    FileBackend, FileConfig, ListenSocket, TransportChoice, TransportConfig, TransportError,
    TransportKind, Wakers, bind, choose, probe,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use threads::CoreThread;
pub use threads::CoreThreads;
use tracing::{info, warn};

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
    /// A log that was recovered could not be read again.
    #[error("partition {partition}: {}: {message}; check the disk", path.display())]
    Reread {
        /// The partition.
        partition: u32,
        /// The segment.
        path: std::path::PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The configuration names a cluster.
    #[error(
        "cluster.members is set, and nodes do not replicate yet: a node that took clients would be \
         alone with what it acknowledged. Take the members out of the configuration; `ringlane \
         check-config`, `ringlane doctor` and `ringlane cluster` look at them"
    )]
    NoReplication,
    /// No driver, or no listener.
    #[error(transparent)]
    Transport(#[from] TransportError),
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
            Self::NoReplication => true,
            Self::DataDirectory(_) | Self::Log { .. } | Self::Transport(_) => false,
            Self::State { .. } | Self::Reread { .. } | Self::NoCheckpoint { .. } => false,
            Self::Control(_) | Self::Core { .. } | Self::Interrupted => false,
            Self::Stuck { .. } | Self::System { .. } => false,
        }
    }

    pub(crate) fn system(what: &'static str, error: io::Error) -> Self {
        Self::System { what, error }
    }
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// Why it did not start, or which core failed.
pub fn serve(config: &Config) -> Result<(), StartError> {
    let started = Instant::now();
    if config.cluster.is_set() {
        return Err(StartError::NoReplication);
    }
    let allowed = affinity::allowed_cpus().map_err(AffinityError::Kernel)?;
    let online = affinity::online_cpus();
    let cpus = affinity::resolve(&config.runtime.cores, &allowed, &online, CORES_MAX)?;
    // Before any other thread starts, because threads inherit the affinity of their parent.
    let housekeeping = affinity::housekeeping(&allowed, &cpus);
    affinity::pin_current_thread(&housekeeping).map_err(AffinityError::Kernel)?;
    let logging = Logging::start(&config.log)
        .map_err(|error| StartError::system("start logging", io::Error::other(error)))?;
    let partitions_default = default_partitions(cores_u16(cpus.len()));
    let wanted = config.runtime.partitions;
    let mut data = DataDirectory::open(&config.data_dir, wanted, partitions_default)?;
    warn_of_idle_cores(data.manifest.partitions, cpus.len());
    let host = Host { cpus: &cpus, housekeeping: &housekeeping, logging: &logging, started };
    let launched = launch(config, &host, &mut data)?;
    launched.control.run(launched.threads)
}

struct Launched {
    control: Control,
    threads: CoreThreads,
}

/// Where the node runs.
struct Host<'a> {
    cpus: &'a [u32],
    housekeeping: &'a [u32],
    logging: &'a Logging,
    started: Instant,
}

/// Opens everything and starts the cores.
fn launch(
    config: &Config,
    host: &Host<'_>,
    data: &mut DataDirectory,
) -> Result<Launched, StartError> {
    let Host { cpus, started, .. } = *host;
    let (descriptors, _) = limits::raise();
    let (kind, reason) = transport(config)?;
    let backend = file_backend(config, kind);
    let waits_awake = waits_awake(config, host);
    let transport_config = transport_config(config, backend, host.housekeeping, waits_awake);
    transport_config.validate()?;
    let listeners = open_listeners(config, cpus.len())?;
    let http = control::bind(&config.control)?;
    let ctl = control::bind_ctl(&config.control, &config.data_dir)?;
    let wakers = Wakers::new(cpus.len() + 1)
        .map_err(|error| StartError::system("make the wake-up descriptors", error))?;
    let slots = config.runtime.mailbox_slots as usize;
    let mut endpoints = Mesh::build::<Mail>(cpus.len() + 1, slots);
    let own = endpoints.pop().expect("a mesh has an endpoint per core and one more");
    let clock = WallClock::of_host();
    let mut setups = setups(config, cpus.len(), data, &listeners, descriptors.now, &clock)?;
    setups.iter_mut().for_each(|setup| setup.waits_awake = waits_awake);
    if config.commit_log.enabled {
        open_logs(config, data, &mut setups)?;
    } else {
        warn!("commit_log.enabled = false: nothing survives the end of this process");
    }
    let placement = setups[0].placement;
    let stats: Vec<Arc<CoreStats>> = cpus.iter().map(|_| Arc::default()).collect();
    let node = Arc::new(Node::new(control::NodeFacts {
        started,
        started_at: SystemTime::now() - started.elapsed(),
        transport: kind.to_string(),
        transport_reason: reason,
        partitions: data.manifest.partitions,
        data_dir: config.data_dir.clone(),
        listeners: listeners.iter().map(OpenListener::view).collect(),
        control: http.as_ref().map(|(_, address)| *address),
        cores: core_views(cpus, &setups, &stats),
        log_lines_dropped: host.logging.dropped_lines(),
    }));
    let cores = CoreParts {
        cpus,
        setups,
        stats,
        endpoints,
        listeners,
        wakers: wakers.clone(),
        stop_accepting: node.stop_accepting(),
    };
    let threads = start_cores(cores, kind, &transport_config, idle(config))?;
    let doors = Doors { http, ctl: ctl.map(|ctl| (ctl, placement)) };
    let control = Control::new(config, node, own, wakers, doors, clock);
    Ok(Launched { control, threads })
}

/// What the cores are made of, by core number.
struct CoreParts<'a> {
    cpus: &'a [u32],
    setups: Vec<CoreSetup>,
    stats: Vec<Arc<CoreStats>>,
    endpoints: Vec<Endpoint<Mail>>,
    listeners: Vec<OpenListener>,
    wakers: Wakers,
    stop_accepting: Arc<AtomicBool>,
}

fn start_cores(
    mut parts: CoreParts<'_>,
    kind: TransportKind,
    config: &TransportConfig,
    idle: Idle,
) -> Result<CoreThreads, StartError> {
    let mut threads = CoreThreads::new(parts.cpus.len());
    let cores = parts.cpus.iter().zip(parts.setups).zip(parts.stats).zip(parts.endpoints);
    for (((cpu, setup), stats), endpoint) in cores {
        let listeners = parts.listeners.iter_mut().enumerate();
        let listeners = listeners.filter_map(|(index, listener)| {
            let id = ListenerId(u16::try_from(index).ok()?);
            Some((id, listener.sockets.pop()?))
        });
        threads.spawn(CoreThread {
            cpu: *cpu,
            kind,
            config: config.clone(),
            listeners: listeners.collect(),
            wakers: parts.wakers.clone(),
            endpoint,
            idle,
            stats,
            setup,
            stop_accepting: Arc::clone(&parts.stop_accepting),
        })?;
    }
    threads.release()?;
    Ok(threads)
}

fn core_views(cpus: &[u32], setups: &[CoreSetup], stats: &[Arc<CoreStats>]) -> Vec<CoreView> {
    let cores = cpus.iter().zip(setups).zip(stats);
    cores
        .map(|((cpu, setup), stats)| CoreView {
            core: setup.core,
            cpu: *cpu,
            metrics: Arc::clone(&setup.metrics),
            stats: Arc::clone(stats),
        })
        .collect()
}

fn setups(
    config: &Config,
    cores: usize,
    data: &DataDirectory,
    listeners: &[OpenListener],
    descriptors: Option<u64>,
    clock: &WallClock,
) -> Result<Vec<CoreSetup>, StartError> {
    let config = Arc::new(config.clone());
    let cores_count = cores_u16(cores);
    let memory = limits::message_bytes(&config.limits) / u64::from(cores_count);
    let partitions = data.manifest.partitions;
    let connections_max =
        limits::connections_per_core(&config.limits, descriptors, cores, partitions);
    let readings_max = limits::readings_per_core(descriptors, cores);
    warn_of_few_descriptors(&config, descriptors, cores, partitions);
    warn_of_many_replays(&config, readings_max, partitions, cores_count);
    info!(
        message_bytes_per_core = memory,
        connections_max_per_core = connections_max,
        "limits of a core"
    );
    (0..cores_count)
        .map(|core| {
            let seed = random_u64().map_err(|error| StartError::system("draw a seed", error))?;
            Ok(CoreSetup {
                core: CoreId(core),
                cores: cores_count,
                placement: Placement::new(data.manifest.key, data.manifest.partitions, cores_count),
                config: Arc::clone(&config),
                metrics: Arc::new(CoreMetrics::new(cores_count)),
                listeners: listeners.iter().map(|listener| listener.kind).collect(),
                seed,
                memory_bytes: memory,
                connections_max,
                waits_awake: false,
                readings_max,
                clock: clock.clone(),
                logs: Vec::new(),
                state: None,
                cluster: None,
            })
        })
        .collect()
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
        checkpoints::newest(directory, &owner, partitions)
    })?;
    let highest = recovered.iter().map(|log| log.log.epoch).max().unwrap_or(0);
    let placement = setups[0].placement;
    let cores = cores_u16(setups.len());
    let (recovered, node) = state::build(data, &placement, recovered, config)?;
    let facts = LogFacts::begin(config, data, highest)?;
    let states = node.split(&placement, cores, facts.epoch());
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
        let writer: Writer = facts.writer(partition, directory, &log, tag);
        setup.logs.push(writer);
    }
    Ok(())
}

/// A listener with one socket per core.
struct OpenListener {
    kind: ListenerKind,
    address: SocketAddr,
    sockets: Vec<ListenSocket>,
}

impl OpenListener {
    fn view(&self) -> ListenerView {
        let kind = match self.kind {
            ListenerKind::Tcp => "mqtt",
            ListenerKind::WebSocket => "websocket",
        };
        ListenerView { kind, address: self.address }
    }
}

/// How long an address that is in use is waited for. The kernel takes down the ring of a process
/// that was killed, and the listening sockets in it, a moment after the process has gone
/// (io_uring(7)): a restart at once finds them still there.
const ADDRESS_WAIT: Duration = Duration::from_secs(3);
const ADDRESS_PAUSE: Duration = Duration::from_millis(20);

/// Listens on an address, once whoever has it has gone.
fn bind_soon(
    address: SocketAddr,
    cores: usize,
    backlog: u32,
) -> Result<Vec<ListenSocket>, TransportError> {
    let begun = Instant::now();
    loop {
        match bind(address, cores, backlog) {
            Err(TransportError::AddressInUse { .. }) if begun.elapsed() < ADDRESS_WAIT => {
                std::thread::sleep(ADDRESS_PAUSE);
            }
            result => return result,
        }
    }
}

fn open_listeners(config: &Config, cores: usize) -> Result<Vec<OpenListener>, StartError> {
    let (tcp, websocket) = (&config.listeners.tcp, &config.listeners.websocket);
    let wanted = [
        (tcp.enabled, ListenerKind::Tcp, tcp.bind),
        (websocket.enabled, ListenerKind::WebSocket, websocket.bind),
    ];
    let mut open = Vec::new();
    for (_, kind, address) in wanted.into_iter().filter(|(enabled, ..)| *enabled) {
        let sockets = bind_soon(address, cores, tcp.backlog)?;
        let address = sockets.first().map_or(address, ListenSocket::local_addr);
        open.push(OpenListener { kind, address, sockets });
    }
    Ok(open)
}

fn transport(config: &Config) -> Result<(TransportKind, String), StartError> {
    let choice = match config.runtime.transport {
        TransportSetting::Auto => TransportChoice::Auto,
        TransportSetting::Uring => TransportChoice::Uring,
        TransportSetting::Epoll => TransportChoice::Epoll,
    };
    let capabilities = probe::probe();
    let (kind, reason) = choose(choice, &capabilities)?;
    let features = capabilities.features();
    let (present, absent): (Vec<_>, Vec<_>) = features.into_iter().partition(|(.., there)| *there);
    let names = |list: Vec<(&'static str, &'static str, bool)>| {
        list.into_iter().map(|(name, ..)| name).collect::<Vec<_>>().join(", ")
    };
    info!(
        kernel = capabilities.kernel,
        transport = %kind,
        reason,
        present = names(present),
        absent = names(absent),
        "kernel features"
    );
    Ok((kind, reason))
}

/// Who writes and syncs the log's files: as configured, as far as the transport goes along.
fn file_backend(config: &Config, kind: TransportKind) -> FileBackend {
    let wanted = config.commit_log.file_driver;
    let backend = match (wanted, kind) {
        (FileDriverSetting::IoUring, TransportKind::Uring) => FileBackend::Ring,
        (FileDriverSetting::IoUring | FileDriverSetting::Threads, _) => FileBackend::Threads,
    };
    if !config.commit_log.enabled {
        return backend;
    }
    if wanted == FileDriverSetting::IoUring && backend == FileBackend::Threads {
        warn!(
            "commit_log.file_driver = \"io_uring\" is without effect on epoll: threads write the \
             log; run `ringlane doctor` to see why there is no io_uring"
        );
    }
    let driver = match backend {
        FileBackend::Ring => "io_uring",
        FileBackend::Threads => "threads",
    };
    info!(driver, "files of the commit log");
    backend
}

/// How long a file thread waits awake for its next write. A lone publisher sends its next message
/// some 100 us after it was acknowledged.
const FILE_SPIN: Duration = Duration::from_micros(200);

/// Whether cores and file threads wait awake for each other: not where they have one CPU, nor where
/// the operator wants it for something else.
fn waits_awake(config: &Config, host: &Host<'_>) -> bool {
    let shares = host.cpus.iter().any(|cpu| host.housekeeping.contains(cpu));
    config.runtime.idle != IdleChoice::Park && !shares
}

fn transport_config(
    config: &Config,
    backend: FileBackend,
    housekeeping: &[u32],
    waits_awake: bool,
) -> TransportConfig {
    let runtime = &config.runtime;
    let spin = if waits_awake { FILE_SPIN } else { Duration::ZERO };
    let files = FileConfig { backend, cpus: housekeeping.to_vec(), spin, ..FileConfig::default() };
    TransportConfig {
        receive_buffers: runtime.receive_buffers,
        receive_buffer_bytes: runtime.receive_buffer_size,
        zero_copy_bytes: match runtime.zero_copy_threshold {
            0 => usize::MAX,
            bytes => bytes as usize,
        },
        files: config.commit_log.enabled.then_some(files),
        ..TransportConfig::default()
    }
}

fn idle(config: &Config) -> Idle {
    match config.runtime.idle {
        IdleChoice::Spin => Idle::Spin,
        IdleChoice::SpinThenPark => Idle::SpinThenPark { spin: config.runtime.spin },
        IdleChoice::Park => Idle::Park,
    }
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

fn warn_of_few_descriptors(
    config: &Config,
    descriptors: Option<u64>,
    cores: usize,
    partitions: u32,
) {
    let wanted = limits::descriptors_wanted(&config.limits, cores, partitions);
    if descriptors.is_some_and(|limit| limit < wanted) {
        warn!(
            limit = descriptors,
            wanted,
            "RLIMIT_NOFILE is too low for limits.max_connections; raise it (LimitNOFILE= in \
             the unit, or ulimit -n)"
        );
    }
}

/// Says so if fewer replays can be read at a time than `limits.max_replays`, and that is asked for.
fn warn_of_many_replays(config: &Config, readings_max: usize, partitions: u32, cores: u16) {
    let replays_max = Sizes::new(config, cores).replays_max;
    let fewer = Room::new(replays_max, readings_max, partitions, cores).fewer();
    if let Some(replays) = fewer.filter(|_| config.commit_log.enabled) {
        warn!(
            replays_per_core = replays,
            partitions_read_per_core = readings_max,
            "limits.max_replays is more than this node can read at a time with so many partitions \
             (and, if RLIMIT_NOFILE is low, so few descriptors): further replays get 0x97"
        );
    }
}

/// There are at most [`CORES_MAX`] cores.
fn cores_u16(cores: usize) -> u16 {
    u16::try_from(cores).unwrap_or(u16::MAX)
}

fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}
