//! The data structures of the hot path, each in a loop, to be counted by an instruction counter.
//!
//! It measures nothing itself: counts of instructions repeat, times on a shared machine do not.
//! `scripts/bench/instructions.sh` runs each case under callgrind, once with a count and once with
//! twice the count: the difference is the loop without the set-up.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it did")]

use ringlane_dataplane::batch::{BatchPool, Level, Parts};
use ringlane_dataplane::disk::{Disk, DiskCommand, DiskDone, DiskEvent};
use ringlane_dataplane::ids::{CoreId, PartitionId};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::segments::{LogEnd, LogSetup};
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::message::{MessageHead, MessageMeter};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::routing::{CoreSet, FilterTree, RemoteFilters};
use ringlane_dataplane::runtime::mailbox::mailbox;
use ringlane_dataplane::runtime::{Mesh, TimerWheel};
use ringlane_dataplane::time::Nanos;
use std::hint::black_box;

/// Topics of the shape that telemetry has: `plant/<n>/line/<n>/temperature`.
fn topics() -> Vec<String> {
    (0..64).map(|n| format!("plant/{}/line/{n}/temperature", n % 8)).collect()
}

/// A thousand exact filters, sixty-four of which match a topic each, and a few wildcard ones.
fn tree(wildcards: bool) -> FilterTree<u32> {
    let mut tree = FilterTree::new();
    for number in 0..1000 {
        tree.entry(&format!("plant/{}/line/{number}/temperature", number % 8), || number);
    }
    if wildcards {
        for number in 0..8 {
            tree.entry(&format!("plant/{number}/#"), || number);
            tree.entry(&format!("plant/+/line/{number}/+"), || number);
            tree.entry(&format!("site/{number}/+/temperature"), || number);
        }
    }
    tree
}

fn match_topics(wildcards: bool, count: u64) -> u64 {
    let (tree, topics) = (tree(wildcards), topics());
    let mut sum = 0;
    for topic in topics.iter().cycle().take(count as usize) {
        tree.for_each_match(black_box(topic), &mut |value| sum += u64::from(*value));
    }
    sum
}

fn cores_for(count: u64) -> u64 {
    let topics = topics();
    let mut filters = RemoteFilters::new();
    for (number, topic) in topics.iter().enumerate() {
        filters.add(CoreId((number % 8) as u16), topic);
    }
    filters.add(CoreId(9), "plant/+/line/7/#");
    let cores = topics.iter().cycle().take(count as usize);
    cores.map(|topic| filters.cores_for(black_box(topic)).len() as u64).sum()
}

/// Mails of two words in batches of 32, as a turn sends them.
fn mailbox_batches(count: u64) -> u64 {
    let (mut sender, mut receiver) = mailbox(4096);
    let mut sum = 0;
    for batch in 0..count / 32 {
        for number in 0..32 {
            let pushed = sender.push((batch, number));
            debug_assert!(pushed.is_ok(), "it is emptied each time");
        }
        sender.publish();
        while let Some((batch, number)) = receiver.pop() {
            sum += black_box(batch ^ number);
        }
    }
    sum
}

/// One mail per turn between two endpoints of a mesh of nine.
fn mesh_turns(count: u64) -> u64 {
    let mut ends = Mesh::build::<u64>(9, 64);
    let mut second = ends.swap_remove(1);
    let first = &mut ends[0];
    let mut sum = 0;
    for number in 0..count {
        let sent = first.send(CoreId(1), number);
        debug_assert!(sent.is_ok(), "it is emptied each time");
        first.publish(&mut |_| sum += 1);
        sum += second.receive(CoreId(0)).map_or(0, black_box);
    }
    sum
}

/// A timer a millisecond, each a second away, half of them cancelled in time.
fn timers(count: u64) -> u64 {
    let mut wheel = TimerWheel::new(Nanos(0));
    let mut fired = Vec::new();
    let mut sum = 0;
    for number in 0..count {
        let now = Nanos::from_millis(number);
        let timer = wheel.schedule(Nanos::from_millis(number + 1000), number);
        if number % 2 == 0 {
            sum += u64::from(wheel.cancel(black_box(timer)));
        }
        while wheel.expire(now, 64, &mut fired) {}
        sum += fired.drain(..).count() as u64;
    }
    sum
}

/// Carries everything out at once and writes nothing.
fn complete(disk: &mut Disk, partition: &mut Partition<u64>, now: Nanos) {
    while let Some(command) = disk.take() {
        let token = command.token();
        if let DiskCommand::Write { batches, .. } = command {
            disk.give_back(batches);
        }
        partition.on_disk(now, &DiskEvent { token, result: Ok(DiskDone::Done) }, disk);
    }
}

/// Sixteen messages of 256 bytes a turn, appended and committed; nobody subscribes.
fn append_and_commit(mut partition: Partition<u64>, level: Level, count: u64) -> u64 {
    let (mut pool, mut disk) = (BatchPool::new(MessageMeter::leaked()), Disk::new());
    let head = MessageHead {
        publisher: 7,
        accepted_at: Nanos(1),
        expires_at: Nanos::NEVER,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: 1,
        retain: false,
    };
    let mut sum = 0;
    for number in 0..count {
        let parts = Parts {
            head,
            client_id: b"client-7",
            packet_id: 0,
            unix_ms: number,
            topic: "plant/7/line/31/temperature",
            properties: &[],
            payload: black_box(&[7; 256]),
        };
        partition.append(&mut pool, &parts, level, Some(number));
        if number % 16 == 15 {
            while let Some(mut batch) = partition.take_committed() {
                while let Some(at) = batch.next_committed() {
                    sum += batch.take_ack(at).unwrap_or_default();
                    partition.commit(&batch, at, CoreSet::default());
                }
                partition.finish(&mut pool, batch);
            }
            partition.end_turn(Nanos(number), number, &mut disk);
            complete(&mut disk, &mut partition, Nanos(number));
        }
    }
    sum
}

fn append_unlogged(count: u64) -> u64 {
    append_and_commit(Partition::new(PartitionId(0)), Level::Memory, count)
}

fn append_logged(level: Level, count: u64) -> u64 {
    let setup = LogSetup {
        partition: PartitionId(0),
        directory: "/".into(),
        directory_id: DirectoryId([1; 16]),
        epoch: 1,
        secret: [2; 16],
        segment_bytes: 64 << 20,
        record_bytes_max: 1 << 20,
        tag: 0,
    };
    let writer = Writer::new(setup, LogEnd::default());
    append_and_commit(Partition::with_log(PartitionId(0), writer), level, count)
}

/// Does so many operations and returns something that depends on all of them.
type Case = fn(u64) -> u64;

fn main() {
    let cases: [(&str, Case); 9] = [
        ("match-exact", |count| match_topics(false, count)),
        ("match-wildcards", |count| match_topics(true, count)),
        ("cores-for", cores_for),
        ("mailbox", mailbox_batches),
        ("mesh", mesh_turns),
        ("timers", timers),
        ("append", append_unlogged),
        ("append-memory", |count| append_logged(Level::Memory, count)),
        ("append-local-disk", |count| append_logged(Level::LocalDisk, count)),
    ];
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_some_and(|first| first == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}"));
        return;
    }
    let wanted = arguments.first().map(String::as_str);
    let count = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(10_000);
    for (name, case) in cases {
        if wanted.is_none_or(|wanted| wanted == name) {
            println!("{name}: {count} operations, sum {}", case(count));
        }
    }
}
