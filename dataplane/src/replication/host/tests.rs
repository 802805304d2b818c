//! Hosts in one process, whose messages are handed over by hand.

mod transfer;

use super::{Ask, HOST_TAGS, Host, Outside, Source, Turn};
use crate::batch::{BatchPool, Level, Parts, Promise};
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, FileDriver};
use crate::ids::{NodeId, Offset, PartitionId};
use crate::link::{Body, Unsent};
use crate::log::format::{DirectoryId, SegmentId};
use crate::log::record::Record;
use crate::log::recovery::{Recovered, recover};
use crate::log::reset::reset;
use crate::log::scan::LogOwner;
use crate::log::segments::LogSetup;
use crate::log::truncate::truncate;
use crate::log::writer::Writer;
use crate::message::{MessageHead, MessageMeter};
use crate::partition::Partition;
use crate::replication::command::Errand;
use crate::replication::message::Claim;
use crate::replication::replica::{Opened, Setup};
use crate::replication::wire;
use crate::routing::CoreSet;
use crate::time::Nanos;
use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

const OWNER: LogOwner = LogOwner { directory: DirectoryId([9; 16]), partition: PartitionId(0) };

fn log_setup(epoch: u64, secret: u8) -> LogSetup {
    LogSetup {
        partition: OWNER.partition,
        directory: PathBuf::from("/data/0"),
        directory_id: OWNER.directory,
        epoch,
        secret: [secret; 16],
        segment_bytes: 64 * 1024,
        record_bytes_max: 4096,
        tag: HOST_TAGS,
    }
}

#[derive(Default)]
struct Around {
    node: u16,
    /// From, to, bytes.
    sent: VecDeque<(u16, u16, Vec<u8>)>,
    asks: VecDeque<Ask>,
    applied: Vec<(u64, u64, Vec<u8>)>,
    /// Whether messages alone need not be applied one by one, and which were not: offset, how many, epoch.
    passes: bool,
    passed: Vec<(u64, u64, u64)>,
    /// To whom, and where the records lie that were sent.
    bodies: Vec<(u16, *const u8)>,
    log: Vec<String>,
}

impl Outside for Around {
    fn send(&mut self, to: NodeId, head: &[u8], body: Option<Body>) -> Result<(), Unsent> {
        self.bodies.extend(body.as_ref().map(|body| (to.0, body.bytes().as_ptr())));
        let mut message = head.to_vec();
        message.extend_from_slice(body.as_ref().map_or(&[], Body::bytes));
        self.sent.push_back((self.node, to.0, message));
        Ok(())
    }

    fn ask(&mut self, ask: Ask) {
        self.asks.push_back(ask);
    }

    fn apply(&mut self, record: &Record<'_>) {
        let head = &record.head;
        self.applied.push((head.offset.0, head.epoch, record.payload.to_vec()));
    }

    fn pass(&mut self, first: Offset, records: u64, epoch: u64) -> bool {
        if self.passes {
            self.passed.push((first.0, records, epoch));
        }
        self.passes
    }
}

struct Node {
    id: NodeId,
    host: Host,
    partition: Partition<u64>,
    files: MemoryDisk,
    disk: Disk,
    pool: BatchPool,
    around: Around,
    acks: Vec<u64>,
    reopened: u8,
    /// Nothing that it asked of the disk ends.
    disk_stands_still: bool,
    /// What it sends to who lacks records.
    checkpoint: Option<Source>,
}

impl Node {
    fn new(id: u16, members: u16) -> Self {
        Self::opened(id, members, Opened::default())
    }

    fn opened(id: u16, members: u16, opened: Opened) -> Self {
        Self::with(id, members, opened, false)
    }

