//! The model that replicas are tested against: nodes with a log each, and links between them.

mod check;
mod node;

use self::node::{Job, Node, Stored};
use crate::batch::Batch;
use crate::ids::{NodeId, Offset, PartitionId};
use crate::log::format::DirectoryId;
use crate::log::record::{
    self, EXPIRY_NONE, Record, RecordFlags, RecordHead, RecordKind, RecordSeed, checksum,
};
use crate::random::Random;
use crate::replication::command::{Command, Errand, Transfer};
use crate::replication::message::{CheckpointPart, Claim, Envelope, Message, WHOLE_NODE};
use crate::replication::reign::Reign;
use crate::replication::replica::{Replica, RoleKind};
use crate::replication::wire;
use crate::time::Nanos;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const PARTITION: PartitionId = PartitionId(3);
const DIRECTORY: DirectoryId = DirectoryId([7; 16]);
const CHECKPOINT_BYTES: u64 = 20;

fn seed() -> RecordSeed {
    RecordSeed::new(&DIRECTORY, PARTITION)
}

/// What may happen beside messages that are delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replication) struct Faults {
    crashes: bool,
}

impl Faults {
    pub(in crate::replication) const ALL: Self = Self { crashes: true };
    pub(in crate::replication) const NETWORK: Self = Self { crashes: false };
}

/// What happened in a run.
#[derive(Clone, Default, Debug)]
pub(in crate::replication) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(in crate::replication) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// All that the runs are for has happened.
    pub(in crate::replication) fn check(&self) {
        println!("{:?}", self.0);
        for what in [
            "lead",
            "committed",
            "truncated",
            "crash",
            "damaged",
            "wiped",
            "damage cleared",
            "lost",
            "repeated",
            "fetched",
            "read",
            "unread",
            "checkpoint",
            "no room",
            "handed over",
            "stale",
        ] {
            assert!(self.0.contains_key(what), "no run had: {what}");
        }
    }
}

/// Links, in both directions each: in order, until they go down.
#[derive(Default)]
struct Network {
    up: BTreeSet<(NodeId, NodeId)>,
    queues: BTreeMap<(NodeId, NodeId), VecDeque<Vec<u8>>>,
    no_room: BTreeSet<(NodeId, NodeId)>,
}

impl Network {
    fn is_up(&self, one: NodeId, two: NodeId) -> bool {
        self.up.contains(&(one.min(two), one.max(two)))
    }
}

pub(in crate::replication) struct World {
    random: Random,
    now: Nanos,
    nodes: Vec<Node>,
    network: Network,
    revision: u64,
    /// What was acknowledged, by offset.
    ledger: Vec<Stored>,
    /// Who has ever flushed which record.
    flushed: BTreeMap<(u64, u64), BTreeSet<NodeId>>,
    leaders: BTreeMap<u64, NodeId>,
    faults: Faults,
    /// Of every other seed.
    counts_memory: bool,
    is_healing: bool,
    written: u64,
    pub(in crate::replication) counters: Counters,
}

