//! The cores of a node, from their setups to running threads.
//!
//! A node that is alone has them once; one of a cluster may begin again, with new ones.

use super::carriers::RdmaPlan;
use super::listeners::OpenListener;
use super::manifest::DataDirectory;
use super::plan::Plan;
use super::threads::{CoreThread, CoreThreads};
use super::{StartError, cores_u16, limits};
use crate::clock::WallClock;
use crate::cluster::status::ClusterStatus;
use crate::config::Config;
use crate::control::{CoreView, Node, NodeFacts};
use crate::mail::Mail;
use crate::metrics::CoreMetrics;
use crate::replay::Room;
use crate::service::{CoreSetup, Sizes};
use crate::system_random::random_bytes;
use ringlane_dataplane::ids::{CoreId, ListenerId};
use ringlane_dataplane::routing::Placement;
use ringlane_dataplane::runtime::{CoreStats, Endpoint, Idle, Mesh};
use ringlane_transport_uring::{HeldCode, TransportConfig, TransportKind, Wakers, hold_code};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;
use tokio::sync::watch;
use tracing::{info, warn};

/// Cores that run, and what the control thread needs to speak to them.
pub(crate) struct Life {
    pub(crate) node: Arc<Node>,
    /// The last one of the mesh.
    pub(crate) endpoint: Endpoint<Mail>,
    pub(crate) wakers: Wakers,
    pub(crate) clock: WallClock,
    pub(crate) threads: CoreThreads,
}

/// Where cores begin.
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) transport: &'a TransportConfig,
    pub(super) listeners: Vec<OpenListener>,
    /// Where the control plane listens.
    pub(super) control: Option<SocketAddr>,
    /// How the node is, if it is one of a cluster.
    pub(super) status: Option<watch::Receiver<ClusterStatus>>,
    /// Links over verbs, if the node has them.
    pub(super) rdma: Option<RdmaPlan>,
}

/// Starts the cores, once `prepare` has given them their logs.
///
/// # Errors
/// What cannot be had, or opened.
pub(super) fn launch(
    ground: Ground<'_>,
    data: &mut DataDirectory,
    prepare: impl FnOnce(&mut DataDirectory, &mut [CoreSetup]) -> Result<(), StartError>,
) -> Result<Life, StartError> {
    let Ground { plan, transport, listeners, control, status, rdma } = ground;
    let cpus = &plan.host.cpus;
    let wakers = Wakers::new(cpus.len() + 1)
        .map_err(|error| StartError::system("make the wake-up descriptors", error))?;
    let slots = plan.config.runtime.mailbox_slots as usize;
    let mut endpoints = Mesh::build::<Mail>(cpus.len() + 1, slots);
    let endpoint = endpoints.pop().expect("a mesh has an endpoint per core and one more");
    let clock = WallClock::of_host();
    let mut setups = setups(plan, data, &listeners, &clock)?;
    prepare(data, &mut setups)?;
    let stats: Vec<Arc<CoreStats>> = cpus.iter().map(|_| Arc::default()).collect();
    let facts = NodeFacts {
        partitions: data.manifest.partitions,
        listeners: listeners.iter().filter_map(OpenListener::view).collect(),
        control,
        cores: core_views(cpus, &setups, &stats),
        ..facts(plan)
    };
    let node = Node::new(facts);
    let node = Arc::new(match status {
        Some(status) => node.in_cluster(status),
        None => node,
    });
    let cores = CoreParts {
        cpus,
        setups,
        stats,
        endpoints,
        listeners,
        wakers: wakers.clone(),
        stop_accepting: node.stop_accepting(),
        rdma,
    };
    let threads = start_cores(cores, plan.kind, transport, plan.idle)?;
    Ok(Life { node, endpoint, wakers, clock, threads })
}

/// What is known of a node before it has cores.
pub(super) fn facts(plan: &Plan) -> NodeFacts {
    let started = plan.host.started;
    NodeFacts {
        started,
        started_at: SystemTime::now() - started.elapsed(),
        transport: plan.kind.to_string(),
        transport_reason: plan.reason.clone(),
        partitions: 0,
        data_dir: plan.config.data_dir.clone(),
        listeners: Vec::new(),
        control: None,
        cores: Vec::new(),
        log_lines_dropped: plan.host.lines_dropped.clone(),
    }
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
    rdma: Option<RdmaPlan>,
}

fn start_cores(
    mut parts: CoreParts<'_>,
    kind: TransportKind,
    config: &TransportConfig,
    idle: Idle,
) -> Result<CoreThreads, StartError> {
    keep_code();
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
            rdma: parts.rdma.clone(),
        })?;
    }
    threads.release()?;
    Ok(threads)
}

/// Keeps the code that the cores run in memory, libraries that were loaded for RDMA included. A
/// node works without that; its turns may be longer.
fn keep_code() {
    match hold_code() {
        Ok(HeldCode { bytes, locked_bytes }) if locked_bytes < bytes => info!(
            bytes,
            locked_bytes,
            "code is in memory and may leave it: the system does not have more of it locked (LimitMEMLOCK= of the \
             unit, ulimit -l)"
        ),
        Ok(HeldCode { bytes, .. }) => info!(bytes, "code is locked in memory"),
        Err(error) => {
            warn!(%error, "cannot keep code in memory: a turn may wait for the disk that it is read from")
        }
    }
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
    plan: &Plan,
    data: &DataDirectory,
    listeners: &[OpenListener],
    clock: &WallClock,
) -> Result<Vec<CoreSetup>, StartError> {
    let (config, cores, descriptors) = (&plan.config, plan.host.cpus.len(), plan.descriptors);
    let cores_count = cores_u16(cores);
    let memory = limits::message_bytes(&config.limits) / u64::from(cores_count);
    let partitions = data.manifest.partitions;
    let connections_max =
        limits::connections_per_core(&config.limits, descriptors, cores, partitions);
    let readings_max = limits::readings_per_core(descriptors, cores);
    warn_of_few_descriptors(config, descriptors, cores, partitions);
    warn_of_many_replays(config, readings_max, partitions, cores_count);
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
                config: Arc::clone(config),
                metrics: Arc::new(CoreMetrics::new(cores_count)),
                listeners: listeners.iter().filter_map(OpenListener::kind).collect(),
                seed,
                memory_bytes: memory,
                connections_max,
                waits_awake: plan.waits_awake,
                readings_max,
                clock: clock.clone(),
                logs: Vec::new(),
                state: None,
                cluster: None,
            })
        })
        .collect()
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

fn random_u64() -> io::Result<u64> {
    random_bytes().map(u64::from_le_bytes)
}
