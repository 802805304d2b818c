//! What runs on a node: the replicas of all partitions with their logs, and the links to other nodes.
//!
//! All of it is the broker's own code but what joins it here, and the clients.

use crate::counters::Counter;
use crate::ledger::Mark;
use crate::node::{
    CLUSTER, RECORD_BYTES_MAX, damage_path, epoch_path, log_setup, open_log, reign_bytes,
};
use crate::random::Random;
use crate::trace::hash;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use ringlane_dataplane::batch::{BatchPool, Level, Parts, Promise};
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::disk::{Disk, DiskCommand, DiskEvent, DiskToken, FileDriver, FileJob};
use ringlane_dataplane::ids::{CoreId, NodeId, PartitionId};
use ringlane_dataplane::link::{Body, LinkEvent, LinkId, Links, Unsent};
use ringlane_dataplane::log::format::SegmentId;
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::segments::LogSetup;
use ringlane_dataplane::log::truncate::truncate;
use ringlane_dataplane::log::writer::{Admission, Writer};
use ringlane_dataplane::message::{MessageHead, MessageMeter};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::replication::command::{Errand, Refusal};
use ringlane_dataplane::replication::election::{self, Election};
use ringlane_dataplane::replication::hello::{Hello, RdmaEnd, Transports};
use ringlane_dataplane::replication::host::{Ask, Host, Outside, Turn};
use ringlane_dataplane::replication::message::{Envelope, Message};
use ringlane_dataplane::replication::reign::Reign;
use ringlane_dataplane::replication::replica::RoleKind;
use ringlane_dataplane::replication::wire;
use ringlane_dataplane::routing::CoreSet;
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// Partitions of the cluster.
pub const PARTITIONS: usize = 2;
/// The tag of what the node itself asks of its disk; lower than those of the logs.
const NODE_TAG: u64 = 1;
/// How often a link that is missing is dialed.
const DIAL_EVERY: Duration = Duration::from_millis(100);
/// How often a node says that it lives, and for how long a leader may be silent.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(50);
const SUSPECT_AFTER: Duration = Duration::from_millis(300);
/// A takeover that takes longer is given up.
const CAMPAIGN_FOR: Duration = Duration::from_secs(2);
/// A write of the node's own that failed is tried again after that.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Why a checkpoint is wrong here.
const NO_CHECKPOINT: &str = "nothing is trimmed here, and nobody needs a checkpoint";

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

/// A message that is published.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Its number.
    pub number: u64,
    /// Where it goes.
    pub partition: usize,
    /// What it says.
    pub payload: Vec<u8>,
    /// What is promised.
    pub promise: Promise,
}

/// What the node has asked of its disk, for one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OwnJob {
    Epoch(usize, Reign),
    ClearDamage(usize),
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
    /// The link to each other node that is up, is dialed, or was greeted.
    peers: Vec<(NodeId, Option<LinkId>, bool)>,
    election: Election,
    asks: VecDeque<(usize, Ask)>,
    /// By their token.
    jobs: Vec<(u64, OwnJob)>,
    again: Vec<(Nanos, OwnJob)>,
    jobs_given: u64,
    /// The epoch that it wants to lead in, or leads in.
    campaigns: Option<u64>,
    dial_at: Nanos,
    random: Random,
    was_full: Vec<bool>,
    pieces_read: Vec<u64>,
    was_corrupted: bool,
    /// Whether its state has become the live one.
    has_led: bool,
    /// What others have to know of.
    pub outputs: Vec<Output>,
}

/// How messages fare that arrive.
#[derive(Clone, Copy, Default, Debug)]
pub struct Weather {
    /// One in so many is lost; 0 for none.
    pub loss: u64,
    /// One in so many comes twice; 0 for none.
    pub repeat: u64,
    /// In one of so many that is long, a bit turns behind its head; 0 for none.
    pub corrupt: u64,
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
    peers: &'a [(NodeId, Option<LinkId>, bool)],
    asks: &'a mut VecDeque<(usize, Ask)>,
    outputs: &'a mut Vec<Output>,
}

