//! A node of a cluster, from its start to its end.
//!
//! It opens its data directory, joins the cluster in etcd and keeps its place there. Then its cores live:
//! logs are recovered, and cores follow until this node is elected. A node that stops leading, or
//! cannot go on as it is, ends its cores and has new ones on the same way, in the same process: there is
//! one way to begin, and it is the one that every start takes.

use super::carriers::{self, RdmaPlan};
use super::life::{Ground, Life, facts, launch};
use super::listeners::{self, Door, OpenListener};
use super::manifest::DataDirectory;
use super::plan::Plan;
use super::{Host, StartError, cores_u16, placement, replicas, warn_of_idle_cores};
use crate::cluster::etcd::{Etcd, EtcdSettings};
use crate::cluster::files::LogPlaces;
use crate::cluster::keeper::Keeper;
use crate::cluster::keys::{Id16, NodeRecord, ProxiedAt};
use crate::cluster::membership::{ClusterError, Joined, Membership, Standing};
use crate::cluster::metadata::MetadataError;
use crate::cluster::peers::Peers;
use crate::cluster::reporting::Reporting;
use crate::cluster::running::{Ended, Parts, Running};
use crate::cluster::streams::StreamsRecord;
use crate::config::Config;
use crate::control::{self, Control, Desk, Doors, Node, Told};
use crate::replicated::control_mail::ToControl;
use crate::replicated::setup::to_control_rooms;
use crate::service::ListenerKind;
use ringlane_dataplane::ids::{ListenerId, NodeId};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::replication::hello::{Expected, Transports};
use ringlane_dataplane::routing::default_partitions;
use ringlane_transport_uring::{LinkConfig, TransportConfig};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How often etcd is asked again that did not answer at start.
const ETCD_RETRY: Duration = Duration::from_millis(500);
/// How often it is said that it does not answer.
const ETCD_SAID_EVERY: Duration = Duration::from_secs(10);
/// Cores do not begin again sooner than so long after they began.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long leaving the cluster may take: then the lease ends by itself.
const LEAVE_MAX: Duration = Duration::from_secs(2);
/// Connections that wait for the replication listener of a core.
const BACKLOG: u32 = 128;

/// Runs a node of a cluster until a signal ends it.
pub(super) fn serve(config: &Config, host: Host) -> Result<(), StartError> {
    let plan = Arc::new(Plan::new(config, host)?);
    let runtime = control::runtime()?;
    let ended = runtime.block_on(run(plan));
    // A log that is still read, or a name that is looked up, is waited for by nobody.
    runtime.shutdown_background();
    if ended.is_ok() {
        info!("stopped");
    }
    ended
}

async fn run(plan: Arc<Plan>) -> Result<(), StartError> {
    let config = Arc::clone(&plan.config);
    let cores = plan.host.cpus.len();
    let data = DataDirectory::open_member(
        &config.data_dir,
        NodeId(config.cluster.node),
        default_partitions(cores_u16(cores)),
    )?;
    let http = control::bind(&config.control)?;
    let ctl = control::bind_ctl(&config.control, &config.data_dir)?;
    let control = http.as_ref().map(|(_, address)| *address);
    let reporting = Reporting::new(
        Arc::clone(&config),
        listeners::wanted(&config).map(|(kind, _)| kind).collect(),
    );
    let bare = Node::new(facts(&plan)).in_cluster(reporting.status());
    bare.show_proxy(reporting.proxy().metrics());
    let bare = Arc::new(bare);
    let mut desk = Desk::open(&config, &bare, Doors { http, ctl: None })?;
    let doors = open_doors(&config, cores, None)?;
    let record = record(&config, &doors, control);
    let joining = join(&config, data, record);
    let (data, keeper, standing) = tokio::select! {
        joined = joining => joined?,
        () = stopped(&mut desk) => return Ok(()),
    };
    warn_of_idle_cores(data.manifest.partitions, cores);
    if let Some(ctl) = ctl {
        desk.open_ctl(ctl, placement(&data, cores))?;
    }
    let place = Place { plan, keeper: Arc::new(keeper), standing, control, bare };
    let lived = place.live(&mut desk, data, doors, reporting).await;
    place.leave().await;
    lived
}

/// Comes back when a signal tells the node to stop.
async fn stopped(desk: &mut Desk) {
    loop {
        match desk.told().await {
            Told::Stop(name) => return info!(signal = name, "stopping before clients are served"),
            Told::Reload => warn!("SIGHUP: nothing was reloaded"),
        }
    }
}

