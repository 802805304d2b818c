//! A node of a cluster in one thread: its cores, its disk, and a control thread in small.

use super::super::control_mail::{Given, Learned, PartitionProgress, ToControl, ToCore};
use super::super::node_core::NodeCore;
use super::super::replicas::Replicas;
use super::super::setup::{AcceptedClient, ClusterSetup, ReplicaSetup, host_tag, to_control_rooms};
use super::driver::{Doors, Outer, TestDriver, boottime};
use super::opening::{self, OpenedLog, Refused, refused_learn, refused_log};
use crate::clock::WallClock;
use crate::config::{Config, StreamLevel};
use crate::durable::NodeState;
use crate::mail::{ControlMail, Mail};
use crate::metrics::CoreMetrics;
use crate::service::{CoreSetup, ListenerKind, RestoredState};
use crate::startup::learn;
use crate::startup::state::put_together;
use ringlane_dataplane::clock::Clock;
use ringlane_dataplane::disk::memory::{MemoryDisk, Operation};
use ringlane_dataplane::disk::{ENOSPC, StartFiles};
use ringlane_dataplane::ids::{CoreId, NodeId, Offset, PartitionId};
use ringlane_dataplane::link::Links;
use ringlane_dataplane::link::memory::HostId;
use ringlane_dataplane::log::format::{DirectoryId, SEGMENT_SUFFIX, SegmentId};
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::recovery::{ReplayFrom, recover};
use ringlane_dataplane::log::reset::received;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::segments::LogSetup;
use ringlane_dataplane::log::truncate::truncate;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::net::Sockets;
use ringlane_dataplane::replication::election;
use ringlane_dataplane::replication::hello::{DirectoryTag, Hello, RdmaEnd, Transports};
use ringlane_dataplane::replication::host::Host;
use ringlane_dataplane::replication::message::Claim;
use ringlane_dataplane::replication::reign::Reign;
use ringlane_dataplane::replication::replica::Opened;
use ringlane_dataplane::routing::Placement;
use ringlane_dataplane::runtime::{After, CoreLoop, CoreStats, Endpoint, Idle, Mesh, TurnLimits};
use ringlane_dataplane::time::Nanos;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(super) const PARTITIONS: u32 = 4;
pub(super) const KEY: [u8; 16] = [7; 16];
const CLUSTER: DirectoryId = DirectoryId([0x5A; 16]);
const LOG_BYTES: LogBytes = LogBytes { record_max: 300_000, segment: 1 << 20 };

/// A node whose disk has no room for its start tries again after this time.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How often a lease is kept within its time.
const KEEPS_PER_LEASE: u32 = 3;

/// What etcd knows: the newest epoch, and whose it is.
#[derive(Debug)]
pub(super) struct Etcd {
    pub(super) epoch: u64,
    leader: Option<NodeId>,
    /// How long a lease counts.
    pub(super) lease: Duration,
    /// It answers nobody.
    pub(super) is_away: bool,
}

impl Default for Etcd {
    fn default() -> Self {
        Self { epoch: 0, leader: None, lease: Duration::from_secs(3), is_away: false }
    }
}

/// How large what is in the logs is.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogBytes {
    pub(super) record_max: u64,
    pub(super) segment: u64,
}

/// A bit that has turned on a disk.
#[derive(Clone, Debug)]
pub(super) struct Flaw {
    pub(super) partition: u32,
    pub(super) path: PathBuf,
    /// No start reads there.
    pub(super) is_unread: bool,
}

struct Core {
    core: CoreLoop<TestDriver, NodeCore>,
    doors: Rc<RefCell<Doors>>,
    has_stopped: bool,
}

/// The end of a log that is to be given up, and when that is done.
struct Truncation {
    at: Nanos,
    core: CoreId,
    partition: PartitionId,
    to: Offset,
    from: Option<ReplayFrom>,
}

