//! A whole cluster from one seed: three or five nodes with the cores, sessions, logs and replicas of the broker, clients
//! that publish at QoS 1 and 2 and keep their sessions, and faults at any time.
//!
//! In a third of the seeds their messages are at `quorum_memory`: then one node at a time is lost, and the next one when
//! all have again what the leader has. Beside them somebody publishes at a level of one node, which promises nothing of a
//! fail-over, but is answered in the end.
//!
//! Each node has a clock of its own, and messages between nodes take their time.
//!
//! What must hold: nothing acknowledged is lost for a subscriber that keeps its session, whether it was connected,
//! absent, or taken over; QoS 2 comes once and in order across every fail-over; one node serves in an epoch;
//! what is below a high watermark is the same on all nodes, and none goes back; no posting names a record that is not there; nothing of QoS 0 comes under a lease that has ended; what is refused for a
//! full disk at QoS 2 does not come; and the cluster serves again when everything is well.

mod agreed;
mod damage;
mod faults;
mod fleeting;
mod people;

use super::Cluster;
use super::client::Client;
use super::node::{LogBytes, Node};
use super::ways::Ways;
use crate::config::{CommitLogConfig, Config, StreamLevel};
use agreed::Agreement;
use faults::Faults;
use fleeting::Fleeting;
use people::{Answers, Publisher, Subscriber};
use ringlane_dataplane::clock::Clock;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// QoS of those who publish, and what their topics begin with. The last one publishes at a level of one node.
const PUBLISHERS: [(QoS, &str); 5] = [
    (QoS::AtLeastOnce, KEPT),
    (QoS::ExactlyOnce, KEPT),
    (QoS::ExactlyOnce, KEPT),
    (QoS::AtLeastOnce, KEPT),
    (QoS::AtLeastOnce, ALONE),
];
const KEPT: &str = "t";
const ALONE: &str = "alone";
/// Who subscribes: one that stays, one that is absent half of the time, and one whose session is taken over.
const SUBSCRIBERS: [(&str, QoS); 3] =
    [("stays", QoS::ExactlyOnce), ("absent", QoS::ExactlyOnce), ("moves", QoS::AtLeastOnce)];
const ABSENT: usize = PUBLISHERS.len() + 1;
const MOVES: usize = PUBLISHERS.len() + 2;
/// Without an answer for so long a client tries anew.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Whoever is refused for a full disk waits so long.
const AFTER_REFUSAL: Duration = Duration::from_millis(200);
/// Turns of [`super::STEP`] in which a cluster without faults has to become whole.
const TURNS_MAX: u64 = 60_000;
/// How much longer a run goes on at a time that has too little, and how often.
const LONGER: Duration = Duration::from_secs(20);
const LONGER_MAX: usize = 20;
/// Logs are of many small segments, so that they are trimmed within a run.
const LOG_BYTES: LogBytes = LogBytes { record_max: 64_000, segment: 192 << 10 };
/// Of a log, behind which the next checkpoint comes.
const CHECKPOINT_BYTES: u64 = 128 << 10;
/// How long a node takes to truncate a log, less than this.
const TRUNCATION_MS_MAX: u64 = 3_000;
/// How long a lease counts, one of these.
const LEASES_MS: [u64; 2] = [1_000, 3_000];
/// What a message between nodes takes, at most one of these.
const USUAL_MS: [u64; 3] = [0, 3, 15];

