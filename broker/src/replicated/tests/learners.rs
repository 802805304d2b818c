//! Followers write checkpoints and trim; who lacks what is not kept gets a checkpoint and the log, and then counts.

use super::client::Client;
use super::damaged::lose;
use super::node::PARTITIONS;
use super::{Cluster, id};
use crate::config::{CommitLogConfig, Config, StreamConfig, StreamLevel};
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::log::reset::{LEARNED_NAME, RECEIVED_SUFFIX};
use ringlane_mqtt::QoS;
use std::time::Duration;

/// Bytes of a message: a few of them fill a segment.
const PAYLOAD: usize = 200_000;

/// Logs are trimmed as soon as they may be, and checkpoints written often.
fn config() -> Config {
    let rest =
        StreamConfig { level: StreamLevel::QuorumDisk, retention_size: 4, ..StreamConfig::rest() };
    let commit_log = CommitLogConfig { checkpoint_size: 600_000, ..CommitLogConfig::default() };
    let mut config = Config { stream: vec![rest], commit_log, ..Config::default() };
    config.replication.keep_for_absent = 0;
    config
}

struct Case {
    cluster: Cluster,
    leader: usize,
    publisher: Client,
    sent: u32,
}

impl Case {
    /// A leader with sessions that are owed something, QoS 2 in the midst of it, and retained messages.
    fn new(cores: [u16; 3]) -> (Self, Client, u16) {
        let mut cluster = Cluster::of(cores, config(), |_| MemoryDisk::new());
        (0..3).for_each(|node| cluster.start(node));
        let leader = cluster.wait_for_leader();
        let (mut publisher, mut absent) = (Client::new("p"), Client::new("absent"));
        cluster.connect(&mut absent, leader, 0);
        absent.subscribe(&cluster.outer, "owed/#", QoS::AtLeastOnce);
        cluster.until("no SUBACK", &mut [&mut absent], |_, clients| clients[0].subacks == 1);
        absent.hang_up(&cluster.outer);
        cluster.connect(&mut publisher, leader, 0);
        let retained = publisher.publish(&cluster.outer, ("r", b"kept"), QoS::AtLeastOnce, true);
        publisher.releases = false;
        let once = publisher.publish(&cluster.outer, ("q", b"once"), QoS::ExactlyOnce, false);
        cluster.until("not acknowledged", &mut [&mut publisher], |_, clients| {
            clients[0].acknowledged.contains(&retained) && clients[0].acknowledged.contains(&once)
        });
        (Self { cluster, leader, publisher, sent: 0 }, absent, once)
    }

    fn publish(&mut self, topic: &str, payload: &[u8]) {
        let Self { cluster, publisher, .. } = self;
        let sent = publisher.publish(&cluster.outer, (topic, payload), QoS::AtLeastOnce, false);
        cluster.until("not acknowledged", &mut [publisher], |_, clients| {
            clients[0].acknowledged.contains(&sent)
        });
        self.sent += 1;
    }

    /// Logs grow, and time passes in which they are trimmed.
    fn churn(&mut self, messages: u32) {
        for _ in 0..messages {
            let mut payload = self.sent.to_be_bytes().to_vec();
            payload.resize(PAYLOAD, 1);
            self.publish("churn", &payload);
            self.cluster.pass(Duration::from_millis(150), &mut [&mut self.publisher]);
        }
    }

    /// First offsets that a node keeps of its partitions.
    fn starts(&self, node: usize) -> Vec<u64> {
        let progress = &self.cluster.nodes[node].progress;
        (0..PARTITIONS).map(|partition| progress[&partition].start.0).collect()
    }

    fn is_trimmed(&self, node: usize) -> bool {
        self.starts(node).iter().any(|start| *start > 0)
    }

    fn churn_until_trimmed(&mut self, node: usize) {
        for _ in 0..20 {
            self.churn(8);
            if self.is_trimmed(node) {
                return;
            }
        }
        panic!("nothing is trimmed: {:?}", self.cluster.describe());
    }

