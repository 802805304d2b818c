//! When acknowledgements go out, and what a full or broken disk does to clients: a broker of one
//! core on a disk in memory, which completes and fails what the test says.

use crate::loopback::full::{clients_of, partition_of, use_up_state};
use crate::loopback::{DIRECTORY_ID, Loopback, log_directory, new_log, publish};
use ringlane::config::{Config, StreamConfig, StreamLevel};
use ringlane_dataplane::disk::memory::{MemoryDisk, Operation};
use ringlane_dataplane::disk::{EIO, ENOSPC, StartFiles};
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::log::recovery::recover;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::writer::Writer;
use ringlane_mqtt::{QoS, ReasonCode, Version, encode};

const PARTITIONS: u32 = 4;
/// A broker with logs, and its disk.
fn broker(config: &Config) -> (Loopback, MemoryDisk) {
    start(config, Loopback::with_logs)
}

/// The same, that keeps sessions in its logs, too.
fn durable_broker(config: &Config) -> (Loopback, MemoryDisk) {
    start(config, Loopback::with_sessions)
}

fn start(
    config: &Config,
    make: fn(&Config, MemoryDisk, Vec<Writer>) -> Loopback,
) -> (Loopback, MemoryDisk) {
    let mut files = MemoryDisk::new();
    for partition in 0..PARTITIONS {
        files.make_directory(&log_directory(partition)).expect("a directory");
    }
    let logs = (0..PARTITIONS).map(|partition| new_log(partition, 100_000)).collect();
    let mut broker = make(config, files.clone(), logs);
    broker.sent = Some(Vec::new());
    broker.end_turn();
    broker.settle_disk();
    (broker, files)
}

fn memory() -> Config {
    let rest = StreamConfig { level: StreamLevel::Memory, ..StreamConfig::rest() };
    Config { stream: vec![rest], ..Config::default() }
}

/// Records of all logs, as a start would find them.
fn recovered(files: &MemoryDisk) -> u64 {
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let owner = LogOwner { directory: DIRECTORY_ID, partition: PartitionId(partition) };
        let mut files = files.clone();
        let log = recover(&mut files, &log_directory(partition), &owner, None, &mut |_| {});
        records += log.expect("a good log").records;
    }
    records
}

fn connected(broker: &mut Loopback, name: &str, version: Version) -> ConnectionId {
    let id = broker.client(name, version);
    broker.settle_disk();
    broker.take_sent(id);
    id
}

/// The first bytes of the packets that were sent, for acknowledgements of four bytes or more.
fn kinds(mut bytes: &[u8]) -> Vec<(u8, u8)> {
    let mut found = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let (body, next) = rest.split_at(usize::from(*length));
        let reason = match kind >> 4 {
            14 => body.first(),
            2 => body.get(1),
            _ => body.get(2),
        };
        found.push((kind >> 4, reason.copied().unwrap_or(0)));
        bytes = next;
    }
    found
}

const CONNACK: u8 = 2;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBCOMP: u8 = 7;
const DISCONNECT: u8 = 14;

#[test]
fn an_acknowledgement_waits_for_the_sync_and_the_subscriber_too() {
    let (mut broker, files) = broker(&Config::default());
    let subscriber = connected(&mut broker, "subscriber", Version::V311);
    broker.subscribe(subscriber, Version::V311, "#", QoS::AtLeastOnce);
    broker.settle_disk();
    broker.take_sent(subscriber);
    let publisher = connected(&mut broker, "publisher", Version::V311);
    let syncs = files.sync_count();
    for id in 1..=3 {
        let qos = if id == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
        broker.receive(publisher, &publish(Version::V311, "t", qos, id, b"x"));
    }
    broker.end_turn();
    while files.sync_count() == syncs {
        assert!(broker.take_sent(publisher).is_empty(), "nothing is synced yet");
        assert!(broker.take_sent(subscriber).is_empty(), "nothing is committed yet");
        assert!(broker.disk_turn() > 0, "the disk has something to do");
    }
    let sent = kinds(&broker.take_sent(publisher));
    assert_eq!(sent, [(PUBACK, 0), (PUBREC, 0), (PUBACK, 0)], "in the order of the publishes");
    assert!(!broker.take_sent(subscriber).is_empty());
    assert_eq!(files.sync_count(), syncs + 1, "one sync for all three");
    assert_eq!(recovered(&files), 3);
}

#[test]
fn at_the_level_memory_nobody_waits_and_everything_is_logged() {
    let (mut broker, files) = broker(&memory());
    let publisher = connected(&mut broker, "publisher", Version::V5);
    broker.receive(publisher, &publish(Version::V5, "t", QoS::AtLeastOnce, 1, b"x"));
    broker.end_turn();
    assert_eq!(kinds(&broker.take_sent(publisher)), [(PUBACK, 0x10)]);
    // What nobody waits for may wait for more.
    broker.pass(1);
    broker.settle_disk();
    assert_eq!(recovered(&files), 1);
}