/// What runs of a node.
struct Running {
    cores: Vec<Core>,
    control: Endpoint<Mail>,
    from_cores: mpsc::Receiver<ToControl>,
    outbox: VecDeque<(CoreId, ToCore)>,
    states: BTreeMap<u32, (u64, Given)>,
    filled: BTreeMap<u32, CoreId>,
    truncating: Vec<Truncation>,
    is_ending: bool,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    /// All nodes of the cluster.
    members: Vec<NodeId>,
    pub(super) cores: u16,
    pub(super) clock: Clock,
    /// One per core that it may ever have.
    pub(super) hosts: Vec<HostId>,
    /// By core: a disk tells whoever asks first what has ended.
    pub(super) files: Vec<MemoryDisk>,
    pub(super) log_bytes: LogBytes,
    /// The durable epoch.
    pub(super) manifest: Reign,
    pub(super) starts: u64,
    /// How often its process was started.
    pub(super) processes: u64,
    running: Option<Running>,
    /// There was no room for a start: when it is tried again.
    tries_at: Option<Nanos>,
    pub(super) flaw: Option<Flaw>,
    /// What it has said of that: its operator is to replace it.
    pub(super) names: Option<String>,
    /// It has said so, and this process has not ended: none of its starts leads.
    pub(super) cannot_lead: bool,
    /// No segment is put in place of another one: there is no room for it beside that.
    pub(super) lacks_room: bool,
    /// What its control thread and its starts found no room for.
    pub(super) no_room_for: u64,
    /// Of each core of each start.
    metrics: Vec<Arc<CoreMetrics>>,
    /// Who it thinks leads.
    pub(super) leader: Option<NodeId>,
    /// The epoch in which it began to serve clients, while it does.
    pub(super) serves: Option<u64>,
    /// The same, while its cores do not know it yet.
    begins: Option<u64>,
    /// When its lease was kept last, while it leads, on its clock.
    kept_at: Nanos,
    /// And until when its cores may count on it.
    lease_until: Nanos,
    /// The newest epoch that etcd has told it of.
    seen: u64,
    /// Why it began again, each time.
    pub(super) ends: Vec<String>,
    pub(super) drained: usize,
    pub(super) truncations: usize,
    /// How long that takes.
    pub(super) truncation_takes: Duration,
    /// Partitions that began anew behind a checkpoint of a leader.
    pub(super) learned: usize,
    /// Whether the control thread carries that out.
    pub(super) replaces: bool,
    pub(super) is_learner: bool,
    /// Starts of its logs behind a checkpoint.
    pub(super) behind_checkpoint: u64,
    /// Torn tails that starts have cut.
    pub(super) torn: u64,
    /// Records that starts have read.
    pub(super) records_read: u64,
    /// Clients that came while it followed.
    pub(super) passed_on: Vec<AcceptedClient>,
    pub(super) progress: BTreeMap<u32, PartitionProgress>,
    /// The other nodes that could lead at once, as core 0 has said last.
    pub(super) ready: Vec<NodeId>,
}

pub(super) fn address(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + node))
}

pub(super) fn directory(partition: u32) -> PathBuf {
    PathBuf::from(format!("/d/{partition}"))
}

pub(super) fn owner(partition: u32) -> LogOwner {
    LogOwner { directory: CLUSTER, partition: PartitionId(partition) }
}

impl Node {
    /// One that has never run, with a host and a disk per core.
    pub(super) fn new(
        id: u16,
        members: Vec<NodeId>,
        hosts: Vec<HostId>,
        files: Vec<MemoryDisk>,
    ) -> Self {
        Self {
            id: NodeId(id),
            members,
            cores: hosts.len() as u16,
            clock: Clock::EXACT,
            hosts,
            files,
            log_bytes: LOG_BYTES,
            manifest: Reign::default(),
            starts: 0,
            processes: 0,
            running: None,
            tries_at: None,
            flaw: None,
            names: None,
            cannot_lead: false,
            lacks_room: false,
            no_room_for: 0,
            metrics: Vec::new(),
            leader: None,
            serves: None,
            begins: None,
            kept_at: Nanos(0),
            lease_until: Nanos(0),
            seen: 0,
            ends: Vec::new(),
            drained: 0,
            truncations: 0,
            truncation_takes: Duration::ZERO,
            learned: 0,
            replaces: true,
            is_learner: false,
            behind_checkpoint: 0,
            torn: 0,
            records_read: 0,
            passed_on: Vec::new(),
            progress: BTreeMap::new(),
            ready: Vec::new(),
        }
    }

    fn placement(&self) -> Placement {
        Placement::new(KEY, PARTITIONS, self.cores)
    }