/// A node in its cluster.
struct Place {
    plan: Arc<Plan>,
    keeper: Arc<Keeper<Etcd>>,
    /// What the data directory said when the node joined.
    standing: Standing,
    /// Where the control plane listens.
    control: Option<SocketAddr>,
    /// The node as it is shown while it has no cores.
    bare: Arc<Node>,
}

/// What one life of the cores begins with.
struct Begin {
    data: DataDirectory,
    doors: Vec<OpenListener>,
    reporting: Reporting,
}

impl Place {
    /// Has cores, and new ones when those cannot go on, until a signal ends the node.
    async fn live(
        &self,
        desk: &mut Desk,
        data: DataDirectory,
        doors: Vec<OpenListener>,
        reporting: Reporting,
    ) -> Result<(), StartError> {
        let mut begin = Begin { data, doors, reporting };
        loop {
            let begun = Instant::now();
            let addresses: Vec<SocketAddr> = begin.doors.iter().map(|door| door.address).collect();
            desk.show(&self.bare);
            let opening = self.open(begin);
            let opened = tokio::select! {
                opened = opening => opened?,
                () = stopped(desk) => return Ok(()),
            };
            let Some(ended) = self.run_cores(desk, opened).await? else { return Ok(()) };
            let Ended { data, mut reporting, again, failed } = ended;
            if let Some(error) = failed {
                return Err(error.into());
            }
            let Some(why) = again else { return Ok(()) };
            let pause = AGAIN_AFTER.saturating_sub(begun.elapsed());
            tokio::select! {
                () = sleep(pause) => {}
                () = stopped(desk) => return Ok(()),
            }
            info!(why, "beginning again, as a follower");
            reporting.on_begin_again();
            let (config, cores) = (&self.plan.config, self.plan.host.cpus.len());
            let doors = open_doors(config, cores, Some(&addresses))?;
            begin = Begin { data, doors, reporting };
        }
    }

    /// Recovers the logs and starts the cores, on a thread of its own: the lease is kept meanwhile.
    async fn open(&self, begin: Begin) -> Result<(Life, Parts<Etcd>), StartError> {
        let (plan, control) = (Arc::clone(&self.plan), self.control);
        let opened = spawn_blocking(move || open_blocking(&plan, control, begin)).await;
        let opened =
            opened.map_err(|error| StartError::system("recover the logs", error.into()))?;
        let Opened { life, from_cores, data, logs, reporting } = opened?;
        let replication = &self.plan.config.replication;
        let parts = Parts {
            cores: cores_u16(self.plan.host.cpus.len()),
            keeper: Arc::clone(&self.keeper),
            from_cores,
            data,
            logs,
            reporting,
            hand_over: replication.suspect_after * HAND_OVER_SILENCES + HAND_OVER_LEAST,
            standing: self.standing.clone(),
            peers: Peers::new(&self.plan.config.cluster),
        };
        Ok((life, parts))
    }

    async fn run_cores(
        &self,
        desk: &mut Desk,
        (life, parts): (Life, Parts<Etcd>),
    ) -> Result<Option<Ended>, StartError> {
        let running = Running::new(parts);
        let control = Control::new(&self.plan.config, life).with_cluster(running);
        match control.run(desk).await? {
            Some(running) => running.end().await.map(Some),
            None => Ok(None),
        }
    }

    async fn leave(&self) {
        match timeout(LEAVE_MAX, self.keeper.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("the lease of this node ends by itself: {error}"),
            Err(_) => warn!("the lease of this node ends by itself: etcd does not answer"),
        }
    }
}

/// Cores that run on logs that were recovered.
struct Opened {
    life: Life,
    from_cores: mpsc::Receiver<ToControl>,
    data: DataDirectory,
    logs: LogPlaces,
    reporting: Reporting,
}