#[test]
fn a_closing_batch_follows_without_further_traffic() {
    let (mut broker, files) = broker(&Config::default());
    let publisher = connected(&mut broker, "publisher", Version::V5);
    broker.receive(publisher, &publish(Version::V5, "t", QoS::AtLeastOnce, 1, b"x"));
    broker.end_turn();
    broker.settle_disk();
    let syncs = files.sync_count();
    broker.pass(1);
    broker.settle_disk();
    assert_eq!(files.sync_count(), syncs + 1);
    broker.pass(5);
    broker.settle_disk();
    assert_eq!(files.sync_count(), syncs + 1, "an idle log is left alone");
}

#[test]
fn a_failed_sync_turns_the_partition_away_and_no_other() {
    for operation in [Operation::Write, Operation::Sync] {
        let (mut broker, files) = broker(&Config::default());
        let names: Vec<String> = (0..40).map(|number| format!("client-{number}")).collect();
        let clients: Vec<ConnectionId> =
            names.iter().map(|name| connected(&mut broker, name, Version::V5)).collect();
        files.fail(operation, "/d/1/", EIO);
        for id in &clients {
            broker.receive(*id, &publish(Version::V5, "t", QoS::AtLeastOnce, 1, b"x"));
        }
        broker.end_turn();
        broker.settle_disk();
        let answers: Vec<_> = clients.iter().map(|id| kinds(&broker.take_sent(*id))).collect();
        let away = |answer: &Vec<(u8, u8)>| *answer == [(DISCONNECT, 0x83)];
        let gone = answers.iter().filter(|answer| away(answer)).count();
        assert!(0 < gone && gone < clients.len(), "{answers:?}");
        for answer in answers.iter().filter(|answer| !away(answer)) {
            assert_eq!(*answer, [(PUBACK, 0x10)], "the other partitions go on");
        }
        assert_eq!(broker.metrics.log_poisoned.get(), 1);
        let position = answers.iter().position(away).expect("one is gone");
        let again = broker.client(&names[position], Version::V5);
        assert_eq!(kinds(&broker.take_sent(again)), [(CONNACK, 0x88)], "refused, not hung");
    }
}

#[test]
fn a_full_disk_refuses_publishers_and_heals() {
    let (mut broker, files) = broker(&Config::default());
    let publisher = connected(&mut broker, "publisher", Version::V5);
    let old = connected(&mut broker, "publisher-of-3.1.1", Version::V311);
    files.fail(Operation::Create, "/d/", ENOSPC);
    files.set_capacity(0);
    let payload = vec![b'x'; 60_000];
    let mut refused = 0;
    for _ in 0..60 {
        for (id, version) in [(publisher, Version::V5), (old, Version::V311)] {
            if !broker.is_paused(id) {
                broker.receive(id, &publish(version, "t", QoS::AtLeastOnce, 1, &payload));
            }
        }
        broker.end_turn();
        broker.settle_disk();
        let answers = kinds(&broker.take_sent(publisher));
        refused += answers.iter().filter(|answer| **answer == (PUBACK, 0x97)).count();
    }
    assert!(0 < refused, "MQTT 5 is told");
    assert!(broker.is_paused(old), "3.1.1 waits");
    assert!(0 < broker.metrics.log_full.get());
    broker.take_sent(old);
    files.set_capacity(u64::MAX);
    broker.pass(2);
    broker.settle_disk();
    broker.pass(1);
    broker.settle_disk();
    assert_eq!(broker.metrics.log_full.get(), 0);
    assert_eq!(kinds(&broker.take_sent(old)), [(PUBACK, 0)], "what waited is taken");
    broker.receive(publisher, &publish(Version::V5, "t", QoS::AtLeastOnce, 1, &payload));
    broker.end_turn();
    broker.settle_disk();
    assert_eq!(kinds(&broker.take_sent(publisher)), [(PUBACK, 0x10)]);
}

#[test]
fn a_repeated_qos_2_publish_is_answered_no_sooner_than_the_first() {
    let (mut broker, files) = broker(&Config::default());
    let first = broker.returning_client("publisher", Version::V311);
    broker.settle_disk();
    files.hold(true);
    let packet = publish(Version::V311, "t", QoS::ExactlyOnce, 7, b"x");
    broker.receive(first, &packet);
    broker.end_turn();
    broker.settle_disk();
    let second = broker.returning_client("publisher", Version::V311);
    broker.take_sent(second);
    broker.receive(second, &packet);
    broker.end_turn();
    broker.settle_disk();
    broker.pass(1);
    assert!(broker.take_sent(second).is_empty(), "its record is not durable yet");
    files.hold(false);
    broker.settle_disk();
    broker.pass(1);
    broker.settle_disk();
    assert_eq!(kinds(&broker.take_sent(second)), [(PUBREC, 0)]);
    assert_eq!(recovered(&files), 1, "it is one message");
}