/// What took place.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// Publishes that are complete.
    pub acknowledged: u64,
    /// Faults.
    pub faults: u64,
    /// Nodes that began to serve.
    pub leader_changes: u64,
    /// Logs that were truncated.
    pub truncations: u64,
    /// Nodes that lost their power.
    pub crashes: u64,
    /// Logs of which a start has cut a torn tail.
    pub torn: u64,
    /// Nodes that were cut off, and ways between nodes that were cut in one direction.
    pub cuts: u64,
    /// Those in one direction.
    pub one_way: u64,
    /// Ways that messages came late on.
    pub late: u64,
    /// Links that were reset.
    pub resets: u64,
    /// Nodes that stood still.
    pub pauses: u64,
    /// Nodes that stopped leading, and began again.
    pub began_again: u64,
    /// Sessions that another connection has taken over.
    pub takeovers: u64,
    /// Exchanges of QoS 2 that went on with another leader.
    pub carried_over: u64,
    /// Times in which etcd answered nobody.
    pub etcd_away: u64,
    /// Messages of QoS 0 that have come.
    pub fleeting: u64,
    /// Messages of QoS 0 that were published to a node whose lease had ended.
    pub without_lease: u64,
    /// Nodes that came back with new disks.
    pub wiped: u64,
    /// Logs that began anew behind a checkpoint of the leader.
    pub learned: u64,
    /// Starts of a log behind a checkpoint.
    pub behind_checkpoint: u64,
    /// Times in which a disk was full.
    pub full_disks: u64,
    /// What found no room on a disk.
    pub no_room: u64,
    /// Logs that were not truncated, put in place or opened for it, and nodes that began again.
    pub no_room_for_logs: u64,
    /// Publishes and CONNECTs that were refused for it.
    pub refused: u64,
    /// Disks of which a bit has turned.
    pub damaged: u64,
    /// Disks of which a bit has turned where a start does not read.
    pub unread: u64,
    /// Nodes that read there later and said so.
    pub met: u64,
    /// Nodes that did not start with a bit that had turned, or met it later, and were replaced.
    pub replaced: u64,
    /// Records that nodes agreed on.
    pub agreed: u64,
}

/// How much a run is to have.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Its own time, in seconds, at least.
    pub seconds: u64,
    /// Publishes that are complete, at least; the time is prolonged.
    pub acknowledged: u64,
}

struct Run {
    cluster: Cluster,
    /// Of what is kept.
    level: StreamLevel,
    random: Random,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    fleeting: Fleeting,
    faults: Faults,
    /// Since when each client has waited for an answer.
    waits_since: Vec<Nanos>,
    /// When each client dials next, at the earliest.
    dials_at: Vec<Nanos>,
    /// Until when the absent one is away.
    away_until: Nanos,
    /// Who served in each epoch.
    served: BTreeMap<u64, usize>,
    agreement: Agreement,
    figures: Figures,
    trace: u64,
}

/// Runs a seed: what took place, and a number that two runs share which did the same.
///
/// # Panics
/// A rule does not hold.
#[must_use]
pub fn run(seed: u64, demand: Demand) -> (Figures, u64) {
    let mut run = Run::new(seed);
    run.until("there are subscribers", |run| {
        let is_heard = run.fleeting.has_subscribed();
        is_heard && run.subscribers.iter().all(Subscriber::has_subscribed)
    });
    run.faults = Faults::new(run.now(), &mut run.random);
    run.storm(Duration::from_secs(demand.seconds));
    for _ in 0..LONGER_MAX {
        if demand.acknowledged <= run.figures.acknowledged {
            break;
        }
        run.storm(LONGER);
    }
    run.heal();
    run.sum_up()
}

/// The level of what is kept, and of what is published at a level of one node.
fn levels(seed: u64) -> [StreamLevel; 2] {
    let kept = if seed % 3 == 2 { StreamLevel::QuorumMemory } else { StreamLevel::QuorumDisk };
    let alone = if seed % 2 == 1 { StreamLevel::Memory } else { StreamLevel::LocalDisk };
    [kept, alone]
}