    /// The node leads, and everything is there as it was acknowledged.
    fn has_all(mut self, node: usize, mut absent: Client, once: u16, owed: usize) {
        let Self { cluster, publisher, .. } = &mut self;
        cluster.connect(publisher, node, 0);
        assert!(publisher.session_present);
        publisher.acknowledged.remove(&once);
        let again = ("q", &b"once"[..]);
        publisher.publish_as(&cluster.outer, once, again, QoS::ExactlyOnce, (false, true));
        cluster
            .until("no PUBREC", &mut [&mut *publisher], |_, c| c[0].acknowledged.contains(&once));
        publisher.release(&cluster.outer, once);
        cluster.until("no PUBCOMP", &mut [&mut *publisher], |_, c| c[0].completed.contains(&once));
        cluster.connect(&mut absent, node, 0);
        assert!(absent.session_present);
        cluster.until("not delivered", &mut [&mut absent], |_, c| c[0].received.len() >= owed);
        cluster.pass(Duration::from_secs(1), &mut [&mut absent]);
        let payloads: Vec<_> = (0..owed).map(|number| vec![number as u8; 10]).collect();
        assert_eq!(absent.received, payloads, "what it is owed, in order, each once");
        let mut late = Client::new("late");
        cluster.connect(&mut late, node, 0);
        late.subscribe(&cluster.outer, "r", QoS::AtLeastOnce);
        cluster.until("not delivered", &mut [&mut late], |_, c| !c[0].received.is_empty());
        assert_eq!(late.received, [b"kept"]);
    }
}

#[test]
fn followers_write_checkpoints_and_trim_and_read_little_at_a_start() {
    let (mut case, ..) = Case::new([1, 2, 1]);
    let leader = case.leader;
    for follower in [(leader + 1) % 3, (leader + 2) % 3] {
        case.churn_until_trimmed(follower);
        let (own, led) = (case.starts(follower), case.starts(leader));
        assert!(own.iter().zip(&led).all(|(own, led)| own <= led), "{own:?} {led:?}");
        let node = &mut case.cluster.nodes[follower];
        assert!(!node.files_with(".checkpoint").is_empty());
        node.records_read = 0;
        let outer = std::rc::Rc::clone(&case.cluster.outer);
        case.cluster.nodes[follower].kill(&outer);
        case.cluster.start(follower);
        case.cluster.wait_for_followers();
        let node = &case.cluster.nodes[follower];
        let kept: u64 = (0..PARTITIONS)
            .map(|partition| node.progress[&partition].next.0 - node.progress[&partition].start.0)
            .sum();
        assert!(node.records_read < kept, "{} of {kept}", node.records_read);
        assert_eq!(node.learned, 0);
    }
}

#[test]
fn a_follower_that_could_not_read_its_log_writes_no_checkpoint_that_hides_it() {
    let (mut case, ..) = Case::new([1, 1, 1]);
    let (lost, other) = ((case.leader + 1) % 3, (case.leader + 2) % 3);
    case.cluster.wait_for_followers();
    (0..PARTITIONS as usize).for_each(|index| lose(&mut case.cluster.nodes[lost], index));
    case.churn_until_trimmed(other);
    assert!(!case.cluster.nodes[other].files_with(".checkpoint").is_empty());
    assert_eq!(case.cluster.nodes[lost].files_with(".checkpoint").len(), 0);
}