    fn with(id: u16, members: u16, opened: Opened, counts_memory: bool) -> Self {
        let mut files = MemoryDisk::new();
        let setup = log_setup(0, id as u8);
        let recovered: Recovered =
            recover(&mut files, &setup.directory, &OWNER, None, &mut |_| {}).unwrap();
        let replica = Setup {
            node: NodeId(id),
            partition: OWNER.partition,
            members: (1..=members).map(NodeId).collect(),
            seed: OWNER.seed(),
            record_bytes_max: 4096,
            counts_memory,
            window_bytes: 32 * 1024,
        };
        let writer = Writer::new(setup, recovered.log_end());
        Self {
            id: NodeId(id),
            host: Host::new(replica, opened, Offset(0), HOST_TAGS),
            partition: Partition::with_log(OWNER.partition, writer),
            files,
            disk: Disk::new(),
            pool: BatchPool::new(MessageMeter::leaked()),
            around: Around { node: id, ..Around::default() },
            acks: Vec::new(),
            reopened: 0,
            disk_stands_still: false,
            checkpoint: None,
        }
    }

    fn call<R>(
        &mut self,
        now: Nanos,
        call: impl FnOnce(&mut Host, &mut Turn<'_, u64>, &mut Around) -> R,
    ) -> R {
        let Self { host, partition, pool, disk, around, .. } = self;
        let mut turn = Turn { now, unix_ms: 1_800_000_000_000, pool, disk, partition };
        call(host, &mut turn, around)
    }

    fn commit(&mut self) {
        let log = &mut self.partition;
        while let Some(mut batch) = log.take_committed() {
            while let Some(at) = batch.next_committed() {
                self.acks.extend(batch.take_ack(at));
                if batch.is_publish(at) {
                    log.commit(&batch, at, CoreSet::default());
                }
            }
            log.finish(&mut self.pool, batch);
        }
    }

    fn do_ask(&mut self, ask: Ask, now: Nanos) {
        match ask {
            Ask::Errand(Errand::PersistEpoch(reign)) => self.call(now, |host, turn, around| {
                host.with_replica(turn, around, |replica| replica.on_epoch_durable(reign.epoch));
            }),
            Ask::Errand(Errand::Revoke { .. }) => self.call(now, |host, turn, around| {
                host.with_replica(turn, around, |replica| replica.on_revoked());
            }),
            Ask::Truncate { to } => {
                self.reopened += 1;
                let setup = log_setup(0, 100 + self.reopened);
                let id = SegmentId([self.reopened; 16]);
                truncate(&mut self.files, &setup.directory, &OWNER, None, to, id).unwrap();
                let found = recover(&mut self.files, &setup.directory, &OWNER, None, &mut |_| {});
                let found = found.unwrap();
                let setup = LogSetup { epoch: found.epoch, ..setup };
                let writer = Writer::new(setup, found.log_end());
                self.around.log.push(format!("truncated to {}", to.0));
                self.call(now, |host, turn, around| host.on_truncated(writer, turn, around));
            }
            Ask::Errand(Errand::SendCheckpoint { peer }) => {
                let Some(source) = self.checkpoint.clone() else { return };
                self.call(now, |host, turn, _| host.send_checkpoint(peer, &source, turn));
            }
            Ask::Errand(Errand::Refuse { peer: Some(_), why }) => {
                self.around.log.push(format!("refuses: {why}"));
            }
            Ask::Errand(Errand::ClearDamage) => self.call(now, |host, turn, around| {
                host.with_replica(turn, around, |replica| replica.on_damage_cleared());
            }),
            Ask::Replace { start } => {
                self.reopened += 1;
                let setup = log_setup(0, 100 + self.reopened);
                reset(&mut self.files, &setup, start.start, 1, &|_| false).unwrap();
                let found = recover(&mut self.files, &setup.directory, &OWNER, None, &mut |_| {});
                let writer = Writer::new(setup, found.unwrap().log_end());
                self.around.log.push(format!("begins at {}", start.start.0));
                self.around.applied = (0..start.next.0).map(|offset| (offset, 0, vec![])).collect();
                self.call(now, |host, turn, around| host.on_reset(writer, turn, around));
            }
            Ask::Lead { epoch, start } => {
                assert_eq!(self.around.applied.len() as u64, start.0, "the state is whole");
                self.around.log.push(format!("leads in {epoch}"));
            }
            Ask::Marks { .. } | Ask::Follow { .. } => {}
            other => panic!("{other:?} on node {}", self.id),
        }
    }

    fn turn(&mut self, now: Nanos) {
        let mut events = Vec::new();
        if !self.disk_stands_still {
            self.files.complete(&mut self.disk, 8, &mut |_, event| events.push(event));
        }
        for event in events {
            assert!(self.host.owns(&event));
            self.call(now, |host, turn, around| host.on_disk(event, turn, around));
        }
        self.commit();
        self.call(now, |host, turn, around| host.end_turn(turn, around));
        self.commit();
        while let Some(ask) = self.around.asks.pop_front() {
            self.do_ask(ask, now);
        }
        self.files.submit(&mut self.disk);
    }

    fn publish(&mut self, number: u64, bytes: usize) {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(bytes, 3);
        let head = MessageHead { qos: 1, ..MessageHead::of_state() };
        let parts = Parts {
            head,
            client_id: b"c",
            packet_id: 0,
            unix_ms: 0,
            topic: "t",
            properties: &[],
            payload: &payload,
        };
        let promise = Promise { level: Level::LocalDisk, quorum: true };
        let Self { partition, pool, .. } = self;
        partition.append(pool, &parts, promise, Some(number));
    }
}

struct Cluster {
    nodes: Vec<Node>,
    now: Nanos,
    /// Nodes that nothing reaches, and from which nothing comes.
    away: BTreeSet<u16>,
}

impl Cluster {
    fn new(members: u16) -> Self {
        let nodes = (1..=members).map(|id| Node::new(id, members)).collect();
        let mut cluster = Self { nodes, now: Nanos::from_secs(1), away: BTreeSet::new() };
        for one in 1..=members {
            cluster.links(one, true);
        }
        cluster
    }