fn open_blocking(
    plan: &Plan,
    control: Option<SocketAddr>,
    begin: Begin,
) -> Result<Opened, StartError> {
    let Begin { mut data, doors, reporting } = begin;
    let (config, cores) = (&plan.config, cores_u16(plan.host.cpus.len()));
    let message_bytes_max = replicas::message_bytes_max(plan, &data)?;
    let expected = expected(plan, &data);
    let rdma = carriers::plan(&config.replication, expected, message_bytes_max)?;
    let transports = RdmaPlan::transports(rdma.as_ref());
    let transport = transport(plan, expected, transports, &doors);
    transport.validate()?;
    let (to_control, from_cores) = mpsc::channel(to_control_rooms(data.manifest.partitions, cores));
    let status = Some(reporting.status());
    let ground = Ground { plan, transport: &transport, listeners: doors, control, status, rdma };
    let mut places = None;
    let life = launch(ground, &mut data, |data, setups| {
        places = Some(replicas::open(plan, data, setups, transports, &to_control)?);
        let clusters = setups.iter_mut().filter_map(|setup| setup.cluster.as_mut());
        clusters.for_each(|cluster| cluster.may_lead = reporting.can_lead());
        Ok(())
    })?;
    life.node.show_proxy(reporting.proxy().metrics());
    let (facts, logs) = places.expect("cores run only once they have their logs");
    let logs = LogPlaces {
        id: DirectoryId(data.manifest.id),
        facts,
        logs,
        placement: placement(&data, usize::from(cores)),
        config: Arc::clone(config),
    };
    Ok(Opened { life, from_cores, data, logs, reporting })
}

/// How long a hand-over may take: so many times the silence that is borne, and this.
const HAND_OVER_SILENCES: u32 = 4;
const HAND_OVER_LEAST: Duration = Duration::from_secs(2);

/// Joins the cluster in etcd, once it answers, and keeps the node there. A node that has been in its cluster
/// before and has all it needs does not wait for etcd: it can follow, and what etcd says later is judged then.
async fn join(
    config: &Config,
    mut data: DataDirectory,
    record: NodeRecord,
) -> Result<(DataDirectory, Keeper<Etcd>, Standing), StartError> {
    let (node, lease) = (NodeId(config.cluster.node), config.replication.lease);
    let stranger = membership(config, &record);
    let standing = data.standing(config);
    let may_follow = standing.is_member && !data.is_learner() && !data.is_new();
    let joined = match stranger.join(&standing).await {
        Err(ClusterError::Metadata(error @ MetadataError::Unreachable { .. })) if may_follow => {
            warn!("{error}; this node follows whoever leads until then, and cannot lead");
            let member = membership(config, &with_instance(record, &data));
            let keeper = Keeper::start_alone(member, lease, error.to_string());
            return Ok((data, keeper, standing));
        }
        Err(ClusterError::Metadata(MetadataError::Unreachable { .. })) => {
            until_answered(async || stranger.join(&standing).await).await
        }
        joined => joined,
    };
    let joined: Joined = joined?;
    data.adopt(&joined, node)?;
    if data.is_learner() {
        // What this number has promised before is lost: it obeys nobody who led before now.
        let view = until_answered(async || stranger.view().await).await?;
        let epoch = view.epoch().max(data.manifest.epoch);
        data.take_epoch(epoch)?;
        info!(epoch, "this node has yet to be filled from the others");
    }
    let record = with_instance(record, &data);
    let member = || match (membership(config, &record), data.is_new()) {
        (member, true) => member.with_new_directory(),
        (member, false) => member,
    };
    let keeper = until_answered(async || Keeper::start(member(), lease).await).await?;
    data.end_newness()?;
    info!(
        cluster = config.cluster.name,
        node = node.0,
        id = %joined.identity.id,
        nodes = joined.identity.nodes.len(),
        partitions = joined.identity.partitions,
        "joined the cluster"
    );
    let standing = data.standing(config);
    Ok((data, keeper, standing))
}

fn membership(config: &Config, record: &NodeRecord) -> Membership<Etcd> {
    Membership::new(Etcd::new(EtcdSettings::of(&config.cluster)), record.clone())
}

/// What the node says of itself, with the directory that it says it of.
fn with_instance(record: NodeRecord, data: &DataDirectory) -> NodeRecord {
    let instance = data.manifest.member.as_ref().map(|member| member.instance);
    NodeRecord { instance: instance.unwrap_or(record.instance), ..record }
}

/// Tries again while etcd does not answer.
async fn until_answered<T>(
    mut what: impl AsyncFnMut() -> Result<T, ClusterError>,
) -> Result<T, ClusterError> {
    let mut said: Option<Instant> = None;
    loop {
        let error = match what().await {
            Err(ClusterError::Metadata(error @ MetadataError::Unreachable { .. })) => error,
            result => return result,
        };
        if said.is_none_or(|said| ETCD_SAID_EVERY <= said.elapsed()) {
            warn!("{error}; trying again");
            said = Some(Instant::now());
        }
        sleep(ETCD_RETRY).await;
    }
}

