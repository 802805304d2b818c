//! What a start decides once: who serves sockets and files, and how a core waits.

use super::{Host, StartError, limits};
use crate::config::{
    Config, FileDriverSetting, IdleChoice, LevelInUse, TransportSetting, levels_in_use,
};
use ringlane_dataplane::runtime::Idle;
use ringlane_transport_uring::{
    FileBackend, FileConfig, TransportChoice, TransportConfig, TransportError, TransportKind,
    choose, probe,
};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// What stays the same for as long as the process runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: Arc<Config>,
    pub(super) host: Host,
    pub(super) kind: TransportKind,
    /// Why that one.
    pub(super) reason: String,
    pub(super) transport: TransportConfig,
    pub(super) idle: Idle,
    /// Whether cores and file threads wait awake for each other.
    pub(super) waits_awake: bool,
    /// Descriptors that the process may have; `None` = any number.
    pub(super) descriptors: Option<u64>,
}

impl Plan {
    /// # Errors
    /// What the configuration asks for and this host cannot do.
    pub(super) fn new(config: &Config, host: Host) -> Result<Self, StartError> {
        let (descriptors, _) = limits::raise();
        let (kind, reason) = transport(config)?;
        let backend = file_backend(config, kind);
        let waits_awake = waits_awake(config, &host);
        let transport = transport_config(config, backend, &host.housekeeping, waits_awake);
        transport.validate()?;
        Ok(Self {
            config: Arc::new(config.clone()),
            host,
            kind,
            reason,
            transport,
            idle: idle(config),
            waits_awake,
            descriptors: descriptors.now,
        })
    }
}

fn transport(config: &Config) -> Result<(TransportKind, String), TransportError> {
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
    for LevelInUse { level, streams, means } in levels_in_use(config) {
        info!(level, streams, means, "what is promised");
    }
    backend
}

/// How long a file thread waits awake for its next write. A lone publisher sends its next message
/// some 100 us after it was acknowledged.
const FILE_SPIN: Duration = Duration::from_micros(200);

/// Whether cores and file threads wait awake for each other: not where they have one CPU, nor where
/// the operator wants it for something else.
fn waits_awake(config: &Config, host: &Host) -> bool {
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