    /// The links between a node and the others come up, or end.
    fn links(&mut self, id: u16, is_up: bool) {
        let now = self.now;
        for node in &mut self.nodes {
            let from = node.id;
            for peer in (1..=8).map(NodeId) {
                let concerns = (from.0 == id || peer.0 == id) && peer != from;
                if concerns {
                    node.call(now, |host, turn, around| {
                        host.with_replica(turn, around, |replica| match is_up {
                            true => replica.on_link_up(peer),
                            false => replica.on_link_down(peer),
                        });
                    });
                }
            }
        }
    }

    fn leave(&mut self, id: u16) {
        self.away.insert(id);
        self.links(id, false);
    }

    fn join(&mut self, id: u16) {
        self.away.remove(&id);
        self.links(id, true);
    }

    fn campaign(&mut self, id: u16, epoch: u64) {
        let now = self.now;
        self.nodes[usize::from(id) - 1].call(now, |host, turn, around| {
            host.with_replica(turn, around, |replica| replica.campaign(epoch));
        });
        self.run();
    }

    fn deliver(&mut self) {
        for from in 0..self.nodes.len() {
            while let Some((from, to, message)) = self.nodes[from].around.sent.pop_front() {
                if self.away.contains(&from) || self.away.contains(&to) {
                    continue;
                }
                let (envelope, body) = wire::decode(&message).unwrap();
                let now = self.now;
                let Some(node) = self.nodes.get_mut(usize::from(to) - 1) else { continue };
                node.call(now, |host, turn, around| {
                    host.on_message(NodeId(from), &envelope, body.into(), turn, around);
                });
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..400 {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(2);
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.turn(now));
        self.deliver();
    }

    fn publish(&mut self, id: u16, numbers: core::ops::Range<u64>, bytes: usize) {
        for number in numbers {
            let node = &mut self.nodes[usize::from(id) - 1];
            node.publish(number, bytes);
            let now = self.now;
            node.turn(now);
        }
        self.run();
    }

    fn applied(&self, id: u16) -> &[(u64, u64, Vec<u8>)] {
        &self.nodes[usize::from(id) - 1].around.applied
    }
}

#[test]
fn a_node_alone_is_its_own_majority() {
    let mut cluster = Cluster::new(1);
    cluster.campaign(1, 5);
    assert!(cluster.nodes[0].host.is_leading());
    cluster.publish(1, 0..20, 100);
    assert_eq!(cluster.nodes[0].acks, (0..20).collect::<Vec<_>>());
    assert_eq!(cluster.applied(1), [], "its own state is the live one");
    assert_eq!(cluster.nodes[0].host.applied(), Offset(0));
}

#[test]
fn what_a_leader_takes_is_acknowledged_and_applied_everywhere() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(2, 7);
    assert!(cluster.nodes[1].host.is_leading());
    cluster.publish(2, 0..200, 700);
    assert_eq!(cluster.nodes[1].acks.len(), 200);
    assert_eq!(cluster.applied(2), []);
    assert_eq!(cluster.applied(1).len(), 201, "the record that begins the epoch, too");
    assert!(cluster.applied(1).iter().all(|(_, epoch, _)| *epoch == 7));
    assert_eq!(cluster.applied(3), cluster.applied(1));
    let log = cluster.nodes[0].partition.log().unwrap();
    assert!(log.segments().count() > 1, "it goes on over segments");
}

#[test]
fn messages_alone_are_passed_in_runs_and_the_rest_is_applied() {
    let mut cluster = Cluster::new(3);
    cluster.nodes[2].around.passes = true;
    cluster.campaign(1, 5);
    cluster.publish(1, 0..50, 100);
    let all = cluster.applied(2).to_vec();
    assert_eq!(all.len(), 51, "the begin of the epoch, and all messages");
    let around = &cluster.nodes[2].around;
    assert_eq!(around.applied, all[..1], "what is no message");
    let mut next = 1;
    for (first, records, epoch) in &around.passed {
        assert_eq!((*first, *epoch), (next, 5), "one run behind the other");
        next += records;
    }
    assert_eq!((next, cluster.nodes[2].host.applied()), (51, Offset(51)));
}

#[test]
fn a_leader_that_waits_for_more_sends_nothing_before_its_round_begins() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1, 5);
    let leader = |cluster: &Cluster| {
        let node = &cluster.nodes[0];
        (node.host.replica().high_watermark(), node.around.bodies.len())
    };
    (0..20).for_each(|number| cluster.nodes[0].publish(number, 100));
    while leader(&cluster).0 < Offset(21) {
        cluster.step();
    }
    // Twenty publishers are about to be answered. The first of them has come back.
    let (sent, now) = (leader(&cluster).1, cluster.now);
    cluster.nodes[0].publish(20, 100);
    cluster.nodes[0].turn(now);
    cluster.deliver();
    assert_eq!(
        (cluster.nodes[0].acks.len(), leader(&cluster).1),
        (20, sent),
        "it waits for others"
    );
    assert!(cluster.nodes[0].partition.log().unwrap().holds());
    // Nobody else has anything to say.
    cluster.run();
    assert_eq!((cluster.nodes[0].acks.len(), leader(&cluster).1), (21, sent + 2), "to both");
    // Who is not alone need not wait for the end of the wait.
    (21..41).for_each(|number| cluster.nodes[0].publish(number, 100));
    while leader(&cluster).0 < Offset(42) {
        cluster.step();
    }
    let (sent, now) = (leader(&cluster).1, cluster.now);
    (41..61).for_each(|number| cluster.nodes[0].publish(number, 100));
    cluster.nodes[0].turn(now);
    assert!(sent < leader(&cluster).1, "as many have come as were answered");
}