impl World {
    pub(in crate::replication) fn new(seed: u64, nodes: u16, faults: Faults) -> Self {
        let mut world = Self {
            random: Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678_9ABC_DEF1),
            now: Nanos(1),
            nodes: (1..=nodes).map(|node| Node::new(NodeId(node))).collect(),
            network: Network::default(),
            revision: 0,
            ledger: Vec::new(),
            flushed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            faults,
            counts_memory: seed.is_multiple_of(2),
            is_healing: false,
            written: 0,
            counters: Counters::default(),
        };
        for index in 0..world.nodes.len() {
            world.start(index);
        }
        world
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random.below(below)
    }

    fn any_node(&mut self) -> usize {
        let count = self.nodes.len() as u64;
        self.random(count) as usize
    }

    fn members(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    fn start(&mut self, index: usize) {
        let members = self.members();
        self.nodes[index].open(members.clone(), self.counts_memory);
        for other in members {
            if self.random(2) == 0 {
                self.link_up(self.nodes[index].id, other);
            }
        }
    }

    fn index(node: NodeId) -> usize {
        usize::from(node.0) - 1
    }

    fn replica(&mut self, node: NodeId) -> Option<&mut Replica> {
        self.nodes[Self::index(node)].replica.as_mut()
    }

    fn link_up(&mut self, one: NodeId, two: NodeId) {
        let is_there = |node| self.nodes[Self::index(node)].replica.is_some();
        if one == two || !is_there(one) || !is_there(two) || self.network.is_up(one, two) {
            return;
        }
        self.network.up.insert((one.min(two), one.max(two)));
        for (node, peer) in [(one, two), (two, one)] {
            if let Some(replica) = self.replica(node) {
                replica.on_link_up(peer);
            }
        }
    }

    fn link_down(&mut self, one: NodeId, two: NodeId) {
        if !self.network.up.remove(&(one.min(two), one.max(two))) {
            return;
        }
        for (node, peer) in [(one, two), (two, one)] {
            self.network.queues.remove(&(node, peer));
            self.network.no_room.remove(&(node, peer));
            if let Some(replica) = self.replica(node) {
                replica.on_link_down(peer);
            }
        }
    }

    fn crash(&mut self, index: usize) {
        let id = self.nodes[index].id;
        for other in self.members() {
            self.link_down(id, other);
        }
        let goes_on = self.random(2) == 0;
        let node = &mut self.nodes[index];
        node.records.truncate((node.flushed - node.start) as usize);
        node.replica = None;
        // A checkpoint that is whole may have its name: then its start goes on with it.
        let is_reset = |job: &Job| if let Job::Reset(start) = job { Some(*start) } else { None };
        if let Some(start) = node.jobs.iter().find_map(is_reset).filter(|_| goes_on) {
            self.counters.count("checkpoint at start");
            node.reset(start);
        }
        self.nodes[index].jobs.clear();
    }

    fn is_any_damaged(&self) -> bool {
        self.nodes.iter().any(|node| node.damage.is_some())
    }

    fn crash_somehow(&mut self) {
        let index = self.any_node();
        if self.nodes[index].replica.is_none() {
            return;
        }
        self.counters.count("crash");
        self.crash(index);
        if self.random(8) > 0 || self.is_any_damaged() || self.nodes.len() == 1 {
            return;
        }
        let is_wiped = self.random(3) == 0;
        let records = self.nodes[index].records.len() as u64;
        let kept = self.random(records + 1) as usize;
        let node = &mut self.nodes[index];
        if is_wiped {
            self.counters.count("wiped");
            let fresh = Node::new(node.id);
            // Its promise is gone with the manifest: it begins with the newest epoch that was given out.
            let manifest = Reign { epoch: self.revision, ..Reign::default() };
            *node = Node { damage: Some(Claim::ALL), manifest, ..fresh };
            return;
        }
        self.counters.count("damaged");
        node.damage = Some(node.claim());
        node.records.truncate(kept);
        if kept == 0 {
            // Where a log of which nothing is left began, nobody knows.
            (node.start, node.epoch_before) = (0, None);
        }
        node.flushed = node.next();
    }

    /// Something happens.
    pub(in crate::replication) fn step(&mut self) {
        let dice = self.random(1000);
        match dice {
            0..=499 => self.deliver(),
            500..=649 => self.flush(),
            650..=749 => self.work(),
            750..=849 => self.publish(),
            850..=909 => self.pass_time(),
            910..=929 => self.change_link(),
            930..=939 => self.lose(),
            940..=944 => self.campaign_somewhere(),
            945..=949 if self.faults.crashes => self.crash_somehow(),
            950..=969 => self.restart(),
            970..=974 => self.trim(),
            975..=984 => self.make_room(),
            985..=986 => self.step_down(),
            _ => self.pass_time(),
        }
        self.settle();
    }

    fn any_queue(&mut self) -> Option<(NodeId, NodeId)> {
        let queues = self.network.queues.iter().filter(|(_, queue)| !queue.is_empty());
        let queues: Vec<_> = queues.map(|(lane, _)| *lane).collect();
        if queues.is_empty() {
            return None;
        }
        let index = self.random(queues.len() as u64) as usize;
        Some(queues[index])
    }

    fn deliver(&mut self) {
        let Some(lane) = self.any_queue() else { return };
        let repeats = !self.is_healing && self.random(40) == 0;
        let Some(queue) = self.network.queues.get_mut(&lane) else { return };
        let Some(bytes) = queue.pop_front() else { return };
        if repeats {
            self.counters.count("repeated");
            let queue = self.network.queues.entry(lane).or_default();
            let at = if queue.len() > 3 { 3 } else { queue.len() };
            queue.insert(at, bytes.clone());
        }
        let (envelope, body) = wire::decode(&bytes).expect("what was said is heard");
        let (from, to) = lane;
        if let Message::TakeOver = envelope.message {
            self.counters.count("handed over");
            return self.campaign(Self::index(to));
        }
        match envelope.message {
            Message::Stale => self.counters.count("stale"),
            Message::Fetched(_) => self.counters.count("fetched"),
            _ => {}
        }
        let node = &mut self.nodes[Self::index(to)];
        if let Some(replica) = &mut node.replica {
            replica.on_message(from, &envelope, body.into(), &mut node.pool);
        }
    }

    fn lose(&mut self) {
        if let Some(queue) = self.any_queue().and_then(|l| self.network.queues.get_mut(&l)) {
            let is_piece = queue.front().is_some_and(|bytes| {
                let (envelope, _) = wire::decode(bytes).expect("what was said is heard");
                matches!(
                    envelope.message,
                    Message::CheckpointStart(_)
                        | Message::CheckpointPart(_)
                        | Message::CheckpointTaken { .. }
                )
            });
            if !is_piece {
                queue.pop_front();
                self.counters.count("lost");
            }
        }
    }

    fn change_link(&mut self) {
        let (one, two) = (self.any_node(), self.any_node());
        let (one, two) = (self.nodes[one].id, self.nodes[two].id);
        if self.random(3) == 0 { self.link_down(one, two) } else { self.link_up(one, two) }
    }

    fn make_room(&mut self) {
        let lanes: Vec<_> = self.network.no_room.iter().copied().collect();
        for (from, to) in lanes {
            self.network.no_room.remove(&(from, to));
            if let Some(replica) = self.replica(from) {
                replica.on_room(to);
            }
        }
        if !self.is_healing && self.random(3) == 0 {
            let (one, two) = (self.any_node(), self.any_node());
            let lane = (self.nodes[one].id, self.nodes[two].id);
            if self.network.is_up(lane.0, lane.1) {
                self.network.no_room.insert(lane);
            }
        }
    }

    fn restart(&mut self) {
        let index = self.any_node();
        if self.nodes[index].replica.is_none() {
            self.start(index);
        }
    }

    fn pass_time(&mut self) {
        let ms = 1 + self.random(60);
        self.now = self.now + Duration::from_millis(ms);
    }

    fn campaign_somewhere(&mut self) {
        let index = self.any_node();
        self.campaign(index);
    }

    fn campaign(&mut self, index: usize) {
        self.revision += 1;
        let epoch = self.revision;
        if let Some(replica) = &mut self.nodes[index].replica {
            replica.campaign(epoch);
        }
    }

    fn step_down(&mut self) {
        let index = self.any_node();
        if let Some(replica) = &mut self.nodes[index].replica {
            replica.step_down();
        }
    }

    /// Some of what is in memory becomes durable.
    fn flush(&mut self) {
        let index = self.any_node();
        let node = &self.nodes[index];
        if node.replica.is_none() || node.jobs.iter().any(|job| matches!(job, Job::Truncate(_))) {
            return;
        }
        let unflushed = node.next() - node.flushed;
        let more = self.random(unflushed + 1);
        let node = &mut self.nodes[index];
        for offset in node.flushed..node.flushed + more {
            let key = (offset, node.at(offset).epoch);
            self.flushed.entry(key).or_default().insert(node.id);
        }
        node.flushed += more;
        let (start, flushed) = (Offset(node.start), Offset(node.flushed));
        if let Some(replica) = &mut node.replica {
            replica.on_progress(start, flushed);
        }
    }

    fn trim(&mut self) {
        let index = self.any_node();
        let node = &mut self.nodes[index];
        let Some(replica) = &mut node.replica else { return };
        let below = replica.high_watermark().0.min(node.flushed.saturating_sub(1));
        if below <= node.start || !node.jobs.is_empty() {
            return;
        }
        let last = node.records.drain(..(below - node.start) as usize).next_back();
        (node.start, node.epoch_before) = (below, last.map(|record| record.epoch));
        replica.on_progress(Offset(below), Offset(node.flushed));
        node.checked = node.checked.max(below);
    }

    fn publish(&mut self) {
        let index = self.any_node();
        let node = &mut self.nodes[index];
        let Some(replica) = &node.replica else { return };
        let Some(epoch) = node.appends_in.filter(|_| replica.is_serving()) else { return };
        if node.next() - node.flushed > 30 {
            return;
        }
        let count = 1 + self.random(4);
        self.append(index, RecordKind::PUBLISH, count, epoch);
    }

    fn append(&mut self, index: usize, kind: RecordKind, count: u64, epoch: u64) {
        let mut body = Vec::new();
        for offset in (self.nodes[index].next()..).take(count as usize) {
            self.written += 1;
            let payload = self.written.to_le_bytes();
            let head = RecordHead {
                offset: Offset(offset),
                unix_ms: 0,
                epoch,
                kind,
                flags: RecordFlags::default(),
                packet_id: 0,
                expiry_secs: EXPIRY_NONE,
            };
            let parts = ("client", "a/b", &[][..]);
            let (client_id, topic, properties) = parts;
            let record = Record { head, client_id, topic, properties, payload: &payload };
            record::encode(seed(), &record, &mut body);
        }
        let node = &mut self.nodes[index];
        let (first, batch) = (node.next(), node.pool.copy_records(&body, count as u32));
        node.store(&batch, first, epoch);
        if let Some(replica) = &mut node.replica {
            replica.on_sealed(&batch, Offset(first), epoch);
        }
        node.pool.give_out(batch);
    }

    /// A node does the next thing that it was asked for.
    fn work(&mut self) {
        let index = self.any_node();
        if let Some(job) = self.nodes[index].jobs.pop_front() {
            self.do_job(index, job);
        }
    }

    fn do_job(&mut self, index: usize, job: Job) {
        if let Job::Revoke(peers) = &job {
            let id = self.nodes[index].id;
            // What was on its way is lost, and a new link takes the place of the old one.
            for peer in peers
                .iter()
                .filter(|peer| self.network.is_up(id, **peer))
                .copied()
                .collect::<Vec<_>>()
            {
                self.link_down(id, peer);
                self.link_up(id, peer);
            }
        }
        let node = &mut self.nodes[index];
        let Some(replica) = &mut node.replica else { return };
        match job {
            Job::Persist(reign) => {
                node.manifest = node.manifest.and(reign);
                replica.on_epoch_durable(node.manifest.epoch);
            }
            Job::Revoke(_) => replica.on_revoked(),
            Job::Truncate(to) => {
                self.counters.count("truncated");
                node.records.truncate((to.0 - node.start) as usize);
                node.flushed = to.0;
                replica.on_truncated(to);
                node.flushed_is(&mut self.flushed);
            }
            Job::Read(peer, from, bytes_max) => {
                self.counters.count("read");
                // A candidate is told that there is nothing.
                let answers = replica.role() == RoleKind::Follower && !self.is_healing;
                let is_unread = answers && self.random.below(8) == 0;
                let batch = if is_unread { None } else { node.read(from.0, bytes_max) };
                if is_unread {
                    self.counters.count("unread");
                }
                if let Some(replica) = &mut node.replica {
                    replica.on_read(peer, from, batch.as_ref());
                }
            }
            Job::Clear => {
                self.counters.count("damage cleared");
                node.damage = None;
                replica.on_damage_cleared();
            }
            Job::Write(position) => replica.on_checkpoint_written(position),
            Job::Reset(start) => {
                self.counters.count("checkpoint");
                replica.on_reset(start.start, start.epoch);
                node.reset(start);
            }
        }
    }

    /// Turns end, commands are carried out, and everything is checked.
    fn settle(&mut self) {
        for index in 0..self.nodes.len() {
            let mut commands = Vec::new();
            if let Some(replica) = &mut self.nodes[index].replica {
                replica.end_turn(self.now);
                replica.take_commands(&mut commands);
            }
            for command in commands {
                self.carry_out(index, command);
            }
        }
        for index in 0..self.nodes.len() {
            self.check(index);
        }
    }

    fn carry_out(&mut self, index: usize, command: Command) {
        let node = &mut self.nodes[index];
        let id = node.id;
        match command {
            Command::Send { to, message, body } => self.send(id, to, &message, body.as_deref()),
            Command::Errand(Errand::PersistEpoch(reign)) => {
                node.jobs.push_back(Job::Persist(reign))
            }
            Command::Errand(Errand::Revoke { peers }) => node.jobs.push_back(Job::Revoke(peers)),
            Command::Append { batch, first, epoch } => {
                node.store(&batch, first.0, epoch);
                node.pool.give_out(batch);
            }
            Command::Truncate { to } => node.jobs.push_back(Job::Truncate(to)),
            Command::Read { peer, from, bytes_max } => {
                node.jobs.push_back(Job::Read(peer, from, bytes_max));
            }
            Command::StartEpoch { epoch } => {
                let other = self.leaders.insert(epoch, id);
                assert_eq!(other, None, "one leader per epoch");
                node.appends_in = Some(epoch);
                self.append(index, RecordKind::EPOCH_START, 1, epoch);
            }
            Command::Lead { epoch, .. } => {
                assert_eq!(node.appends_in, Some(epoch));
                self.counters.count("lead");
                let next = node.next();
                assert!(node.state <= next, "its state is that of a record that it has");
                self.holds_all(index);
            }
            Command::Follow { .. } => node.appends_in = None,
            Command::Marks { .. } => {}
            Command::Transfer(transfer) => Self::transfer(node, transfer),
            Command::Errand(Errand::SendCheckpoint { peer }) => self.send_checkpoint(index, peer),
            Command::Errand(Errand::ClearDamage) => node.jobs.push_back(Job::Clear),
            Command::Errand(Errand::Refuse { peer: Some(peer), .. }) => {
                self.counters.count("refused");
                self.link_down(id, peer);
            }
            Command::Errand(Errand::Refuse { peer: None, .. }) => self.counters.count("gave up"),
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &Envelope, body: Option<&Batch>) {
        assert!(message.partition == PARTITION || message.partition == WHOLE_NODE);
        let has_room = !self.network.no_room.contains(&(from, to));
        if !self.network.is_up(from, to) || !has_room {
            self.counters.count("no room");
            if let Some(replica) = self.replica(from) {
                replica.on_no_room(to, &message.message);
            }
            return;
        }
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        if let Some(batch) = body {
            bytes.extend_from_slice(batch.body());
        }
        self.network.queues.entry((from, to)).or_default().push_back(bytes);
    }

    /// What comes is written, and put in place once it is whole. What an earlier one wrote does not count.
    fn transfer(node: &mut Node, transfer: Transfer) {
        match transfer {
            Transfer::Taken { .. } => {}
            Transfer::Begin { start } => {
                node.jobs.retain(|job| !matches!(job, Job::Write(_)));
                node.checkpoint = Some((start, 0));
            }
            Transfer::Part { bytes } => {
                let (_, taken) = node.checkpoint.as_mut().expect("a checkpoint was announced");
                *taken += bytes.len() as u64;
                node.jobs.push_back(Job::Write(*taken));
            }
            Transfer::Replace { start } => node.jobs.push_back(Job::Reset(start)),
        }
    }

    /// All that is committed, in two pieces.
    fn send_checkpoint(&mut self, index: usize, peer: NodeId) {
        let node = &mut self.nodes[index];
        let Some(replica) = &mut node.replica else { return };
        let next = replica.high_watermark();
        let (id, epoch_of_node) = (node.id, replica.epoch());
        if replica.role() != RoleKind::Leader {
            // It was deposed between the command and now.
            return;
        }
        let start = replica.checkpoint_start(peer, next, CHECKPOINT_BYTES);
        let start = start.expect("the epoch before the start of a log is known");
        let envelope = |message| Envelope { partition: PARTITION, epoch: epoch_of_node, message };
        self.send(id, peer, &envelope(Message::CheckpointStart(start)), None);
        for position in [0, CHECKPOINT_BYTES / 2] {
            let piece = [9; CHECKPOINT_BYTES as usize / 2];
            let crc = checksum(&piece);
            let part = CheckpointPart { position, bytes: piece.len() as u32, crc };
            let batch = self.nodes[index].pool.copy_records(&piece, 1);
            self.send(id, peer, &envelope(Message::CheckpointPart(part)), Some(&*batch));
        }
    }
}
