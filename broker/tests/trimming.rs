//! The log does not grow without end: under a churn of sessions, retained messages and exchanges it is
//! trimmed, and after a crash there is exactly what a model says.

use crate::support;
use crate::support::{
    Broker, Client, Connect, Kind, Options, Properties, Publish, Transport, Version,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Each round publishes about this much per partition.
const PAYLOAD_BYTES: usize = 8 * 1024;
const PAYLOADS: u16 = 50;
/// Retained messages of 1 KB.
const BULK: u16 = 2000;
/// Two segments that are kept, the one that is written, the one behind it, two that checkpoints hold
/// back, and one that what is needed does: of 1 MiB, in four partitions, and a bit more.
const DISK_BYTES_MAX: u64 = 4 * 8 * (1 << 20);

fn options(transport: Transport) -> Options {
    Options::new(transport).logged().config(support::broker::TRIMMED)
}

/// Clients whose publishes are in four logs.
fn publishers() -> impl Iterator<Item = String> {
    // Several in each partition, most likely.
    (0..24).map(|number| format!("publisher-{number}"))
}

fn fill(broker: &Broker) {
    let payload = vec![b'x'; PAYLOAD_BYTES];
    for name in publishers() {
        let mut publisher = Client::plain(broker.tcp, Version::V5, &name);
        for first in (0..PAYLOADS).step_by(50) {
            for id in 1..=50 {
                publisher.send_publish(&Publish::new("fill", &payload).qos(1, first + id));
            }
            (0..50).for_each(|_| drop(publisher.read_kind(Kind::Puback)));
        }
        publisher.disconnect();
    }
}

fn bytes_of(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        // A file may go meanwhile.
        bytes += match path.is_dir() {
            true => bytes_of(&path),
            false => std::fs::metadata(&path).map_or(0, |found| found.len()),
        };
    }
    bytes
}

fn log_bytes(broker: &Broker) -> u64 {
    bytes_of(&broker.data_dir().join("partitions"))
}

fn durable(broker: &Broker, client_id: &str) -> Client {
    Client::connect(broker.tcp, &Connect::new(Version::V5, client_id).durable())
}

fn resume(broker: &Broker, client_id: &str) -> Client {
    let client = durable(broker, client_id);
    assert!(client.connack().session_present(), "{client_id} has its session");
    client
}

/// What there must be, whatever happens to the process.
#[derive(Default)]
struct Model {
    retained: BTreeMap<String, String>,
    /// Numbers published to the session that comes and goes, and those that it has acknowledged.
    published: usize,
    acknowledged: usize,
    /// Published to the one that stays away.
    held: usize,
}

impl Model {
    fn round(&mut self, broker: &Broker, round: usize) {
        let mut publisher = Client::plain(broker.tcp, Version::V5, "churner");
        for number in 0..6 {
            let topic = format!("r/{}", (round + number) % 10);
            let payload = if number % 3 == 2 { String::new() } else { format!("{round}-{number}") };
            publisher.publish_packet(Publish::new(&topic, &payload).qos(1, 0).retain());
            if payload.is_empty() {
                self.retained.remove(&topic);
            } else {
                self.retained.insert(topic, payload);
            }
        }
        for _ in 0..5 {
            publisher.publish("steady", format!("{}", self.published), 1);
            self.published += 1;
        }
        if round.is_multiple_of(4) {
            publisher.publish("held", format!("{}", self.held), 1);
            self.held += 1;
        }
        publisher.disconnect();
        self.come_and_go(broker, round);
        fill(broker);
    }

    /// Sessions that expire, and one that ends with a clean start.
    fn come_and_go(&mut self, broker: &Broker, round: usize) {
        for number in 0..5 {
            let mut connect = Connect::new(Version::V5, &format!("short-{round}-{number}"));
            connect.clean = false;
            let connect = connect.properties(Properties::new().four(0x11, 1));
            let mut client = Client::connect(broker.tcp, &connect);
            client.subscribe("steady", 1);
            client.subscribe(&format!("own/{round}/{number}"), 2);
            client.disconnect();
        }
        let mut client = durable(broker, "restless");
        client.subscribe("fill", 1);
        client.disconnect();
        Client::plain(broker.tcp, Version::V5, "restless").disconnect();
    }

    /// Reads what the steady session is owed: everything that it has not acknowledged, and maybe
    /// what it acknowledged within the second before a crash.
    fn read_steady(&mut self, broker: &Broker) {
        let mut client = resume(broker, "steady");
        let mut next = None;
        while next != Some(self.published) {
            let number: usize = client.receive_and_acknowledge().text().parse().expect("a number");
            let expected = next.unwrap_or(number.min(self.acknowledged));
            assert_eq!(number, expected, "in order, without a gap");
            next = Some(number + 1);
        }
        self.acknowledged = self.published;
        client.expect_nothing();
        client.disconnect();
    }