#[test]
fn all_followers_are_sent_the_same_memory() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(2, 7);
    cluster.publish(2, 0..50, 256);
    let sent = |to: u16| {
        let bodies = cluster.nodes[1].around.bodies.iter();
        bodies.filter(|(node, _)| *node == to).map(|(_, at)| *at).collect::<Vec<_>>()
    };
    assert!(sent(1).len() > 10 && sent(1) == sent(3), "records are not copied for a follower");
    assert_eq!(cluster.nodes[1].host.pieces_read(), 0);
}

#[test]
fn in_step_nothing_is_read_again() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(2, 7);
    cluster.publish(2, 0..200, 700);
    assert_eq!(cluster.applied(1).len(), 201);
    assert!(cluster.nodes[0].host.apply.reader.is_none(), "nobody has asked for the log");
}

#[test]
fn what_is_not_kept_in_memory_is_applied_out_of_the_log() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(2, 7);
    for round in 0..60 {
        // What came is on its way to the disk: at times it is forgotten, at times a part of it.
        let now = cluster.now;
        (0..5).for_each(|n| cluster.nodes[1].publish(round * 5 + n, 900));
        cluster.nodes[1].turn(now);
        cluster.deliver();
        if round % 3 == 0 {
            cluster.nodes[0].host.apply.forget();
        }
        if round % 4 == 0 {
            cluster.run();
        }
    }
    cluster.run();
    assert!(cluster.nodes[0].host.apply.reader.is_some(), "the log was read");
    assert_eq!(cluster.applied(1).len(), 301);
    assert_eq!(cluster.applied(1), cluster.applied(3));
}

