//! The running broker on real file systems that are full, or that fail under it. It needs root and
//! loop devices; where they are missing the tests say NOT RUN.

use crate::support;
use crate::support::{Broker, Client, Connect, Kind, Options, Packet, Publish, Transport, Version};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system on a file; removed when dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where it cannot be made.
    fn make(kind: &str, mebibytes: u32, name: &str) -> Option<Self> {
        let directory =
            std::env::temp_dir().join(format!("ringlane-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let disk = Self(directory);
        let can = Path::new("/dev/loop-control").exists()
            && Path::new("/proc/self/status").exists()
            && is_root();
        if can && disk.step(kind, &mebibytes.to_string()) {
            return Some(disk);
        }
        support::not_run("a file system on a file needs root and loop devices");
        None
    }

    fn step(&self, step: &str, argument: &str) -> bool {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/faults/disk.sh");
        let status = Command::new("bash").arg(script).arg(step).arg(&self.0).arg(argument).status();
        status.expect("bash runs").success()
    }

    fn mount(&self) -> PathBuf {
        self.0.join("mount")
    }

    fn options(&self, transport: Transport) -> Options {
        let data = format!("data_dir = {:?}", self.mount().join("data"));
        Options::new(transport).logged().config(&data)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.step("remove", "0");
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.split_whitespace().take(3).eq(["Uid:", "0", "0"]))
}

/// Publishes one message and takes its answer; `None` if the connection is over.
fn publish(client: &mut Client, id: u16, payload: &[u8]) -> Option<Packet> {
    let publish = Publish::new("t", payload).qos(1, id);
    client.try_send(&publish.encode(Version::V5)).ok()?;
    client.try_read(support::PATIENCE).ok()
}

fn a_full_disk_refuses_publishers_until_there_is_room(transport: Transport) {
    let Some(disk) = Disk::make("small", 40, transport.name()) else { return };
    let ballast = disk.mount().join("ballast");
    std::fs::write(&ballast, vec![1; 12 << 20]).expect("a file that takes room");
    let options = disk.options(transport).cores(1);
    let mut broker = Broker::start(&options);
    let mut subscriber = Client::plain(broker.tcp, Version::V5, "subscriber");
    subscriber.subscribe("live", 0);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    let payload = vec![b'x'; 100_000];
    let mut acknowledged = 0;
    let reason = loop {
        let answer = publish(&mut publisher, 1, &payload).expect("an answer");
        assert_eq!(answer.kind(), Kind::Puback);
        if answer.reason() >= 0x80 {
            break answer.reason();
        }
        acknowledged += 1;
        assert!(acknowledged < 1000, "the disk is not full after 100 MB");
    };
    assert_eq!(reason, 0x97);
    assert!(0 < acknowledged, "there was room at first");
    assert!(0 < broker.metric("log_full_partitions"));
    assert!(broker.get("/readyz").1.contains("full disk"), "{}", broker.get("/readyz").1);
    publisher.publish("live", "still here", 0);
    assert_eq!(subscriber.receive().text(), "still here");
    std::fs::remove_file(&ballast).expect("room is made");
    broker.wait_until("the log has room", |broker| broker.metric("log_full_partitions") == 0);
    let answer = publish(&mut publisher, 2, &payload).expect("an answer");
    assert_eq!((answer.kind(), answer.reason()), (Kind::Puback, 0x10));
    broker.kill();
    broker.restart(&options);
    let recovered = broker.metric("log_recovered_records");
    assert!(acknowledged < recovered, "{acknowledged} and one more, {recovered} recovered");
    broker.stop();
}

/// A session that is away is owed all that fills the disk. Once an operator has ended it the log is
/// trimmed, which needs checkpoints and records of its own.
fn a_full_disk_heals_when_the_session_that_is_owed_it_is_ended(transport: Transport) {
    let name = format!("owed-{}", transport.name());
    let Some(disk) = Disk::make("small", 40, &name) else { return };
    let small = "mqtt.max_packet_size = 262144
        commit_log.segment_size = 1048576
        [[stream]]
        name = \"default\"
        retention_size = 4096";
    let options = disk.options(transport).cores(1).config(small);
    let mut broker = Broker::start(&options);
    let connect = Connect::new(Version::V5, "owed").durable();
    let mut owed = Client::connect(broker.tcp, &connect);
    assert_eq!(owed.subscribe("t", 1), 1);
    owed.disconnect();
    let reserve = || {
        let partitions = std::fs::read_dir(disk.mount().join("data/partitions"));
        let partitions = partitions.expect("a directory").filter_map(Result::ok);
        partitions.filter(|entry| entry.path().join("checkpoint.reserve").exists()).count()
    };
    broker.wait_until("room is kept", |_| 1 < reserve());
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    let payload = vec![b'x'; 20_000];
    let mut taken = 0;
    while publish(&mut publisher, 1, &payload).expect("an answer").reason() < 0x80 {
        taken += 1;
        assert!(taken < 5000, "the disk is not full after 100 MB");
    }
    assert!(0 < broker.metric("log_full_partitions"));
    // Foreign files take what is left: not a checkpoint finds room besides what is kept.
    assert!(disk.step("fill", "0"));
    let mut end = Command::new(env!("CARGO_BIN_EXE_ringlane"));
    end.args(["ctl", "--data-dir"])
        .arg(disk.mount().join("data"))
        .args(["sessions", "end", "owed"]);
    let ended = end.output().expect("the program runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    broker.wait_until("the log has room", |broker| broker.metric("log_full_partitions") == 0);
    assert!(0 < broker.metric("log_segments_trimmed_total"));
    let answer = publish(&mut publisher, 2, &payload).expect("an answer");
    assert_eq!((answer.kind(), answer.reason()), (Kind::Puback, 0x10));
    broker.kill();
    broker.restart(&options);
    let mut again = Client::open(broker.tcp, Version::V5);
    again.send(&connect.encode());
    assert_eq!(again.read().reason(), 0);
    broker.stop();
}

fn a_disk_that_fails_ends_acknowledgements_and_not_the_process(transport: Transport) {
    let Some(disk) = Disk::make("make", 128, &format!("cut-{}", transport.name())) else { return };
    let options = disk.options(transport).cores(1);
    let mut broker = Broker::start(&options);
    let mut client = Client::plain(broker.tcp, Version::V5, "publisher");
    for id in 1..=100 {
        let answer = publish(&mut client, id, b"x").expect("an answer");
        assert_eq!((answer.kind(), answer.reason()), (Kind::Puback, 0x10));
    }
    assert!(disk.step("cut", "0"), "the power goes");
    let answer = publish(&mut client, 101, b"x").expect("an answer");
    assert_eq!((answer.kind(), answer.reason()), (Kind::Disconnect, 0x83));
    assert!(0 < broker.metric("log_poisoned_partitions"));
    let mut again = Client::open(broker.tcp, Version::V5);
    again.send(&Connect::new(Version::V5, "publisher").encode());
    let connack = again.read();
    assert_eq!((connack.kind(), connack.reason()), (Kind::Connack, 0x88));
    let (_, ready) = broker.get("/readyz");
    assert!(ready.contains("has failed"), "{ready}");
    broker.kill();
    assert!(disk.step("remount", "0"), "the power is back");
    broker.restart(&options);
    let recovered = broker.metric("log_recovered_records");
    assert!(100 <= recovered, "{recovered}");
    let mut client = Client::plain(broker.tcp, Version::V5, "publisher");
    assert_eq!(publish(&mut client, 1, b"x").map(|packet| packet.kind()), Some(Kind::Puback));
    broker.stop();
}

on_both_transports!(
    a_full_disk_refuses_publishers_until_there_is_room,
    a_full_disk_heals_when_the_session_that_is_owed_it_is_ended,
    a_disk_that_fails_ends_acknowledgements_and_not_the_process,
);