    fn check_retained(&self, broker: &Broker) {
        let mut client = Client::plain(broker.tcp, Version::V5, "reader");
        client.subscribe("r/#", 1);
        let mut found = BTreeMap::new();
        for _ in 0..self.retained.len() {
            let received = client.receive_and_acknowledge();
            found.insert(received.topic.clone(), received.text());
        }
        assert_eq!(found, self.retained);
        client.expect_nothing();
        client.disconnect();
    }

    fn check_held(&self, broker: &Broker) {
        let mut client = resume(broker, "held");
        for number in 0..self.held {
            assert_eq!(client.receive_and_acknowledge().text(), format!("{number}"));
        }
        client.expect_nothing();
        client.disconnect();
    }
}

fn churn_ends_with_a_bounded_disk_and_the_state_of_the_model(transport: Transport) {
    let mut options = options(transport);
    let mut broker = Broker::start(&options);
    let mut model = Model::default();
    for (client_id, topic) in [("steady", "steady"), ("held", "held"), ("exact", "exact")] {
        let mut client = durable(&broker, client_id);
        assert_eq!(client.subscribe(topic, 2), 2);
        client.disconnect();
    }
    for (round, cores) in [2, 1, 2].into_iter().enumerate() {
        // An exchange is open while the log goes on: its message is needed.
        let mut exact = resume(&broker, "exact");
        let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher-0");
        publisher.publish("exact", format!("{round}"), 2);
        let first = exact.receive();
        for step in 0..4 {
            model.round(&broker, 4 * round + step);
            if step % 2 == 1 {
                model.read_steady(&broker);
            }
        }
        let what = "what is open holds back only what is behind it";
        broker.wait_until(what, |broker| broker.metric("log_segments_trimmed_total") > 0);
        broker.kill();
        options = options.cores(cores);
        broker.restart(&options);
        let mut exact = resume(&broker, "exact");
        let again = exact.receive();
        assert_eq!((again.id, again.text(), again.dup), (first.id, format!("{round}"), true));
        exact.finish(&again);
        exact.expect_nothing();
        exact.disconnect();
        model.check_retained(&broker);
        model.round(&broker, 100 + round);
        model.read_steady(&broker);
    }
    model.check_held(&broker);
    fill(&broker);
    broker.wait_until("the disk is bounded", |broker| log_bytes(broker) <= DISK_BYTES_MAX);
    broker.wait_until("the sessions have expired", |broker| broker.metric("sessions") <= 4);
    broker.kill();
    broker.restart(&options);
    model.check_retained(&broker);
    broker.wait_until("its size is known", |broker| broker.metric("checkpoint_bytes") > 0);
    broker.stop();
}

/// The checkpoints of all partitions, each partition's newest first.
fn checkpoints(broker: &Broker) -> Vec<Vec<PathBuf>> {
    let partitions = std::fs::read_dir(broker.data_dir().join("partitions")).expect("partitions/");
    let of_one = |directory: PathBuf| {
        let files = std::fs::read_dir(directory).expect("a directory");
        let files = files.map(|file| file.expect("an entry").path());
        let is_one = |path: &PathBuf| path.extension().is_some_and(|name| name == "checkpoint");
        let mut found: Vec<_> = files.filter(is_one).collect();
        found.sort();
        found.reverse();
        found
    };
    partitions.map(|partition| of_one(partition.expect("an entry").path())).collect()
}

/// Damages a checkpoint, or damages it once more.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a checkpoint");
    bytes[70] = bytes[70].wrapping_add(1);
    std::fs::write(path, bytes).expect("a damaged checkpoint");
}

fn log_command(broker: &Broker, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlane"));
    let data_dir = broker.data_dir();
    let run = command.arg("log").args(arguments).arg("--data-dir").arg(data_dir).output();
    let run = run.expect("the program runs");
    let out = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.success(), "{out}{}", String::from_utf8_lossy(&run.stderr));
    out
}