/// A follower loses its disk, is rebuilt while the logs go on and are trimmed, and then only what it has counts.
fn wiped_and_rebuilt(cores: [u16; 3]) {
    let (mut case, absent, once) = Case::new(cores);
    let (leader, wiped, third) = (case.leader, (case.leader + 1) % 3, (case.leader + 2) % 3);
    case.cluster.kill(wiped);
    case.churn_until_trimmed(leader);
    // What is owed is older than every checkpoint that will be sent.
    (0..5_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    case.churn(15);
    let epoch = case.cluster.etcd.epoch;
    case.cluster.nodes[wiped].wipe(epoch);
    case.cluster.start(wiped);
    case.churn(6);
    case.cluster.wait_for_followers();
    let learned = case.cluster.nodes[wiped].learned;
    assert!(learned > 0 && !case.cluster.nodes[wiped].is_learner, "{learned}");
    (5..10_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    // With the third one gone a majority needs it, and with the leader gone it is what there is.
    case.cluster.kill(third);
    (10..15_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    case.cluster.kill(leader);
    let epoch = case.cluster.etcd.epoch;
    case.cluster.nodes[leader].wipe(epoch);
    case.cluster.start(third);
    let next = case.cluster.wait_for_leader();
    case.has_all(next, absent, once, 15);
}

#[test]
fn a_wiped_follower_is_rebuilt_and_then_counts() {
    wiped_and_rebuilt([1, 1, 1]);
}

#[test]
fn a_wiped_follower_is_rebuilt_with_other_numbers_of_cores() {
    wiped_and_rebuilt([2, 1, 2]);
}

#[test]
fn a_node_that_was_away_too_long_gets_a_checkpoint_and_can_lead() {
    let (mut case, absent, once) = Case::new([1, 1, 2]);
    let (leader, away, third) = (case.leader, (case.leader + 1) % 3, (case.leader + 2) % 3);
    case.cluster.wait_for_followers();
    case.cluster.kill(away);
    case.churn_until_trimmed(leader);
    (0..3_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    case.cluster.start(away);
    case.churn(5);
    case.cluster.wait_for_followers();
    assert!(case.cluster.nodes[away].learned > 0);
    assert!(!case.cluster.nodes[away].files_with(LEARNED_NAME).is_empty());
    // It is started again with what it learned, also behind a checkpoint of its own.
    case.cluster.kill(away);
    case.cluster.start(away);
    case.cluster.wait_for_followers();
    case.churn(20);
    case.cluster.kill(away);
    case.cluster.start(away);
    case.cluster.wait_for_followers();
    case.cluster.kill(third);
    (3..6_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    case.cluster.kill(leader);
    case.cluster.start(third);
    let next = case.cluster.wait_for_leader();
    case.has_all(next, absent, once, 6);
}

/// A log that is let go of to be truncated does not know where it ends: no checkpoint is made of it.
#[test]
fn a_log_that_is_long_in_being_truncated_gets_no_checkpoint_meanwhile() {
    let (mut case, absent, once) = Case::new([1, 1, 1]);
    let leader = case.leader;
    case.churn(8);
    case.cluster.nodes[leader].truncation_takes = Duration::from_secs(5);
    let Case { cluster, publisher, .. } = &mut case;
    cluster.cut_off(leader);
    for _ in 0..6 {
        publisher.publish(&cluster.outer, ("churn", &[1; PAYLOAD]), QoS::AtLeastOnce, false);
    }
    cluster.until("it goes on", &mut [&mut *publisher], |c, _| !c.nodes[leader].ends.is_empty());
    let next = cluster.wait_for_leader();
    assert_ne!(next, leader);
    cluster.join();
    cluster.wait_for_followers();
    assert!(cluster.nodes[leader].truncations > 0, "what it alone had is given up");
    cluster.connect(publisher, next, 0);
    case.leader = next;
    case.churn(4);
    case.cluster.kill(leader);
    case.cluster.start(leader);
    case.cluster.wait_for_followers();
    case.cluster.kill(next);
    let third = case.cluster.wait_for_leader();
    case.has_all(third, absent, once, 0);
}

#[test]
fn a_learner_that_crashes_in_any_stage_begins_or_goes_on() {
    let (mut case, absent, once) = Case::new([1, 1, 1]);
    let (leader, wiped, third) = (case.leader, (case.leader + 1) % 3, (case.leader + 2) % 3);
    case.cluster.kill(wiped);
    case.churn_until_trimmed(leader);
    (0..4_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    let epoch = case.cluster.etcd.epoch;
    case.cluster.nodes[wiped].wipe(epoch);
    for turns in [5, 20, 60, 120, 200, 300] {
        case.cluster.start(wiped);
        (0..turns).for_each(|_| case.cluster.turn(&mut [&mut case.publisher]));
        case.cluster.kill(wiped);
    }
    // What came whole and was not put in place is gone on with at the next start.
    let epoch = case.cluster.etcd.epoch;
    case.cluster.nodes[wiped].wipe(epoch);
    case.cluster.nodes[wiped].replaces = false;
    case.cluster.start(wiped);
    case.cluster.until("nothing comes", &mut [&mut case.publisher], |cluster, _| {
        !cluster.nodes[wiped].files_with(RECEIVED_SUFFIX).is_empty()
            && cluster.nodes[wiped].files_with(".tmp").is_empty()
    });
    case.cluster.kill(wiped);
    case.cluster.nodes[wiped].replaces = true;
    case.cluster.start(wiped);
    assert!(case.cluster.nodes[wiped].files_with(RECEIVED_SUFFIX).is_empty());
    assert!(!case.cluster.nodes[wiped].files_with(LEARNED_NAME).is_empty());
    case.churn(3);
    case.cluster.wait_for_followers();
    assert!(!case.cluster.nodes[wiped].is_learner);
    case.cluster.kill(third);
    (4..8_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    case.cluster.kill(leader);
    case.cluster.start(third);
    let next = case.cluster.wait_for_leader();
    case.has_all(next, absent, once, 8);
}

#[test]
fn a_leader_that_changes_while_it_sends_is_followed_by_one_that_sends_anew() {
    let (mut case, absent, once) = Case::new([1, 1, 1]);
    let (leader, wiped, third) = (case.leader, (case.leader + 1) % 3, (case.leader + 2) % 3);
    case.cluster.kill(wiped);
    case.churn_until_trimmed(third);
    (0..4_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    let epoch = case.cluster.etcd.epoch;
    case.cluster.nodes[wiped].wipe(epoch);
    case.cluster.nodes[wiped].files[0].hold(true);
    case.cluster.start(wiped);
    (0..50).for_each(|_| case.cluster.turn(&mut [&mut case.publisher]));
    // The leader is gone for good: the third one has all, and the wiped one nothing yet. Nobody may lead.
    case.cluster.kill(leader);
    case.cluster.nodes[wiped].files[0].hold(false);
    case.cluster.pass(Duration::from_secs(5), &mut []);
    assert_eq!(case.cluster.leader(), None, "a learner counts for no majority");
    case.cluster.start(leader);
    let next = case.cluster.wait_for_leader();
    assert_ne!(id(next), id(wiped));
    case.cluster.connect(&mut case.publisher, next, 0);
    case.leader = next;
    case.churn(3);
    case.cluster.wait_for_followers();
    assert!(!case.cluster.nodes[wiped].is_learner);
    case.cluster.kill(if next == third { leader } else { third });
    (4..6_u8).for_each(|number| case.publish("owed/a", &[number; 10]));
    case.has_all(next, absent, once, 6);
}

#[test]
fn a_node_that_is_away_holds_the_log_only_so_far() {
    let mut config = config();
    config.replication.keep_for_absent = 4 << 30;
    let mut cluster = Cluster::of([1, 1, 1], config, |_| MemoryDisk::new());
    (0..3).for_each(|node| cluster.start(node));
    let leader = cluster.wait_for_leader();
    let mut publisher = Client::new("p");
    cluster.connect(&mut publisher, leader, 0);
    let mut case = Case { cluster, leader, publisher, sent: 0 };
    let away = (leader + 1) % 3;
    case.churn(1);
    case.cluster.wait_for_followers();
    case.cluster.kill(away);
    case.churn(30);
    assert!(!case.is_trimmed(leader), "it lacks all that");
    case.cluster.start(away);
    case.cluster.wait_for_followers();
    assert_eq!(case.cluster.nodes[away].learned, 0);
    case.churn_until_trimmed(leader);
}
