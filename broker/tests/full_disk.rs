//! What becomes of sessions, wills and retained messages while the disk is full, and when there is
//! room again: a broker of one core on a disk in memory.

use crate::loopback::full::{clients_of, connack, partition_of, placement, use_up_state};
use crate::loopback::{DIRECTORY_ID, Loopback, log_directory, new_log, publish};
use ringlane::config::{Config, StreamConfig, StreamLevel};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::log::recovery::recover;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_mqtt::{QoS, Version};

const PARTITIONS: u32 = 4;
const V311: Version = Version::V311;
/// Kinds of records (docs/formats/state.md).
const PUBLISH: u8 = 1;
const OPEN: u8 = 16;
const CLOSED: u8 = 17;
const END: u8 = 18;
const POSTINGS: u8 = 22;
const RETAINED: u8 = 28;

/// A broker that keeps sessions in its logs, at the level `memory`, and its disk.
fn broker() -> (Loopback, MemoryDisk) {
    let rest = StreamConfig { level: StreamLevel::Memory, ..StreamConfig::rest() };
    broker_with(Config { stream: vec![rest], ..Config::default() })
}

fn broker_with(config: Config) -> (Loopback, MemoryDisk) {
    let mut files = MemoryDisk::new();
    for partition in 0..PARTITIONS {
        files.make_directory(&log_directory(partition)).expect("a directory");
    }
    let logs = (0..PARTITIONS).map(|partition| new_log(partition, 100_000)).collect();
    let mut broker = Loopback::with_sessions(&config, files.clone(), logs);
    broker.sent = Some(Vec::new());
    broker.end_turn();
    broker.settle_disk();
    (broker, files)
}

/// Kind and client identifier or topic of each record in the log of a partition, as a start would
/// find it.
fn records(files: &MemoryDisk, partition: PartitionId) -> Vec<(u8, String)> {
    let mut records = Vec::new();
    let owner = LogOwner { directory: DIRECTORY_ID, partition };
    let log =
        recover(&mut files.clone(), &log_directory(partition.0), &owner, None, &mut |record| {
            let name = if record.topic.is_empty() { record.client_id } else { record.topic };
            records.push((record.head.kind.0, name.to_owned()));
        });
    log.expect("a good log");
    records
}

/// Where a record is, of those that are not of the client that filled the log.
fn find(records: &[(u8, String)], kind: u8, name: &str) -> Option<usize> {
    records.iter().position(|(found, of)| *found == kind && of == name)
}

/// Publishes until neither publishes nor records that a client waits for find room in the log of the
/// client that is called `client`.
fn fill(broker: &mut Loopback, files: &MemoryDisk, client: ConnectionId, version: Version) {
    files.set_capacity(0);
    let payload = vec![b'x'; 60_000];
    for id in 1..=40 {
        broker.receive(client, &publish(version, "fill", QoS::AtLeastOnce, id, &payload));
    }
    broker.end_turn();
    broker.settle_disk();
    use_up_state(broker, partition_of("client"));
    broker.take_sent(client);
}

fn make_room(broker: &mut Loopback, files: &MemoryDisk) {
    files.set_capacity(u64::MAX);
    for _ in 0..4 {
        broker.pass(1);
        broker.settle_disk();
    }
    assert_eq!(broker.metrics.log_full.get(), 0);
}

/// PUBLISH packets that were sent to a client.
fn publishes(broker: &mut Loopback, client: ConnectionId) -> usize {
    let sent = broker.take_sent(client);
    let (mut rest, mut count) = (&sent[..], 0);
    while let [kind, length, tail @ ..] = rest {
        count += usize::from(kind >> 4 == 3);
        rest = &tail[usize::from(*length)..];
    }
    count
}