#[test]
fn the_end_waits_for_the_disk_and_not_for_ever() {
    let (mut broker, files) = broker(&memory());
    let publisher = connected(&mut broker, "publisher", Version::V5);
    files.set_capacity(0);
    let payload = vec![b'x'; 60_000];
    for id in 1..=40 {
        broker.receive(publisher, &publish(Version::V5, "t", QoS::AtLeastOnce, id, &payload));
    }
    broker.end_turn();
    files.hold(true);
    for _ in 0..3 {
        broker.pass(1);
        broker.settle_disk();
    }
    let answers = kinds(&broker.take_sent(publisher));
    let taken = answers.iter().filter(|(_, reason)| *reason < 0x80).count() as u64;
    assert!(0 < taken && recovered(&files) < taken);
    broker.drain();
    broker.pass(2);
    broker.settle_disk();
    assert!(!broker.stopped, "the disk is slow");
    files.hold(false);
    for _ in 0..8 {
        broker.pass(1);
        broker.settle_disk();
    }
    assert!(broker.stopped, "the disk is still full, for whatever else is to be written");
    assert_eq!(recovered(&files), taken, "what was taken has found room");
}

#[test]
fn a_repeated_pubrel_is_answered_no_sooner_than_the_first() {
    let (mut broker, files) = durable_broker(&Config::default());
    let client = broker.returning_client("publisher", Version::V311);
    broker.settle_disk();
    assert_eq!(kinds(&broker.take_sent(client)), [(CONNACK, 0)]);
    broker.receive(client, &publish(Version::V311, "t", QoS::ExactlyOnce, 7, b"x"));
    broker.end_turn();
    broker.settle_disk();
    assert_eq!(kinds(&broker.take_sent(client)), [(PUBREC, 0)]);
    files.hold(true);
    let mut pubrel = Vec::new();
    encode::pubrel(&mut pubrel, Version::V311, 7, ReasonCode::SUCCESS, None);
    for _ in 0..2 {
        broker.receive(client, &pubrel);
        broker.end_turn();
        broker.settle_disk();
        assert!(broker.take_sent(client).is_empty(), "the release is not durable yet");
    }
    files.hold(false);
    broker.settle_disk();
    assert_eq!(kinds(&broker.take_sent(client)), [(PUBCOMP, 0), (PUBCOMP, 0)]);
}

#[test]
fn a_refused_qos_2_publish_leaves_nothing_in_the_log() {
    let (mut broker, files) = durable_broker(&Config::default());
    let client = broker.returning_client("publisher", Version::V5);
    broker.settle_disk();
    let before = recovered(&files);
    broker.receive(client, &publish(Version::V5, "$SYS/t", QoS::ExactlyOnce, 7, b"x"));
    broker.end_turn();
    broker.settle_disk();
    assert!(kinds(&broker.take_sent(client)).contains(&(PUBREC, 0x87)));
    assert_eq!(recovered(&files), before);
}

#[test]
fn a_connect_that_waits_for_the_disk_is_refused_in_time() {
    let (mut broker, files) = durable_broker(&Config::default());
    files.hold(true);
    let versions = [(Version::V5, 0x88), (Version::V311, 0x03)];
    let waiting = versions.map(|(version, reason)| {
        (broker.returning_client(&format!("client-{version:?}"), version), reason)
    });
    broker.pass(11);
    for (client, reason) in waiting {
        assert_eq!(kinds(&broker.take_sent(client)), [(CONNACK, reason)]);
    }
    files.hold(false);
    broker.settle_disk();
    assert_eq!(broker.metrics.connect_timeouts.get(), 2);
    assert_eq!(broker.metrics.connections.get(), 0);
}

#[test]
fn a_retained_message_of_qos_0_stays_behind_an_earlier_one() {
    let (mut broker, files) = broker(&Config::default());
    let subscriber = connected(&mut broker, "subscriber", Version::V311);
    broker.subscribe(subscriber, Version::V311, "t", QoS::AtMostOnce);
    let publisher = connected(&mut broker, "publisher", Version::V311);
    broker.take_sent(subscriber);
    files.hold(true);
    let retained = |qos, packet_id, payload: &[u8]| {
        let mut packet = publish(Version::V311, "t", qos, packet_id, payload);
        packet[0] |= 1;
        packet
    };
    broker.receive(publisher, &retained(QoS::AtLeastOnce, 1, b"1"));
    broker.receive(publisher, &retained(QoS::AtMostOnce, 0, b"2"));
    broker.receive(publisher, &publish(Version::V311, "t", QoS::AtMostOnce, 0, b"3"));
    broker.end_turn();
    broker.settle_disk();
    assert!(broker.take_sent(subscriber).is_empty(), "the first waits for the disk");
    files.hold(false);
    broker.settle_disk();
    broker.pass(1);
    let sent = broker.take_sent(subscriber);
    let payloads: Vec<u8> = sent.chunks(6).map(|packet| packet[5]).collect();
    assert_eq!(payloads, b"123");
    let late = connected(&mut broker, "late", Version::V311);
    broker.subscribe(late, Version::V311, "t", QoS::AtMostOnce);
    let sent = broker.take_sent(late);
    assert_eq!(sent.last(), Some(&b'2'), "what is retained is the later one");
}