/// A broker with a session, a retained message, and logs that have all been trimmed.
fn trimmed(options: &Options) -> Broker {
    let broker = Broker::start(options);
    let mut client = durable(&broker, "session");
    client.subscribe("t", 1);
    client.disconnect();
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher-0");
    publisher.publish_packet(Publish::new("kept", "forever").qos(1, 0).retain());
    // So much of it that no checkpoint is taken in one turn, nor written at once.
    for first in (0..BULK).step_by(100) {
        for id in 0..100 {
            let bulk = Publish::new(&format!("bulk/{}", first + id), [b'b'; 1000]);
            publisher.send_publish(&bulk.qos(1, 1 + id).retain());
        }
        (0..100).for_each(|_| drop(publisher.read_kind(Kind::Puback)));
    }
    publisher.disconnect();
    let deadline = Instant::now() + support::PATIENCE;
    while log_starts(&broker).iter().filter(|start| **start > 0).count() < 3 {
        assert!(Instant::now() < deadline, "waited in vain for logs to be trimmed");
        fill(&broker);
    }
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher-0");
    publisher.publish("t", "owed", 1);
    publisher.disconnect();
    broker
}

/// The first offset of each partition's log.
fn log_starts(broker: &Broker) -> Vec<u64> {
    let first = |partition: u32| {
        let partition = partition.to_string();
        let lines = log_command(broker, &["ls", "--json", "--partition", &partition]);
        let line = lines.lines().next()?;
        let (_, rest) = line.split_once("\"base_offset\":")?;
        rest.split([',', '}']).next()?.parse().ok()
    };
    (0..4).map(|partition| first(partition).unwrap_or(0)).collect()
}

fn check_state(broker: &Broker) {
    let mut client = resume(broker, "session");
    assert_eq!(client.receive_and_acknowledge().text(), "owed");
    client.expect_nothing();
    client.disconnect();
    let mut reader = Client::plain(broker.tcp, Version::V5, "reader");
    reader.subscribe("kept", 1);
    assert_eq!(reader.receive_and_acknowledge().text(), "forever");
    reader.subscribe("bulk/#", 1);
    let topics = (0..BULK).map(|_| reader.receive_and_acknowledge().topic);
    assert_eq!(topics.collect::<BTreeSet<_>>().len(), usize::from(BULK));
    reader.expect_nothing();
}

fn a_trimmed_log_needs_one_of_its_checkpoints(transport: Transport) {
    let options = options(transport);
    let mut broker = trimmed(&options);
    broker.kill();
    for newest in checkpoints(&broker).iter().filter(|found| found.len() > 1) {
        damage(&newest[0]);
    }
    broker.restart(&options);
    assert!(broker.log().contains("a checkpoint cannot be used"));
    check_state(&broker);
    broker.kill();
    checkpoints(&broker).iter().flatten().for_each(|path| damage(path));
    assert_eq!(broker.restart_in_vain(&options).code(), Some(1));
    assert!(broker.log().contains("no checkpoint can be used"), "{}", broker.log());
    for partition in ["0", "1", "2", "3"] {
        log_command(&broker, &["truncate-tail", "--yes", "--partition", partition]);
    }
    broker.restart(&options);
    fill(&broker);
    broker.kill();
    broker.restart(&options);
    broker.stop();
}

/// What is left names the beginning of the log, and there is a checkpoint of what came before it.
fn the_end_of_a_trimmed_log_can_be_given_up(transport: Transport) {
    let options = options(transport);
    let mut broker = trimmed(&options);
    broker.kill();
    for (partition, start) in log_starts(&broker).into_iter().enumerate() {
        let (partition, at) = (partition.to_string(), (start + 40).to_string());
        let cut = ["truncate-tail", "--yes", "--partition", &partition, "--at", &at];
        log_command(&broker, &cut);
    }
    broker.restart(&options);
    fill(&broker);
    broker.kill();
    broker.restart(&options);
    broker.stop();
}

/// A start reads what was written since the last checkpoint, and next to nothing after an orderly end.
fn a_start_reads_what_follows_a_checkpoint(transport: Transport) {
    let options = options(transport);
    let mut broker = trimmed(&options);
    broker.wait_until("little is left to be read", |broker| {
        broker.metric("checkpoint_lag_bytes") < 4 * (512 << 10)
    });
    broker.kill();
    broker.restart(&options);
    let read = broker.metric("log_recovered_records");
    assert!(read < 4 * 150, "{read} records read");
    check_state(&broker);
    fill(&broker);
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(0));
    broker.restart(&options);
    let read = broker.metric("log_recovered_records");
    // Checkpoints are written at the end behind 1,000 records or more of a partition.
    assert!(read < 4 * 1000, "{read} records read");
    let mut client = resume(&broker, "session");
    client.expect_nothing();
    broker.stop();
}

on_both_transports!(
    churn_ends_with_a_bounded_disk_and_the_state_of_the_model,
    a_trimmed_log_needs_one_of_its_checkpoints,
    the_end_of_a_trimmed_log_can_be_given_up,
    a_start_reads_what_follows_a_checkpoint,
);