#[test]
fn without_a_majority_nobody_is_answered() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1, 7);
    cluster.leave(2);
    cluster.leave(3);
    cluster.publish(1, 0..5, 50);
    assert_eq!(cluster.nodes[0].acks, []);
    cluster.join(3);
    cluster.run();
    assert_eq!(cluster.nodes[0].acks.len(), 5);
}

#[test]
fn what_a_damaged_node_has_in_memory_does_not_count() {
    let damaged = Opened { damage: Some(Claim::ALL), ..Opened::default() };
    let mut cluster = Cluster::new(3);
    cluster.nodes = vec![
        Node::with(1, 3, Opened::default(), true),
        Node::with(2, 3, damaged, true),
        Node::with(3, 3, Opened::default(), true),
    ];
    (1..=3).for_each(|id| cluster.links(id, true));
    cluster.nodes[1].disk_stands_still = true;
    cluster.campaign(1, 1);
    cluster.publish(1, 0..10, 100);
    cluster.leave(3);
    let accepted = |cluster: &Cluster| cluster.nodes[0].host.replica().quorum_accepted().0;
    let before = accepted(&cluster);
    cluster.publish(1, 10..20, 100);
    let own = cluster.nodes[0].host.replica().next_offset().0;
    assert_eq!(cluster.nodes[1].host.replica().next_offset().0, own, "it has them");
    assert_eq!(accepted(&cluster), before, "a takeover would not ask it for them");
    // On its disk it has them for good: it is whole, and counts from now on.
    cluster.nodes[1].disk_stands_still = false;
    cluster.run();
    assert_eq!(cluster.nodes[1].host.replica().damage(), None);
    cluster.nodes[1].disk_stands_still = true;
    cluster.publish(1, 20..30, 100);
    assert_eq!(accepted(&cluster), own + 10);
    assert_eq!(cluster.nodes[0].host.replica().high_watermark().0, own);
}

#[test]
fn who_was_away_gets_what_it_lacks_out_of_the_log() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1, 7);
    cluster.leave(3);
    cluster.publish(1, 0..300, 900);
    assert_eq!(cluster.applied(3).len(), 1);
    cluster.join(3);
    for _ in 0..10 {
        cluster.run();
    }
    assert_eq!(cluster.applied(3), cluster.applied(2));
    assert_eq!(cluster.applied(3).len(), 301);
}

#[test]
fn what_no_majority_has_is_cut_off_when_another_leads() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1, 7);
    cluster.publish(1, 0..10, 50);
    cluster.leave(1);
    cluster.publish(1, 100..140, 3000);
    cluster.campaign(2, 9);
    assert!(cluster.nodes[1].host.is_leading());
    cluster.publish(2, 10..20, 50);
    cluster.join(1);
    for _ in 0..5 {
        cluster.run();
    }
    assert_eq!(cluster.nodes[0].around.log, ["leads in 7", "truncated to 11"]);
    assert!(!cluster.nodes[0].host.is_leading());
    assert_eq!(cluster.applied(1), cluster.applied(3));
    assert_eq!(cluster.applied(1).len(), 22, "from where its own leadership began, too");
    assert_eq!(cluster.applied(2), &cluster.applied(1)[..11], "up to its own epoch");
    assert_eq!(cluster.nodes[0].acks.len(), 10, "what was cut off was never acknowledged");
}