impl Outside for Around<'_> {
    fn send(&mut self, to: NodeId, head: &[u8], body: Option<Body>) -> Result<(), Unsent> {
        let link = self.peers.iter().find(|(node, _, is_up)| *node == to && *is_up);
        let link = link.and_then(|(_, link, _)| *link).ok_or(Unsent::NotUp)?;
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
        let others = members.iter().filter(|member| **member != node);
        let peers = others.map(|member| (*member, None, false)).collect();
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
            peers,
            election: Election::new(election, epoch, now),
            asks: VecDeque::new(),
            jobs: Vec::new(),
            again: Vec::new(),
            jobs_given: 0,
            campaigns: None,
            dial_at: now,
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
        let Self { hosts, partitions, pool, disk, peers, asks, outputs, .. } = self;
        let Time { now, unix_ms } = time;
        let mut turn = Turn { now, unix_ms, pool, disk, partition: &mut partitions[partition] };
        let mut around = Around { partition, links, peers, asks, outputs };
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

    // ---- links ----

    /// Something has happened to a link.
    pub fn on_link(
        &mut self,
        links: &mut Links,
        event: LinkEvent<'_>,
        time: Time,
        weather: Weather,
    ) {
        match event {
            LinkEvent::Greeted { link, hello, .. } => self.on_greeted(links, link, hello.from),
            LinkEvent::Up { link, hello } => self.on_up(links, link, hello.from, time),
            LinkEvent::Received { link, message } => {
                self.on_received(links, link, message, time, weather);
            }
            LinkEvent::Room { link } => {
                if let Some(peer) = self.peer_of(link) {
                    self.with_all(time, links, |host, turn, around| {
                        host.with_replica(turn, around, |replica| replica.on_room(peer));
                    });
                }
            }
            LinkEvent::Down { link, .. } => self.on_down(links, link, time),
            LinkEvent::Elsewhere { .. } | LinkEvent::TurnedAway { .. } => {}
        }
        self.do_asks(links, time);
    }

    fn peer_of(&self, link: LinkId) -> Option<NodeId> {
        let known = self.peers.iter().find(|(_, at, _)| *at == Some(link));
        known.map(|(node, ..)| *node)
    }

    fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster: CLUSTER,
            from: self.node,
            to,
            from_core: CoreId(0),
            to_core: CoreId(0),
            cores: 1,
            partitions: PARTITIONS as u32,
            message_bytes_max: 1 << 24,
            transports: Transports::TCP,
            rdma: RdmaEnd::default(),
        }
    }

    /// Who dials again has lost the old link, whatever this node thinks of it.
    fn on_greeted(&mut self, links: &mut Links, link: LinkId, from: NodeId) {
        let hello = self.hello(from);
        let Some(peer) = self.peers.iter_mut().find(|(node, ..)| *node == from) else { return };
        if let Some(old) = peer.1.filter(|_| peer.2) {
            links.revoke(old);
            links.revoke(link);
            return;
        }
        peer.1 = Some(link);
        links.answer(link, hello);
    }

    fn on_up(&mut self, links: &mut Links, link: LinkId, from: NodeId, time: Time) {
        let Some(peer) = self.peers.iter_mut().find(|(_, at, _)| *at == Some(link)) else { return };
        peer.2 = true;
        self.with_all(time, links, |host, turn, around| {
            host.with_replica(turn, around, |replica| replica.on_link_up(from));
        });
        self.election.on_link_up(from, time.now);
    }

    fn on_down(&mut self, links: &mut Links, link: LinkId, time: Time) {
        let Some(peer) = self.peers.iter_mut().find(|(_, at, _)| *at == Some(link)) else { return };
        let node = peer.0;
        let was_up = core::mem::take(&mut peer.2);
        peer.1 = None;
        if was_up {
            self.with_all(time, links, |host, turn, around| {
                host.with_replica(turn, around, |replica| replica.on_link_down(node));
            });
            self.election.on_link_down(node, time.now);
        }
    }

    fn on_received(
        &mut self,
        links: &mut Links,
        link: LinkId,
        message: &[u8],
        time: Time,
        weather: Weather,
    ) {
        let Some(from) = self.peer_of(link) else { return };
        if weather.loss > 0 && self.random.one_in(weather.loss) {
            return self.outputs.push(Output::Count(Counter::Lost));
        }
        let is_long = message.len() > 300;
        let corrupt = is_long && weather.corrupt > 0 && self.random.one_in(weather.corrupt);
        let mut turned = Vec::new();
        let message = if corrupt {
            self.outputs.push(Output::Count(Counter::Corrupted));
            self.was_corrupted = true;
            turned.extend_from_slice(message);
            let at = self.random.between(150, message.len() as u64 - 8) as usize;
            turned[at] ^= 1 << self.random.below(8);
            turned.as_slice()
        } else {
            message
        };
        let (envelope, body) = match wire::decode(message) {
            Err(_) if corrupt => return links.revoke(link),
            Ok(decoded) => decoded,
            Err(error) => return self.fail(format!("node {from} sent no message: {error}")),
        };
        let is_repeated = weather.repeat > 0
            && !matches!(envelope.message, Message::CheckpointPart(_))
            && self.random.one_in(weather.repeat);
        self.on_message(links, from, &envelope, body, time);
        if is_repeated {
            self.outputs.push(Output::Count(Counter::Repeated));
            self.on_message(links, from, &envelope, body, time);
        }
    }

    fn fail(&mut self, what: String) {
        self.outputs.push(Output::Failed(what));
    }

    fn on_message(
        &mut self,
        links: &mut Links,
        from: NodeId,
        envelope: &Envelope,
        body: &[u8],
        time: Time,
    ) {
        match &envelope.message {
            Message::Heartbeat(_) | Message::TakeOver => {
                self.election.on_message(from, envelope, time.now);
            }
            _ => {
                let partition = envelope.partition.0 as usize;
                self.with_host(partition, time, links, |host, turn, around| {
                    host.on_message(from, envelope, body, turn, around);
                });
            }
        }
    }

    // ---- the disk ----

    fn on_disk(&mut self, links: &mut Links, event: DiskEvent, time: Time) {
        if event.token.0 >> 32 == NODE_TAG {
            return self.on_own_job(links, &event, time);
        }
        if let Some(partition) = self.hosts.iter().position(|host| host.owns(&event)) {
            self.with_host(partition, time, links, |host, turn, around| {
                host.on_disk(event, turn, around);
            });
        }
    }

    fn give(&mut self, job: OwnJob) {
        self.jobs_given += 1;
        let token = NODE_TAG << 32 | self.jobs_given;
        let work = match job {
            OwnJob::Epoch(partition, reign) => {
                let content = reign_bytes(&reign);
                FileJob::Replace { path: epoch_path(partition), content }
            }
            OwnJob::ClearDamage(partition) => {
                FileJob::Remove { paths: vec![damage_path(partition)] }
            }
        };
        self.jobs.push((token, job));
        self.disk.push(DiskCommand::Job { token: DiskToken(token), job: work });
    }

    fn on_own_job(&mut self, links: &mut Links, event: &DiskEvent, time: Time) {
        let Some(at) = self.jobs.iter().position(|(token, _)| *token == event.token.0) else {
            return;
        };
        let (_, job) = self.jobs.swap_remove(at);
        if event.result.is_err() {
            self.again.push((time.now + RETRY_AFTER, job));
            return;
        }
        let (OwnJob::Epoch(partition, _) | OwnJob::ClearDamage(partition)) = job;
        self.with_host(partition, time, links, |host, turn, around| {
            host.with_replica(turn, around, |replica| match job {
                OwnJob::Epoch(_, reign) => replica.on_epoch_durable(reign.epoch),
                OwnJob::ClearDamage(_) => replica.on_damage_cleared(),
            });
        });
        if let OwnJob::ClearDamage(_) = job {
            self.outputs.push(Output::Count(Counter::Repaired));
        }
    }

    // ---- what hosts ask for ----

    fn do_asks(&mut self, links: &mut Links, time: Time) {
        while let Some((partition, ask)) = self.asks.pop_front() {
            self.do_ask(links, partition, ask, time);
        }
    }

    fn do_ask(&mut self, links: &mut Links, partition: usize, ask: Ask, time: Time) {
        match ask {
            Ask::Errand(errand) => self.do_errand(links, partition, errand, time),
            Ask::Truncate { to } => self.truncate(links, partition, to.0, time),
            Ask::Lead { epoch, start } => {
                self.has_led = true;
                self.outputs.push(Output::Count(Counter::LeaderChange));
                self.outputs.push(Output::Leads(partition, epoch, start.0));
            }
            Ask::Marks { high_watermark, .. } => {
                self.outputs.push(Output::Marks(partition, high_watermark.0));
            }
            Ask::Lost(error) => self.fail(format!("records cannot be read: {error}")),
            Ask::Follow { .. } if self.has_led => self.outputs.push(Output::BeginsAgain),
            Ask::Follow { .. } => {}
            Ask::Replace => self.fail(NO_CHECKPOINT.to_owned()),
        }
    }

    fn do_errand(&mut self, links: &mut Links, partition: usize, errand: Errand, time: Time) {
        match errand {
            Errand::PersistEpoch(reign) => self.give(OwnJob::Epoch(partition, reign)),
            // Nobody writes into another's memory here: what was not received is not seen.
            Errand::Revoke { .. } => {
                self.with_host(partition, time, links, |host, turn, around| {
                    host.with_replica(turn, around, |replica| replica.on_revoked());
                });
            }
            Errand::ClearDamage => self.give(OwnJob::ClearDamage(partition)),
            Errand::Refuse { peer: Some(peer), why } => self.on_peer_refused(links, peer, why),
            Errand::Refuse { peer: None, why } => self.on_refused(links, why, time),
            Errand::SendCheckpoint { .. }
            | Errand::CheckpointTaken { .. }
            | Errand::TakeCheckpoint { .. }
            | Errand::TakeCheckpointPart { .. } => self.fail(NO_CHECKPOINT.to_owned()),
        }
    }

    fn truncate(&mut self, links: &mut Links, partition: usize, to: u64, time: Time) {
        let epoch = self.hosts[partition].replica().epoch();
        let setup = log_setup(partition, epoch, self.random.any());
        let owner = LogOwner { directory: CLUSTER, partition: PartitionId(partition as u32) };
        let to = ringlane_dataplane::ids::Offset(to);
        let id = SegmentId(core::array::from_fn(|_| self.random.any() as u8));
        let cut = truncate(&mut self.files, &setup.directory, &owner, None, to, id);
        let opened = cut.and_then(|_| open_log(&mut self.files, &setup, &owner));
        let writer = match opened {
            Ok((recovered, _)) => {
                let setup = LogSetup { epoch: recovered.epoch, ..setup };
                Writer::new(setup, recovered.log_end())
            }
            Err(error) => return self.fail(format!("after truncation: {error}")),
        };
        self.outputs.push(Output::Count(Counter::Truncation));
        self.with_host(partition, time, links, |host, turn, around| {
            host.on_truncated(writer, turn, around);
        });
    }

    fn on_peer_refused(&mut self, links: &mut Links, peer: NodeId, why: Refusal) {
        let is_wrong = match why {
            Refusal::Records => !self.was_corrupted,
            Refusal::BelowHighWatermark { .. } | Refusal::Credit => true,
            _ => false,
        };
        if is_wrong {
            self.fail(format!("node {} refuses node {peer}: {why}", self.node));
        }
        let link = self.peers.iter().find(|(node, ..)| *node == peer).and_then(|peer| peer.1);
        if let Some(link) = link {
            links.revoke(link);
        }
    }

    fn on_refused(&mut self, links: &mut Links, why: Refusal, time: Time) {
        if let Refusal::OldEpoch { .. } = why {
            self.outputs.push(Output::Count(Counter::OldEpoch));
        }
        if let Refusal::BelowHighWatermark { .. } = why {
            self.fail(format!("node {}: {why}", self.node));
        }
        self.election.on_gave_up(time.now);
        self.step_down(links, time);
    }

    // ---- leading ----

    /// Etcd gave an epoch.
    pub fn on_epoch_given(&mut self, epoch: u64, time: Time) {
        if epoch <= self.election.epoch() {
            self.outputs.push(Output::Count(Counter::OldEpoch));
        }
        self.election.on_epoch_given(epoch, time.now);
    }

    /// Etcd has given another epoch to another node, or says nothing.
    pub fn on_epoch_refused(&mut self, newer: Option<(u64, NodeId)>, time: Time) {
        if let Some((epoch, leader)) = newer {
            self.election.on_epoch_seen(epoch, Some(leader), time.now);
        }
        self.election.on_epoch_refused(time.now);
    }

    fn step_down(&mut self, links: &mut Links, time: Time) {
        self.with_all(time, links, |host, turn, around| {
            host.with_replica(turn, around, |replica| replica.step_down());
        });
    }

    /// Lets the election know how the replicas are, and does what it asks for.
    fn elect(&mut self, links: &mut Links, time: Time) {
        for host in &self.hosts {
            let replica = host.replica();
            self.election.on_epoch_seen(replica.epoch(), replica.leader(), time.now);
        }
        self.election.set_eligible(self.hosts.iter().all(|host| host.replica().damage().is_none()));
        if let Some(epoch) = self.campaigns {
            let follows = |host: &Host| host.replica().role() == RoleKind::Follower;
            if self.hosts.iter().any(follows) {
                self.campaigns = None;
                self.election.on_gave_up(time.now);
            } else if self.hosts.iter().all(Host::is_leading) {
                self.election.on_leading(epoch, time.now);
            }
        }
        self.election.end_turn(time.now);
        let mut commands = Vec::new();
        self.election.take_commands(&mut commands);
        for command in commands {
            self.do_elect(links, command, time);
        }
        self.do_asks(links, time);
    }

    fn do_elect(&mut self, links: &mut Links, command: election::Command, time: Time) {
        match command {
            election::Command::Send { to, message } => self.say(links, to, &message),
            election::Command::AskForEpoch { observed } => {
                self.outputs.push(Output::AskForEpoch(observed));
            }
            election::Command::Campaign { epoch } => {
                self.campaigns = Some(epoch);
                self.with_all(time, links, |host, turn, around| {
                    host.with_replica(turn, around, |replica| replica.campaign(epoch));
                });
            }
            election::Command::StepDown => {
                self.campaigns = None;
                self.step_down(links, time);
            }
        }
    }

    fn say(&mut self, links: &mut Links, to: NodeId, message: &Envelope) {
        let mut head = Vec::new();
        message.encode(&mut head);
        let link = self.peers.iter().find(|(node, _, is_up)| *node == to && *is_up);
        if let Some(link) = link.and_then(|(_, link, _)| *link) {
            // One that finds no room is not missed: there is other traffic.
            let _sent = links.send(link, &head, None);
        }
    }

    fn dial(&mut self, links: &mut Links) {
        for index in 0..self.peers.len() {
            let (peer, link, _) = self.peers[index];
            if link.is_none() && self.node < peer {
                self.peers[index].1 = links.connect(address_of(peer), self.hello(peer));
            }
        }
    }

    // ---- turns ----

    /// A client publishes. Whether it was taken; then [`Output::Acknowledged`] may follow.
    pub fn publish(&mut self, publish: &Publish, time: Time) -> Option<u64> {
        let Self { hosts, partitions, pool, .. } = self;
        let partition = &mut partitions[publish.partition];
        let is_open = partition.admission() == Admission::Open;
        if !hosts[publish.partition].is_leading() || !is_open {
            return None;
        }
        let parts = Parts {
            head: MessageHead {
                publisher: 0,
                accepted_at: time.now,
                expires_at: Nanos::NEVER,
                topic_bytes: 0,
                properties_bytes: 0,
                qos: 1,
                retain: false,
            },
            client_id: "sim",
            packet_id: 0,
            unix_ms: time.unix_ms,
            topic: "t",
            properties: &[],
            payload: &publish.payload,
        };
        assert!(parts.record_bytes() as u64 <= RECORD_BYTES_MAX, "a payload is short");
        let epoch = partition.log().map(Writer::epoch);
        partition.append(pool, &parts, publish.promise, Some(publish.number));
        epoch
    }

    fn commit(&mut self, partition: usize) {
        let Self { partitions, pool, outputs, .. } = self;
        let log = &mut partitions[partition];
        while let Some(mut batch) = log.take_committed() {
            while let Some(at) = batch.next_committed() {
                if let Some(publish) = batch.take_ack(at) {
                    let offset = batch.offset(at).0;
                    outputs.push(Output::Acknowledged(partition, offset, publish));
                }
                if batch.is_publish(at) {
                    log.commit(&batch, at, CoreSet::default());
                }
            }
            log.finish(pool, batch);
        }
    }

    /// Completions of the disk, as many as `events_max`.
    pub fn complete(&mut self, links: &mut Links, time: Time, events_max: usize) {
        let mut events = Vec::new();
        let mut files = self.files.clone();
        files.complete(&mut self.disk, events_max, &mut |_, event| events.push(event));
        for event in events {
            self.on_disk(links, event, time);
        }
        self.do_asks(links, time);
    }

    /// The rest of a turn.
    pub fn end_turn(&mut self, links: &mut Links, time: Time) {
        self.elect(links, time);
        if self.dial_at <= time.now {
            self.dial_at = time.now + DIAL_EVERY;
            self.dial(links);
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
        let own = [self.election.next_deadline(), self.dial_at];
        hosts.chain(again).chain(own).min().unwrap_or(Nanos::NEVER)
    }

    /// Whether the disk has something under way.
    #[must_use]
    pub fn uses_disk(&self) -> bool {
        self.files.in_flight() > 0
    }
}

/// A message of a publisher.
#[must_use]
pub fn publish_of(number: u64, random: &mut Random) -> Publish {
    let partition = random.below(PARTITIONS as u64) as usize;
    let bytes = if random.one_in(20) { random.between(100, 6000) } else { random.between(8, 300) };
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(bytes as usize, number as u8);
    let level = if random.one_in(3) { Level::Memory } else { Level::LocalDisk };
    Publish { number, partition, payload, promise: Promise { level, quorum: true } }
}