/// Everything that is not needed goes soon.
fn config([kept, alone]: [StreamLevel; 2]) -> Config {
    let [kept_filter, alone_filter] = [KEPT, ALONE].map(|prefix| format!("{prefix}/#"));
    let mut stream = super::streams(&[(&kept_filter, kept), (&alone_filter, alone)]);
    stream.iter_mut().for_each(|stream| stream.retention_size = 4);
    let commit_log =
        CommitLogConfig { checkpoint_size: CHECKPOINT_BYTES, ..CommitLogConfig::default() };
    let mut config = Config { stream, commit_log, ..Config::default() };
    config.replication.keep_for_absent = 0;
    config
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let count = if seed % 4 == 3 { 5 } else { 3 };
        let cores: Vec<_> = (0..count).map(|_| 1 + random.below(2) as u16).collect();
        let secret = random.any();
        let levels = levels(seed);
        let disk = |number: u64| MemoryDisk::shuffled(secret ^ number);
        let mut cluster = Cluster::of(cores, config(levels), disk);
        cluster.nodes.iter_mut().for_each(|node| node.log_bytes = LOG_BYTES);
        for node in &mut cluster.nodes {
            node.truncation_takes = Duration::from_millis(random.below(TRUNCATION_MS_MAX));
            node.clock = Clock::drawn(&mut random);
        }
        let mut ways = Ways::new(random.fork());
        ways.usual = Duration::from_millis(USUAL_MS[random.below(3) as usize]);
        cluster.outer.ways.replace(ways);
        cluster.etcd.lease = Duration::from_millis(LEASES_MS[random.below(2) as usize]);
        (0..count).for_each(|node| cluster.start(node));
        let publishers = PUBLISHERS.into_iter().enumerate();
        let publishers: Vec<_> =
            publishers.map(|(index, (qos, prefix))| Publisher::new(index, qos, prefix)).collect();
        let subscribers: Vec<_> =
            SUBSCRIBERS.into_iter().map(|(name, qos)| Subscriber::new(name, qos)).collect();
        let now = cluster.outer.now.get();
        Self {
            faults: Faults::new(now, &mut random),
            cluster,
            level: levels[0],
            random,
            waits_since: vec![now; publishers.len() + subscribers.len()],
            dials_at: vec![now; publishers.len() + subscribers.len()],
            publishers,
            subscribers,
            fleeting: Fleeting::new(),
            away_until: now,
            served: BTreeMap::new(),
            agreement: Agreement::new(),
            figures: Figures::default(),
            trace: 0xCBF2_9CE4_8422_2325,
        }
    }

    fn now(&self) -> Nanos {
        self.cluster.outer.now.get()
    }

    fn clients(&self) -> usize {
        self.publishers.len() + self.subscribers.len()
    }

    fn client(&mut self, at: usize) -> &mut Client {
        match at.checked_sub(PUBLISHERS.len()) {
            Some(subscriber) => &mut self.subscribers[subscriber].client,
            None => &mut self.publishers[at].client,
        }
    }

    /// Faults and messages for so long.
    fn storm(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            self.go_wrong();
            self.publish();
            self.come_and_go();
            self.turn();
        }
    }

    /// A turn of everybody, and a little time.
    fn turn(&mut self) {
        for node in 0..self.cluster.nodes.len() {
            if !self.faults.is_paused(node) {
                let Cluster { nodes, outer, config, etcd } = &mut self.cluster;
                nodes[node].turn(outer, config, etcd);
            }
        }
        let outer = Rc::clone(&self.cluster.outer);
        (0..self.clients()).for_each(|at| self.client(at).read(&outer));
        outer.pass(super::STEP);
        self.take_answers();
        self.look_at_leaders();
        self.replace_damaged();
        let looked = self.agreement.look(&mut self.cluster.nodes);
        self.note(looked);
        self.connect();
        let random = &mut self.random;
        let core = random.any() as usize;
        self.fleeting.go_on(&mut self.cluster, |cores| core % usize::from(cores));
    }

    fn note(&mut self, number: u64) {
        self.trace = (self.trace ^ number).wrapping_mul(0x0100_0000_01B3);
    }

    fn take_answers(&mut self) {
        let now = self.now();
        let qos_of: Vec<_> = self.publishers.iter().map(|publisher| publisher.qos).collect();
        for (at, publisher) in self.publishers.iter_mut().enumerate() {
            let Answers { complete, refused } = publisher.take_answers();
            self.figures.acknowledged += complete;
            self.figures.refused += refused;
            if complete + refused > 0 || publisher.is_done() {
                self.waits_since[at] = now;
            }
            for number in [now.0, at as u64, complete, refused] {
                self.trace = (self.trace ^ number).wrapping_mul(0x0100_0000_01B3);
            }
        }
        for subscriber in &mut self.subscribers {
            subscriber.take_messages(&qos_of);
        }
    }

    /// One node serves in an epoch.
    fn look_at_leaders(&mut self) {
        for (at, node) in self.cluster.nodes.iter().enumerate() {
            let Some(epoch) = node.serves else { continue };
            let before = self.served.insert(epoch, at);
            assert!(before.is_none_or(|other| other == at), "two nodes serve in epoch {epoch}");
            self.figures.leader_changes += u64::from(before.is_none());
        }
    }

    /// Whoever has no connection gets one to whoever leads; who waits too long tries anew.
    fn connect(&mut self) {
        let (now, outer) = (self.now(), Rc::clone(&self.cluster.outer));
        let leader = self.cluster.leader();
        let epoch = leader.and_then(|leader| self.cluster.nodes[leader].serves).unwrap_or(0);
        for at in 0..self.clients() {
            let is_away = at == ABSENT && now < self.away_until;
            if self.waits_since[at] + PATIENCE < now {
                self.waits_since[at] = now;
                self.client(at).hang_up(&outer);
            }
            if self.client(at).take_refused() {
                self.figures.refused += 1;
                self.dials_at[at] = now + AFTER_REFUSAL;
            }
            let may_dial = !is_away && self.dials_at[at] <= now && leader.is_some();
            if !self.client(at).has_wire() && may_dial {
                self.dial(at);
            }
            if !self.client(at).take_connected() {
                continue;
            }
            self.waits_since[at] = now;
            match at.checked_sub(PUBLISHERS.len()) {
                Some(subscriber) => self.subscribers[subscriber].go_on(&outer),
                None => self.publishers[at].go_on(&outer, epoch),
            }
        }
        for at in PUBLISHERS.len()..self.clients() {
            // One that is connected and has subscribed waits for nothing.
            let subscriber = &self.subscribers[at - PUBLISHERS.len()];
            if subscriber.client.connected && subscriber.has_subscribed() {
                self.waits_since[at] = now;
            }
        }
    }

    fn dial(&mut self, at: usize) {
        let Some(leader) = self.cluster.leader() else { return };
        let core = self.random.below(u64::from(self.cluster.nodes[leader].cores)) as usize;
        let Self { cluster, publishers, subscribers, .. } = self;
        let client = match at.checked_sub(PUBLISHERS.len()) {
            Some(subscriber) => &mut subscribers[subscriber].client,
            None => &mut publishers[at].client,
        };
        people::dial(cluster, client, core);
        self.waits_since[at] = self.now();
    }

    fn publish(&mut self) {
        if self.random.one_in(20) {
            self.fleeting.tell(&self.cluster);
        }
        if !self.random.one_in(8) {
            return;
        }
        let leader = self.cluster.leader();
        let Some(epoch) = leader.and_then(|leader| self.cluster.nodes[leader].serves) else {
            return;
        };
        let at = self.random.below(PUBLISHERS.len() as u64) as usize;
        let many = if self.random.one_in(6) { self.random.between(2, 12) } else { 1 };
        // What room there is on a full disk is to be used up.
        let long = if self.faults.is_a_disk_full() { 2 } else { 20 };
        for _ in 0..many {
            let is_long = self.random.one_in(long);
            let bytes = if is_long { self.random.between(1_000, 8_000) } else { 30 };
            self.publishers[at].publish(&self.cluster.outer, at, epoch, bytes as usize);
        }
    }

    /// The absent one leaves and returns; the session of another is taken over by a new connection.
    fn come_and_go(&mut self) {
        let outer = Rc::clone(&self.cluster.outer);
        if self.random.one_in(1500) && self.away_until < self.now() {
            let time = Duration::from_millis(self.random.between(100, 6_000));
            self.away_until = self.now() + time;
            self.client(ABSENT).hang_up(&outer);
        }
        if self.random.one_in(1000)
            && self.client(MOVES).connected
            && self.cluster.leader().is_some()
        {
            self.figures.takeovers += 1;
            self.dial(MOVES);
        }
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if holds(self) {
                return;
            }
            self.turn();
        }
        panic!("not in time: {what}\n{}", self.describe());
    }

    /// Everything is well again: all is acknowledged, and all that was is delivered.
    fn heal(&mut self) {
        self.calm();
        self.away_until = self.now();
        self.until("the cluster serves", |run| run.cluster.leader().is_some());
        self.until("all is acknowledged", |run| run.publishers.iter().all(Publisher::is_done));
        self.until("all is delivered", |run| run.lacks().is_none());
        for _ in 0..100 {
            self.turn();
        }
        assert_eq!(self.cluster.dropped_postings(), 0, "postings name records that are not there");
        for subscriber in &self.subscribers {
            let publishers = self.publishers.iter().enumerate();
            publishers.for_each(|(index, publisher)| subscriber.check_refused(index, publisher));
        }
    }

    /// An acknowledged message that a subscriber has not got: subscriber, publisher, number.
    fn lacks(&self) -> Option<(usize, usize, u64)> {
        let is_kept = |publisher: &usize| PUBLISHERS[*publisher].1 == KEPT;
        let mut pairs = (0..self.subscribers.len())
            .flat_map(|s| (0..PUBLISHERS.len()).filter(is_kept).map(move |p| (s, p)));
        pairs.find_map(|(s, p)| Some((s, p, self.subscribers[s].lacks(p, &self.publishers[p])?)))
    }

    fn describe(&self) -> String {
        let mut text = format!("  subscriber, publisher, number: {:?}\n", self.lacks());
        for Subscriber { client, qos, times, .. } in &self.subscribers {
            let (connected, came) = (client.connected, times.len());
            text += &format!("  subscriber at {qos:?}: connected {connected}, {came} messages\n");
        }
        for Publisher { client, qos, acknowledged, .. } in &self.publishers {
            let (connected, many) = (client.connected, acknowledged.len());
            text += &format!("  publisher at {qos:?}: connected {connected}, {many} answered\n");
        }
        self.cluster.describe().iter().for_each(|node| text += &format!("  {node}\n"));
        text
    }

    fn sum_up(mut self) -> (Figures, u64) {
        let nodes = &self.cluster.nodes;
        self.figures.truncations = nodes.iter().map(|node| node.truncations as u64).sum();
        self.figures.began_again = nodes.iter().map(|node| node.ends.len() as u64).sum();
        self.figures.learned = nodes.iter().map(|node| node.learned as u64).sum();
        self.figures.torn = nodes.iter().map(|node| node.torn).sum();
        self.figures.no_room_for_logs = nodes.iter().map(|node| node.no_room_for).sum();
        self.figures.behind_checkpoint = nodes.iter().map(|node| node.behind_checkpoint).sum();
        self.figures.no_room += self.cluster.nodes.iter().map(Node::no_room_count).sum::<u64>();
        self.figures.agreed = self.agreement.records();
        self.figures.fleeting = self.fleeting.heard();
        self.figures.without_lease = self.fleeting.in_vain;
        self.figures.carried_over = self.publishers.iter().map(|p| p.carried_over).sum();
        (self.figures, self.trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One in which nodes end and begin again with exchanges of QoS 2 under way, and learn from checkpoints.
    #[test]
    fn what_was_acknowledged_is_delivered_by_the_next_leader() {
        let (figures, _) = run(15, Demand { seconds: 60, acknowledged: 1000 });
        assert!(figures.carried_over > 0 && figures.began_again > 0, "{figures:?}");
        assert!(figures.agreed > 1000, "{figures:?}");
        assert!(figures.learned > 0 && figures.behind_checkpoint > 0, "{figures:?}");
    }
}