    fn log_setup(&self, partition: u32, epoch: u64) -> LogSetup {
        LogSetup {
            partition: PartitionId(partition),
            directory: directory(partition),
            directory_id: CLUSTER,
            epoch,
            secret: u128::from(self.starts).to_le_bytes(),
            segment_bytes: self.log_bytes.segment,
            record_bytes_max: self.log_bytes.record_max,
            tag: host_tag(PartitionId(partition), self.cores),
        }
    }

    pub(super) fn files_of(&self, partition: u32) -> MemoryDisk {
        self.files[partition as usize % usize::from(self.cores)].clone()
    }

    /// The same, to put a segment in place of another one.
    fn files_to_change(&self, partition: u32) -> MemoryDisk {
        let files = self.files_of(partition);
        if self.lacks_room {
            files.fail(Operation::Replace, SEGMENT_SUFFIX, ENOSPC);
        }
        files
    }

    /// What found no room on its disks.
    pub(super) fn no_room_count(&self) -> u64 {
        self.files.iter().map(MemoryDisk::no_room_count).sum()
    }

    /// The checkpoints of a partition, and how long they are.
    pub(super) fn checkpoints(&self, partition: u32) -> Vec<(PathBuf, u64)> {
        opening::checkpoints(&self.files_of(partition), &directory(partition))
    }

    /// The batches of a partition that a start reads and that the log says were flushed.
    pub(super) fn flushed_batches(&self, partition: u32) -> Vec<(PathBuf, Range<u64>)> {
        let (path, owner) = (directory(partition), owner(partition));
        opening::flushed_batches(&self.files_of(partition), &path, &owner, PARTITIONS)
    }

    /// The batches of a partition that a start does not read, because a checkpoint has what they say.
    pub(super) fn unread_batches(&self, partition: u32) -> Vec<(PathBuf, Range<u64>)> {
        let (path, owner) = (directory(partition), owner(partition));
        opening::unread_batches(&self.files_of(partition), &path, &owner, PARTITIONS)
    }

    /// Opens a log after any end, with the state of its newest checkpoint.
    fn open(&mut self, partition: u32) -> Result<(Writer, ReplicaSetup), Refused> {
        let path = directory(partition);
        let is_to_change = received(&self.files_of(partition), &path).is_ok_and(|r| r.is_some());
        let mut files =
            if is_to_change { self.files_to_change(partition) } else { self.files_of(partition) };
        files.make_directory(&path).expect("a disk in memory");
        // Numbers of segments are used again.
        self.starts += 1;
        let setup = self.log_setup(partition, 0);
        let OpenedLog { recovered, recovery, checkpoints, epochs, read } =
            opening::open(&mut files, &setup, PARTITIONS, self.flaw.is_some())?;
        self.behind_checkpoint += u64::from(recovery.replay_from().is_some());
        self.records_read += read;
        self.torn += u64::from(recovered.torn.is_some());
        let opened = Opened {
            reign: self.manifest,
            start: recovered.log_start,
            next: recovered.next_offset,
            epochs,
            damage: self.is_learner.then_some(Claim::ALL),
        };
        let setup = self.log_setup(partition, recovered.epoch);
        let writer = Writer::new(setup, recovered.log_end());
        Ok((writer, ReplicaSetup { opened, recovery, checkpoints }))
    }

    fn cluster_setup(
        &mut self,
        core: u16,
        config: &Config,
        to_control: mpsc::Sender<ToControl>,
    ) -> Result<(Vec<Writer>, ClusterSetup), Refused> {
        let members = self.members.clone();
        let (mut logs, mut replicas) = (Vec::new(), Vec::new());
        for PartitionId(partition) in self.placement().owned(CoreId(core)) {
            let (log, replica) = self.open(partition)?;
            logs.push(log);
            replicas.push(replica);
        }
        let others = members.iter().filter(|node| **node != self.id);
        let setup = ClusterSetup {
            hello: Hello {
                cluster: CLUSTER,
                from: self.id,
                to: self.id,
                from_core: CoreId(core),
                to_core: CoreId(0),
                cores: self.cores,
                partitions: PARTITIONS,
                message_bytes_max: 4 << 20,
                // Who loses the right to write loses its link then.
                transports: Transports::TCP.with(Transports::RDMA),
                directory: DirectoryTag::default(),
                rdma: RdmaEnd::default(),
            },
            peers: others.map(|node| (*node, address(node.0))).collect(),
            retry: Duration::from_millis(50),
            room_bytes: 4 << 20,
            election: election::Setup {
                node: self.id,
                members: members.clone(),
                heartbeat_every: Duration::from_millis(50),
                suspect_after: Duration::from_millis(300),
                campaign_for: Duration::from_secs(2),
                seed: u64::from(self.id.0) * 77 + 5,
            },
            epoch: self.manifest.epoch,
            window_bytes: 1 << 20,
            counts_memory: config.streams().iter().any(|s| s.level == StreamLevel::QuorumMemory),
            boottime,
            checkpoint_size: config.commit_log.checkpoint_size,
            replicas,
            may_lead: !self.cannot_lead,
            to_control,
        };
        Ok((logs, setup))
    }