#[test]
fn what_is_recorded_of_sessions_waits_for_a_full_disk() {
    let (mut broker, files) = durable_broker(&memory());
    let client = broker.returning_client("client", Version::V311);
    let beside = clients_of(partition_of("client")).next().expect("one of many");
    let publisher = connected(&mut broker, &beside, Version::V5);
    files.set_capacity(0);
    let payload = vec![b'x'; 60_000];
    for id in 1..=40 {
        broker.receive(publisher, &publish(Version::V5, "t", QoS::AtLeastOnce, id, &payload));
    }
    broker.end_turn();
    broker.settle_disk();
    use_up_state(&mut broker, partition_of("client"));
    broker.take_sent(client);
    let mut unsubscribe = Vec::new();
    encode::unsubscribe(&mut unsubscribe, Version::V311, 50, &["t"]);
    broker.receive(client, &unsubscribe);
    broker.end_turn();
    assert!(broker.take_sent(client).is_empty() && broker.is_paused(client));
    let again = broker.returning_client("client", Version::V311);
    assert_eq!(kinds(&broker.take_sent(again)), [(CONNACK, 0x03)], "no record is appended for it");
    files.set_capacity(u64::MAX);
    for _ in 0..3 {
        broker.pass(1);
        broker.settle_disk();
    }
    assert_eq!(broker.take_sent(client).first(), Some(&0xB0), "what waited is taken");
}

/// What a session waits for that a failed log never writes is let go of, and the rest follows.
#[test]
fn a_failed_log_holds_up_no_session_of_another() {
    let names: Vec<String> = (0..8).map(|number| format!("client-{number}")).collect();
    let of_failed = |broker: &mut Loopback, files: &MemoryDisk, clients: &[ConnectionId]| {
        files.fail(Operation::Write, "/d/1/", EIO);
        for id in clients {
            broker.receive(*id, &publish(Version::V5, "other", QoS::AtLeastOnce, 9, b"x"));
        }
        broker.end_turn();
        broker.pass(1);
        broker.settle_disk();
        let is_away =
            |id: &ConnectionId| kinds(&broker.take_sent(*id)).contains(&(DISCONNECT, 0x83));
        clients.iter().map(is_away).collect::<Vec<bool>>()
    };
    let (mut first, files) = durable_broker(&memory());
    let clients: Vec<_> = names.iter().map(|n| connected(&mut first, n, Version::V5)).collect();
    let away = of_failed(&mut first, &files, &clients);
    let failed = away.iter().position(|away| *away).expect("one is of partition 1");
    let sound = away.iter().position(|away| !*away).expect("one is not");

    let (mut broker, files) = durable_broker(&memory());
    let subscriber = broker.returning_client(&names[sound], Version::V5);
    broker.settle_disk();
    broker.subscribe(subscriber, Version::V5, "t", QoS::AtLeastOnce);
    broker.settle_disk();
    broker.lose(subscriber);
    broker.settle_disk();
    let publisher = connected(&mut broker, &names[failed], Version::V5);
    broker.receive(publisher, &publish(Version::V5, "t", QoS::AtLeastOnce, 1, b"x"));
    broker.end_turn();
    let subscriber = broker.returning_client(&names[sound], Version::V5);
    // Its own log takes its CONNECT; the other one lingers.
    broker.settle_disk();
    assert_eq!(kinds(&broker.take_sent(subscriber)), [(CONNACK, 0)]);
    assert_eq!(broker.metrics.dropped_postings.get(), 0, "it waits for the record");
    of_failed(&mut broker, &files, &[publisher]);
    broker.end_turn();
    assert_eq!(broker.metrics.dropped_postings.get(), 1, "it waits no more");
    let other = connected(&mut broker, "other", Version::V5);
    broker.take_sent(subscriber);
    broker.receive(other, &publish(Version::V5, "t", QoS::AtLeastOnce, 1, b"after"));
    broker.pass(1);
    broker.settle_disk();
    let sent = broker.take_sent(subscriber);
    assert!(sent.windows(5).any(|bytes| bytes == b"after"), "the rest follows");
}
