//! What sessions are owed, read from the log and let go of: how much work that is, and for whom. A
//! broker of one core on a disk in memory.

use crate::loopback::{Loopback, log_directory, new_log, publish, publish_for};
use ringlane::config::{CommitLogConfig, Config, SessionConfig, StreamConfig, WhenFull};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::disk::memory::{MemoryDisk, Operation};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{QoS, Version};

const PARTITIONS: u32 = 4;
const V5: Version = Version::V5;
/// What a session may be owed.
const BACKLOG: u64 = 100_000;
/// Too many open files (errno(3)).
const EMFILE: i32 = 24;

fn broker(config: &Config) -> (Loopback, MemoryDisk) {
    let mut files = MemoryDisk::new();
    for partition in 0..PARTITIONS {
        files.make_directory(&log_directory(partition)).expect("a directory");
    }
    let logs = (0..PARTITIONS).map(|partition| new_log(partition, 100_000)).collect();
    let mut broker = Loopback::with_sessions(config, files.clone(), logs);
    broker.sent = Some(Vec::new());
    broker.end_turn();
    broker.settle_disk();
    (broker, files)
}

/// A session that is away and wants everything.
fn absent(broker: &mut Loopback, client_id: &str) {
    let client = broker.returning_client(client_id, V5);
    broker.settle_disk();
    broker.subscribe(client, V5, "#", QoS::AtLeastOnce);
    broker.settle_disk();
    broker.lose(client);
    broker.settle_disk();
}

fn send(broker: &mut Loopback, publisher: ConnectionId, count: u16, bytes: usize) {
    for id in 1..=count {
        let packet = publish(V5, "t", QoS::AtLeastOnce, id, &vec![b'x'; bytes]);
        broker.receive(publisher, &packet);
        broker.settle_disk();
    }
}

fn settle_for(broker: &mut Loopback, seconds: u64) {
    for _ in 0..seconds {
        broker.pass(1);
        broker.settle_disk();
    }
}

fn bounded(when_full: WhenFull) -> Config {
    let rest = StreamConfig { when_full, ..StreamConfig::rest() };
    let session = SessionConfig { max_backlog: BACKLOG, ..SessionConfig::default() };
    Config { stream: vec![rest], session, ..Config::default() }
}

#[test]
fn requests_of_clients_that_have_gone_do_not_stay() {
    let (mut broker, files) = broker(&Config::default());
    absent(&mut broker, "loop");
    let publisher = broker.client("publisher", V5);
    send(&mut broker, publisher, 40, 1000);
    files.hold_reads(true);
    let mut waiting = 0;
    for _ in 0..50 {
        let client = broker.returning_client("loop", V5);
        broker.settle_disk();
        broker.lose(client);
        broker.settle_disk();
        waiting = waiting.max(broker.metrics.fetches_waiting.get());
    }
    assert!(waiting <= 1, "{waiting} wait for nobody");
    files.hold_reads(false);
    let client = broker.returning_client("loop", V5);
    broker.settle_disk();
    assert!(40_000 < broker.take_sent(client).len(), "it gets all of them");
    assert_eq!(broker.metrics.fetches_waiting.get(), 0);
}

#[test]
fn a_host_without_descriptors_is_asked_again_after_a_while() {
    let (mut broker, files) = broker(&Config::default());
    absent(&mut broker, "late");
    let publisher = broker.client("publisher", V5);
    send(&mut broker, publisher, 10, 1000);
    for _ in 0..20 {
        files.fail(Operation::Open, ".log", EMFILE);
    }
    let client = broker.returning_client("late", V5);
    broker.settle_disk();
    assert!(broker.take_sent(client).len() < 1000, "it is not asked again at once");
    settle_for(&mut broker, 1);
    let mut got = 0;
    for _ in 0..30 {
        settle_for(&mut broker, 1);
        got += broker.take_sent(client).len();
    }
    assert!(10_000 < got, "{got}");
    assert_eq!(broker.metrics.dropped_postings.get() + broker.metrics.dropped_damaged.get(), 0);
}