    /// Starts it: all of its cores follow. It does not start with a log that is damaged.
    pub(super) fn start(&mut self, outer: &Rc<Outer>, config: &Arc<Config>) -> Result<(), Refused> {
        self.starts += 1;
        self.processes += 1;
        outer.set_clock(&self.clock);
        (self.serves, self.begins, self.leader, self.drained) = (None, None, None, 0);
        (self.seen, self.lease_until) = (0, Nanos(0));
        let rooms = to_control_rooms(PARTITIONS, self.cores);
        let (to_control, from_cores) = mpsc::channel(rooms);
        let setups =
            (0..self.cores).map(|core| self.cluster_setup(core, config, to_control.clone()));
        let setups: Vec<_> = setups.collect::<Result<_, _>>()?;
        let mut endpoints = Mesh::build(usize::from(self.cores) + 1, 256);
        let control = endpoints.pop().expect("the control endpoint is the last");
        let cores = (0..).zip(endpoints).zip(setups).map(|((core, endpoint), (logs, cluster))| {
            outer.network.borrow_mut().restart(self.hosts[usize::from(core)]);
            let room_bytes = cluster.room_bytes;
            let metrics = Arc::new(CoreMetrics::new(self.cores));
            self.metrics.push(Arc::clone(&metrics));
            let setup = CoreSetup {
                core: CoreId(core),
                cores: self.cores,
                placement: self.placement(),
                config: Arc::clone(config),
                metrics,
                listeners: vec![ListenerKind::Tcp],
                seed: u64::from(core),
                memory_bytes: 1 << 30,
                connections_max: 100,
                waits_awake: false,
                readings_max: 64,
                clock: WallClock::default(),
                logs,
                state: None,
                cluster: Some(cluster),
            };
            let doors = Rc::<RefCell<Doors>>::default();
            let host = self.hosts[usize::from(core)];
            let driver = TestDriver::new(
                (Rc::clone(outer), self.clock),
                host,
                self.files[usize::from(core)].clone(),
                Rc::clone(&doors),
            );
            let service = NodeCore::new(setup, self.clock.at(outer.now.get()));
            let (limits, stats) = (TurnLimits::default(), Arc::new(CoreStats::default()));
            let sockets = Sockets::new(100);
            let core = CoreLoop::new(driver, service, sockets, endpoint, Idle::Spin, limits, stats);
            Core { core: core.with_links(Links::new(room_bytes)), doors, has_stopped: false }
        });
        let cores = cores.collect();
        let outbox = VecDeque::new();
        let states = BTreeMap::new();
        self.running = Some(Running {
            cores,
            control,
            from_cores,
            outbox,
            states,
            filled: BTreeMap::new(),
            truncating: Vec::new(),
            is_ending: false,
        });
        Ok(())
    }

    /// The process is killed, and what was not synced is lost.
    pub(super) fn kill(&mut self, outer: &Outer) {
        self.cannot_lead = false;
        self.end_cores(outer);
    }

    fn end_cores(&mut self, outer: &Outer) {
        (self.running, self.tries_at) = (None, None);
        (self.serves, self.begins) = (None, None);
        for (core, files) in self.files.iter().enumerate() {
            outer.network.borrow_mut().crash(self.hosts[core]);
            files.crash(self.starts * 31 + core as u64);
        }
    }

    /// Until when its cores may count on its lease, in the time of the run.
    pub(super) fn lease_ends(&self) -> Nanos {
        self.clock.when(self.lease_until)
    }

    /// What each of its cores has of the logs, while it runs.
    pub(super) fn replicas(&mut self) -> impl Iterator<Item = (PartitionId, &Host)> {
        let cores = self.running.iter_mut().flat_map(|running| &mut running.cores);
        let replicas = cores.filter_map(|core| core.core.service_mut().replicas());
        replicas.flat_map(Replicas::hosts)
    }