#[test]
fn a_will_waits_for_room_and_is_published_once() {
    let (mut broker, files) = broker();
    let subscriber = broker.client("subscriber", V311);
    broker.subscribe(subscriber, V311, "will/#", QoS::AtLeastOnce);
    broker.settle_disk();
    let client = broker.client_with_will("client", V311, "will/1");
    broker.settle_disk();
    fill(&mut broker, &files, client, V311);
    broker.take_sent(subscriber);
    broker.lose(client);
    broker.pass(2);
    broker.settle_disk();
    assert_eq!(publishes(&mut broker, subscriber), 0);
    let partition = partition_of("client");
    let full = records(&files, partition);
    assert!(find(&full, OPEN, "client").is_some(), "a crash brings the will back");
    assert_eq!(full.iter().find(|(kind, _)| *kind == CLOSED || *kind == END), None);
    let again = broker.returning_client("client", V311);
    assert_eq!(connack(&mut broker, again), Some(3), "its record has no room");

    make_room(&mut broker, &files);
    assert_eq!(publishes(&mut broker, subscriber), 1);
    broker.pass(20);
    assert_eq!(publishes(&mut broker, subscriber), 0);
    assert_eq!(broker.metrics.wills_published.get(), 1);
    assert_eq!(broker.metrics.dropped_memory.get(), 0);
    let healed = records(&files, partition);
    let will = find(&healed, PUBLISH, "will/1").expect("the will");
    assert!(will < find(&healed, CLOSED, "client").expect("it is gone only then"));
    let again = broker.returning_client("client", V311);
    broker.settle_disk();
    assert_eq!(connack(&mut broker, again), Some(0));
}

#[test]
fn the_end_of_a_session_waits_for_room_with_its_will() {
    let (mut broker, files) = broker();
    let subscriber = broker.client("subscriber", V311);
    broker.subscribe(subscriber, V311, "will/#", QoS::AtLeastOnce);
    let client = broker.client_with_will("client", Version::V5, "will/1");
    broker.settle_disk();
    broker.subscribe(client, Version::V5, "a/b", QoS::AtLeastOnce);
    broker.settle_disk();
    fill(&mut broker, &files, client, Version::V5);
    broker.take_sent(subscriber);
    let sessions = broker.metrics.sessions.get();
    // DISCONNECT with the will, and with a session expiry interval of 0.
    broker.receive(client, &[0xE0, 7, 4, 5, 0x11, 0, 0, 0, 0]);
    broker.end_turn();
    broker.settle_disk();
    assert_eq!(broker.metrics.sessions.get() + 1, sessions, "it is over");
    let partition = partition_of("client");
    assert_eq!(find(&records(&files, partition), END, "client"), None);
    // CONNACK would say that no session is present, which is not durable yet.
    let clean = broker.client("client", Version::V5);
    assert_eq!(connack(&mut broker, clean), Some(0x97));

    make_room(&mut broker, &files);
    assert_eq!(publishes(&mut broker, subscriber), 1);
    let healed = records(&files, partition);
    let will = find(&healed, PUBLISH, "will/1").expect("the will");
    assert!(will < find(&healed, END, "client").expect("the end"));
    let again = broker.returning_client("client", V311);
    broker.settle_disk();
    assert_eq!(broker.take_sent(again)[2..4], [0, 0], "no session is present");
}