#[test]
fn full_backlogs_are_not_read_again_and_again() {
    let (mut broker, _files) = broker(&bounded(WhenFull::Reject));
    for n in 0..20 {
        absent(&mut broker, &format!("full-{n}"));
    }
    let publisher = broker.client("publisher", V5);
    send(&mut broker, publisher, 120, 1000);
    settle_for(&mut broker, 10);
    let before = broker.reads;
    assert!(0 < before, "each was looked at once");
    settle_for(&mut broker, 30);
    assert_eq!(broker.reads, before, "nothing there ever expires");
    assert!(0 < broker.metrics.publishes_rejected.get(), "they are full");
}

/// Publishes messages that expire after five seconds.
fn send_short_lived(broker: &mut Loopback, publisher: ConnectionId, count: u16, bytes: usize) {
    for id in 1..=count {
        let payload = vec![b'x'; bytes];
        let packet = publish_for(V5, "t", QoS::AtLeastOnce, id, &payload, Some(5));
        broker.receive(publisher, &packet);
        broker.settle_disk();
    }
}

#[test]
fn expired_messages_of_groups_without_members_make_room() {
    let (mut broker, _files) = broker(&bounded(WhenFull::Reject));
    let member = broker.returning_client("member", V5);
    broker.settle_disk();
    broker.subscribe(member, V5, "$share/g/t", QoS::AtLeastOnce);
    settle_for(&mut broker, 1);
    broker.lose(member);
    let publisher = broker.client("publisher", V5);
    send_short_lived(&mut broker, publisher, 60, 1000);
    send(&mut broker, publisher, 60, 1000);
    let refused = broker.metrics.publishes_rejected.get();
    assert!((1..60).contains(&refused), "{refused}");
    settle_for(&mut broker, 10);
    assert_eq!(broker.metrics.dropped_expired.get(), 60);
    send(&mut broker, publisher, 30, 1000);
    assert_eq!(broker.metrics.publishes_rejected.get(), refused, "there is room");
    send(&mut broker, publisher, 60, 1000);
    assert!(refused < broker.metrics.publishes_rejected.get(), "it is full again");
    settle_for(&mut broker, 10);
    let before = broker.reads;
    settle_for(&mut broker, 30);
    assert_eq!(broker.reads, before, "nothing there ever expires");
    // What is left is there for a member, as much of it as it takes without an answer.
    let member = broker.returning_client("member", V5);
    settle_for(&mut broker, 10);
    let got = broker.take_sent(member).len();
    assert!((64_000..66_000).contains(&got), "{got} bytes");
}

#[test]
fn what_is_let_go_of_makes_room_for_more_than_one_message() {
    let (mut broker, _files) = broker(&bounded(WhenFull::DropOldest));
    absent(&mut broker, "slow");
    let publisher = broker.client("publisher", V5);
    let (mut drops, mut last) = (0, 0);
    for _ in 0..400 {
        send(&mut broker, publisher, 1, 1000);
        let dropped = broker.metrics.dropped_backlog.get();
        drops += u32::from(last < dropped);
        last = dropped;
    }
    assert!((280..330).contains(&last), "{last} of 400 were let go of");
    assert!((10..40).contains(&drops), "at {drops} of 400 messages");
}

#[test]
fn a_checkpoint_takes_a_few_large_messages_at_a_time() {
    let commit_log = CommitLogConfig { checkpoint_size: 64 << 10, ..CommitLogConfig::default() };
    let (mut broker, _files) = broker(&Config { commit_log, ..Config::default() });
    let publisher = broker.client("publisher", V5);
    for n in 0..200 {
        let mut packet =
            publish(V5, &format!("retained/{n}"), QoS::AtLeastOnce, 1, &vec![b'x'; 40_000]);
        packet[0] |= 1;
        broker.receive(publisher, &packet);
        broker.settle_disk();
    }
    for _ in 0..300 {
        broker.pass(1);
        broker.settle_disk();
    }
    assert!(4 <= broker.metrics.checkpoints_written.get());
    assert!(1_000_000 < broker.metrics.checkpoint_bytes.get());
    assert!(broker.appended_max < 400_000, "{} bytes at once", broker.appended_max);
}