    #[cfg(test)]
    pub(super) fn core(&mut self, core: usize) -> &mut NodeCore {
        self.running.as_mut().expect("the node runs").cores[core].core.service_mut()
    }

    /// Postings that named a record which was not there.
    pub(super) fn dropped_postings(&self) -> u64 {
        self.metrics.iter().map(|metrics| metrics.dropped_postings.get()).sum()
    }

    /// Messages that its cores handed to each other.
    pub(super) fn fanout_mails(&self) -> u64 {
        self.metrics.iter().map(|metrics| metrics.fanout_mails.get()).sum()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// A client dials a core.
    pub(super) fn dial(&self, core: usize, wire: usize) {
        let running = self.running.as_ref().expect("the node runs");
        running.cores[core].doors.borrow_mut().dials.push(wire);
    }

    /// The operator tells it to end, or the control thread does.
    pub(super) fn say(&mut self, mail: ControlMail) {
        let running = self.running.as_mut().expect("the node runs");
        for core in 0..running.cores.len() as u16 {
            let mail = match &mail {
                ControlMail::Drain => ControlMail::Drain,
                other => panic!("{other:?} is not for all"),
            };
            let sent = running.control.send(CoreId(core), Mail::Control(Box::new(mail)));
            assert!(sent.is_ok(), "the mailbox has room");
        }
        running.control.publish(&mut |_| ());
    }

    pub(super) fn tell(&mut self, core: u16, mail: ToCore) {
        let running = self.running.as_mut().expect("the node runs");
        running.outbox.push_back((CoreId(core), mail));
    }

    /// A turn of each core, and of the control thread. Begins again where the node has to.
    pub(super) fn turn(&mut self, outer: &Rc<Outer>, config: &Arc<Config>, etcd: &mut Etcd) {
        if self.tries_at.is_some_and(|at| at <= outer.now.get()) {
            self.start_or_name(outer, config);
        }
        let Some(mut running) = self.running.take() else { return };
        outer.set_clock(&self.clock);
        for core in running.cores.iter_mut().filter(|core| !core.has_stopped) {
            let after = core.core.turn().expect("this driver does not fail");
            core.has_stopped = after == After::Stop;
        }
        self.serves = self.begins.take().or(self.serves);
        while let Ok(mail) = running.from_cores.try_recv() {
            self.on_mail(&mut running, mail, etcd, outer.now.get());
        }
        self.truncate_due(&mut running, outer.now.get());
        self.keep_lease(&mut running, etcd);
        self.watch(&mut running, etcd);
        for _ in 0..running.outbox.len() {
            let Some((core, mail)) = running.outbox.pop_front() else { break };
            let mail = Mail::Control(Box::new(ControlMail::Cluster(Box::new(mail))));
            assert!(running.control.send(core, mail).is_ok(), "the mailbox has room");
        }
        running.control.publish(&mut |_| ());
        if running.cores.iter().any(|core| !core.has_stopped) {
            self.running = Some(running);
            return;
        }
        drop(running);
        // What it had flushed is all that it finds.
        self.end_cores(outer);
        self.start_or_name(outer, config);
    }

    /// Starts it, or has it say what is damaged.
    pub(super) fn start_or_name(&mut self, outer: &Rc<Outer>, config: &Arc<Config>) {
        if let Err(refused) = self.start_with_room(outer, config) {
            self.name(format!("{refused:?}"));
        }
    }

    /// Whether a bit has turned on its disks, in a file that is still there.
    pub(super) fn is_flawed(&self) -> bool {
        let is_there = |Flaw { partition, path, .. }: &Flaw| self.files_of(*partition).len(path);
        self.flaw.as_ref().is_some_and(|flaw| is_there(flaw).is_ok())
    }

    /// It says that a log is damaged.
    fn name(&mut self, why: String) {
        assert!(self.flaw.is_some(), "a log is damaged on a disk that is whole: {why}");
        self.names.get_or_insert(why);
    }

    /// The same, and it leads no more before its process is started anew.
    fn name_for_good(&mut self, why: String) {
        self.cannot_lead = true;
        self.name(why);
    }

    /// Starts it, or tries again later if there is no room on its disk.
    pub(super) fn start_with_room(
        &mut self,
        outer: &Rc<Outer>,
        config: &Arc<Config>,
    ) -> Result<(), Refused> {
        self.tries_at = None;
        match self.start(outer, config) {
            Err(Refused::NoRoom(_)) => {
                self.no_room_for += 1;
                self.tries_at = Some(outer.now.get() + TRY_AGAIN);
                Ok(())
            }
            other => other,
        }
    }

    /// Etcd tells of each epoch that it gives.
    fn watch(&mut self, running: &mut Running, etcd: &Etcd) {
        if !etcd.is_away && self.seen < etcd.epoch {
            self.seen = etcd.epoch;
            let seen = ToCore::EpochSeen { epoch: etcd.epoch, leader: etcd.leader };
            running.outbox.push_back((CoreId(0), seen));
        }
    }

    /// What the keeper of a node that leads tells its cores.
    fn keep_lease(&mut self, running: &mut Running, etcd: &Etcd) {
        let Some(epoch) = self.begins.or(self.serves) else { return };
        let due =
            self.begins.is_some() || self.kept_at + etcd.lease / KEEPS_PER_LEASE <= boottime();
        if etcd.is_away || etcd.epoch != epoch || !due {
            return;
        }
        self.kept_at = boottime();
        let until = self.kept_at + etcd.lease;
        self.lease_until = until;
        for core in (0..self.cores).map(CoreId) {
            running.outbox.push_back((core, ToCore::Lease { until }));
        }
    }

    fn on_mail(&mut self, running: &mut Running, mail: ToControl, etcd: &mut Etcd, now: Nanos) {
        match mail {
            ToControl::AskForEpoch { observed } => {
                // None is given to who has not heard of the newest one.
                let answer = if etcd.epoch <= observed.max(self.seen) && !etcd.is_away {
                    etcd.epoch = observed.max(etcd.epoch) + 1;
                    etcd.leader = Some(self.id);
                    ToCore::EpochGiven { epoch: etcd.epoch }
                } else {
                    ToCore::EpochRefused
                };
                running.outbox.push_back((CoreId(0), answer));
            }
            ToControl::PersistEpoch { core, reign } => {
                self.manifest = self.manifest.and(reign);
                let epoch = self.manifest.epoch;
                running.outbox.push_back((core, ToCore::EpochDurable { epoch }));
            }
            ToControl::Truncate { core, partition, to, from } => {
                let at = now + self.truncation_takes;
                running.truncating.push(Truncation { at, core, partition, to, from });
            }
            ToControl::Replace { core, partition, .. } if self.replaces => {
                match self.replace(partition.0) {
                    Ok(learned) => {
                        let learned = Box::new(learned);
                        running.outbox.push_back((core, ToCore::Replaced { partition, learned }));
                    }
                    Err(refused) => self.cannot_change(running, refused),
                }
            }
            // It does not come so far.
            ToControl::Replace { .. } => {}
            ToControl::ClearDamage { core, partition } => {
                running.filled.insert(partition.0, core);
                if running.filled.len() == PARTITIONS as usize {
                    self.is_learner = false;
                    let filled = core::mem::take(&mut running.filled).into_iter();
                    running.outbox.extend(filled.map(|(partition, core)| {
                        (core, ToCore::DamageCleared { partition: PartitionId(partition) })
                    }));
                }
            }
            ToControl::State { partition, epoch, given } => {
                running.states.insert(partition.0, (epoch, given));
                self.begin(running, epoch);
            }
            ToControl::Leader { leader, .. } => self.leader = leader,
            ToControl::Progress { partitions, others } => {
                self.ready = others.map_or_else(|| core::mem::take(&mut self.ready), |o| o.ready);
                self.progress.extend(partitions.into_iter().map(|p| (p.partition.0, p)));
            }
            ToControl::Ended { why, .. } => self.end(running, why),
            ToControl::CannotLead { why } => self.name_for_good(why),
            ToControl::Drained { .. } => self.drained += 1,
            ToControl::Client(client) => self.passed_on.push(client),
        }
    }

    fn end(&mut self, running: &mut Running, why: String) {
        if core::mem::replace(&mut running.is_ending, true) {
            return;
        }
        self.ends.push(why);
        (self.serves, self.begins) = (None, None);
        for core in 0..self.cores {
            running.outbox.push_back((CoreId(core), ToCore::End { moved_to: None }));
        }
    }

    fn truncate_due(&mut self, running: &mut Running, now: Nanos) {
        let due = running.truncating.extract_if(.., |truncation| truncation.at <= now);
        for Truncation { core, partition, to, from, .. } in due.collect::<Vec<_>>() {
            match self.truncate(partition.0, to, from) {
                Ok(writer) => {
                    let writer = Box::new(writer);
                    running.outbox.push_back((core, ToCore::Truncated { partition, writer }));
                }
                Err(refused) => self.cannot_change(running, refused),
            }
        }
    }

    /// What the control thread cannot do with a log has the node begin again.
    fn cannot_change(&mut self, running: &mut Running, refused: Refused) {
        let why = match refused {
            Refused::NoRoom(why) => {
                self.no_room_for += 1;
                why
            }
            Refused::Damaged(why) => {
                self.name(why.clone());
                why
            }
        };
        self.end(running, why);
    }

    fn truncate(
        &mut self,
        partition: u32,
        to: Offset,
        from: Option<ReplayFrom>,
    ) -> Result<Writer, Refused> {
        // Numbers of segments are used again.
        self.starts += 1;
        let id = SegmentId(u128::from(self.starts).to_le_bytes());
        let mut files = self.files_to_change(partition);
        truncate(&mut files, &directory(partition), &owner(partition), from.as_ref(), to, id)
            .map_err(|error| refused_log(&error))?;
        self.truncations += 1;
        Ok(self.open(partition)?.0)
    }

    /// A checkpoint that came takes the place of a log.
    fn replace(&mut self, partition: u32) -> Result<Learned, Refused> {
        self.starts += 1;
        let setup = self.log_setup(partition, 0);
        let mut files = self.files_to_change(partition);
        let put = learn::put_in_place(&mut files, &setup, PARTITIONS, 0);
        let put = put.map_err(|error| refused_learn(&error))?.expect("something has come");
        self.learned += 1;
        let path = directory(partition);
        let log = recover(&mut files, &path, &owner(partition), None, &mut |_| {});
        let writer = Writer::new(setup, log.expect("it was just made").log_end());
        Ok(Learned { writer, recovery: put.recovery, checkpoints: put.checkpoints })
    }

    /// Its disks are new ones, and it comes back under its number.
    pub(super) fn wipe(&mut self, epoch: u64) {
        self.replace_disks(epoch, |_| MemoryDisk::new());
    }

    /// The same, with disks made by core.
    pub(super) fn replace_disks(&mut self, epoch: u64, disk: impl Fn(u64) -> MemoryDisk) {
        assert!(self.running.is_none(), "it was stopped");
        self.files = (0..).zip(&self.files).map(|(core, _)| disk(core)).collect();
        self.manifest = Reign { epoch, ..Reign::default() };
        self.is_learner = true;
        (self.flaw, self.names) = (None, None);
        self.progress.clear();
    }

    /// The paths of its files that contain this.
    pub(super) fn files_with(&self, part: &str) -> Vec<PathBuf> {
        let paths = self.files.iter().flat_map(MemoryDisk::paths);
        paths.filter(|path| path.to_string_lossy().contains(part)).collect()
    }

    /// Begins to lead when all partitions have given their state.
    fn begin(&mut self, running: &mut Running, epoch: u64) {
        let is_of_epoch = |(of, _): &(u64, Given)| *of == epoch;
        let states = &mut running.states;
        if states.len() < PARTITIONS as usize || !states.values().all(is_of_epoch) {
            return;
        }
        let given = core::mem::take(states).into_values().map(|(_, given)| given);
        let given: Vec<Given> = given.collect();
        let ends: Vec<_> = given.iter().map(|given| given.start).collect();
        let placement = self.placement();
        let mut read = |partition: PartitionId, from, each: &mut dyn FnMut(&Record<'_>)| {
            let end = ends[partition.0 as usize];
            opening::read_log(&self.files_of(partition.0), &owner(partition.0), from..end, each)
        };
        let given = put_together(given, &placement);
        let node = match NodeState::build(given, &ends, &placement, &mut |_| false, &mut read) {
            Ok(node) => node,
            Err(why) => {
                self.name_for_good(why.clone());
                return self.end(running, why);
            }
        };
        let states = node.split(&placement, epoch);
        for (core, state) in (0..).zip(states) {
            let state = Box::new(RestoredState(state));
            running.outbox.push_back((CoreId(core), ToCore::Begin { epoch, state }));
        }
        self.begins = Some(epoch);
    }
}