/// Opens the listeners of a node of a cluster: for clients, for clients that other nodes pass on, and for
/// replication. `again` are the addresses that they had before.
fn open_doors(
    config: &Config,
    cores: usize,
    again: Option<&[SocketAddr]>,
) -> Result<Vec<OpenListener>, StartError> {
    let nodes = replication_bind(config);
    let clients: Vec<(ListenerKind, SocketAddr)> = listeners::wanted(config).collect();
    let passed = clients.iter().map(|(kind, _)| (*kind, SocketAddr::new(nodes.ip(), 0)));
    let backlog = config.listeners.tcp.backlog;
    let wanted = clients
        .iter()
        .map(|(kind, address)| (Door::Clients(*kind), *address, backlog))
        .chain(passed.map(|(kind, address)| (Door::Passed(kind), address, backlog)))
        .chain([(Door::Nodes, nodes, BACKLOG)]);
    let open = |(index, (door, address, backlog)): (usize, (Door, SocketAddr, u32))| {
        let address = again.and_then(|again| again.get(index)).copied().unwrap_or(address);
        OpenListener::open(door, address, cores, backlog)
    };
    Ok(wanted.enumerate().map(open).collect::<Result<_, _>>()?)
}

/// Where the other nodes are listened for. A configuration that was checked has it.
fn replication_bind(config: &Config) -> SocketAddr {
    let own = config.cluster.own().and_then(|own| own.address.parse().ok());
    let bind = config.replication.bind.or(own);
    bind.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// What the node says of itself in etcd.
fn record(config: &Config, doors: &[OpenListener], control: Option<SocketAddr>) -> NodeRecord {
    let own = config.cluster.own().cloned().unwrap_or_default();
    let passed = |kind| {
        let door = doors.iter().find(|door| door.door == Door::Passed(kind))?;
        Some(reached_at(&own.address, door.address))
    };
    NodeRecord {
        node: own.node,
        proxied: ProxiedAt {
            mqtt: passed(ListenerKind::Tcp),
            websocket: passed(ListenerKind::WebSocket),
        },
        control: control.map(|control| reached_at(&own.address, control)),
        name: own.name,
        instance: Id16([0; 16]),
        address: own.address,
        advertised_address: own.advertised_address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        streams: Some(StreamsRecord::of(config)),
    }
}

/// How others reach a listener of this node: at its address, or, if it takes any of the host's, at the
/// host that the node's own address names.
fn reached_at(own: &str, listener: SocketAddr) -> String {
    let is_any = match listener.ip() {
        IpAddr::V4(ip) => ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    match own.rsplit_once(':') {
        Some((host, _)) if is_any => format!("{host}:{}", listener.port()),
        Some(_) | None => listener.to_string(),
    }
}

/// The transport of the cores, with their links.
fn transport(
    plan: &Plan,
    expected: Expected,
    transports: Transports,
    doors: &[OpenListener],
) -> TransportConfig {
    let nodes = doors.iter().position(|door| door.door == Door::Nodes).unwrap_or(doors.len());
    let listener = ListenerId(u16::try_from(nodes).unwrap_or(u16::MAX));
    let links = Some(LinkConfig { transports, ..LinkConfig::new(listener, expected) });
    TransportConfig { links, ..plan.transport.clone() }
}

/// Who may call this node.
fn expected(plan: &Plan, data: &DataDirectory) -> Expected {
    Expected {
        cluster: DirectoryId(data.manifest.id),
        node: NodeId(plan.config.cluster.node),
        cores: cores_u16(plan.host.cpus.len()),
        partitions: data.manifest.partitions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_any_address_is_reached_at_the_node_s_host() {
        let cases = [
            ("10.0.0.2:7883", "0.0.0.0:4711", "10.0.0.2:4711"),
            ("b.example:7883", "[::]:4711", "b.example:4711"),
            ("b.example:7883", "10.0.0.2:4711", "10.0.0.2:4711"),
            ("[fd00::2]:7883", "[::]:4711", "[fd00::2]:4711"),
        ];
        for (own, listener, expected) in cases {
            assert_eq!(reached_at(own, listener.parse().unwrap()), expected);
        }
    }
}