#[test]
fn a_retained_message_waits_for_room_and_the_cursor_before_it() {
    let (mut broker, files) = broker();
    let partition = partition_of("client");
    let topic = (0..).map(|n| format!("retained/{n}"));
    let topic = topic.into_iter().find(|topic| placement().topic_partition(topic) == partition);
    let topic = topic.expect("one of many");
    let publisher = (0..).map(|n| format!("publisher-{n}"));
    let publisher = publisher.into_iter().find(|name| partition_of(name) != partition);
    let publisher = publisher.expect("one of many");
    let client = broker.returning_client("client", V311);
    broker.settle_disk();
    broker.subscribe(client, V311, "retained/#", QoS::AtLeastOnce);
    broker.settle_disk();
    let publisher = broker.client(&publisher, V311);
    fill(&mut broker, &files, client, V311);
    broker.take_sent(publisher);
    let before = records(&files, partition);
    for (id, payload) in [(1, b"1"), (2, b"2")] {
        let mut packet = publish(V311, &topic, QoS::AtLeastOnce, id, payload);
        packet[0] |= 1;
        broker.receive(publisher, &packet);
        broker.end_turn();
    }
    broker.settle_disk();
    broker.pass(3);
    broker.settle_disk();
    assert_eq!(broker.take_sent(publisher).len(), 8, "two PUBACK: its own log has room");
    let full = records(&files, partition);
    assert_eq!(full.len(), before.len(), "neither the copy nor a cursor behind it");

    make_room(&mut broker, &files);
    let healed = records(&files, partition);
    let copies = healed.iter().filter(|(kind, name)| (*kind, name) == (RETAINED, &topic));
    assert_eq!(copies.count(), 1, "the latest");
    let copy = find(&healed, RETAINED, &topic).expect("the copy");
    let cursor = healed[before.len()..].iter().position(|(kind, _)| *kind == POSTINGS);
    let cursor = before.len() + cursor.expect("what was matched");
    assert!(copy < cursor, "the cursor is behind the copy");
    let late = broker.client("late", V311);
    broker.take_sent(late);
    broker.subscribe(late, V311, "retained/#", QoS::AtMostOnce);
    assert_eq!(broker.take_sent(late).last(), Some(&b'2'));
}

fn used_bytes(files: &MemoryDisk) -> u64 {
    files.paths().iter().filter_map(|path| files.content(path)).map(|file| file.len() as u64).sum()
}

/// A session that is away is owed all that fills the disk. The log of its partition takes no record
/// that a client waits for any more; but its end is taken, the logs are trimmed behind it, and what
/// that needs finds room.
#[test]
fn the_end_of_the_session_that_is_owed_it_all_makes_room() {
    let rest = StreamConfig { retention_size: 4, ..StreamConfig::rest() };
    let (mut broker, files) = broker_with(Config { stream: vec![rest], ..Config::default() });
    let partition = partition_of("owed");
    let owed = broker.connect_for("owed", 60);
    broker.settle_disk();
    broker.subscribe(owed, Version::V5, "fill", QoS::AtLeastOnce);
    broker.settle_disk();
    broker.receive(owed, &[0xE0, 0]);
    broker.lose(owed);
    settle_for(&mut broker, 3);
    files.set_capacity(used_bytes(&files) + (12 << 20));

    let publishers: Vec<_> = (0..PARTITIONS)
        .map(|n| clients_of(PartitionId(n)).next().expect("one of many"))
        .map(|name| broker.client(&name, V311))
        .collect();
    broker.settle_disk();
    let payload = vec![b'x'; 60_000];
    for round in 0..400 {
        for publisher in &publishers {
            let packet = publish(V311, "fill", QoS::AtLeastOnce, 1 + round, &payload);
            broker.receive(*publisher, &packet);
            broker.settle_disk();
        }
    }
    settle_for(&mut broker, 3);
    assert_eq!(broker.metrics.log_full.get(), u64::from(PARTITIONS));
    let refused = use_up_state(&mut broker, partition);
    assert_eq!(broker.metrics.log_segments_trimmed.get(), 0);

    settle_for(&mut broker, 100);
    assert_eq!(broker.metrics.sessions_expired.get(), 1);
    assert!(0 < broker.metrics.log_segments_trimmed.get());
    assert_eq!(broker.metrics.log_full.get(), 0, "it heals");
    let again = broker.returning_client(&refused, V311);
    broker.settle_disk();
    assert_eq!(connack(&mut broker, again), Some(0));
}

fn settle_for(broker: &mut Loopback, seconds: u64) {
    for _ in 0..seconds {
        broker.pass(1);
        broker.settle_disk();
    }
}
