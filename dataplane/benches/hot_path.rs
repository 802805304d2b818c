//! The data structures of the hot path, each in a loop, to be counted by an instruction counter.
//!
//! It measures nothing itself: counts of instructions repeat, times on a shared machine do not.
//! `scripts/bench/instructions.sh` runs each case under callgrind, once with a count and once with
//! twice the count: the difference is the loop without the set-up.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it did")]

use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::routing::{FilterTree, RemoteFilters};
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

/// Does so many operations and returns something that depends on all of them.
type Case = fn(u64) -> u64;

fn main() {
    let cases: [(&str, Case); 6] = [
        ("match-exact", |count| match_topics(false, count)),
        ("match-wildcards", |count| match_topics(true, count)),
        ("cores-for", cores_for),
        ("mailbox", mailbox_batches),
        ("mesh", mesh_turns),
        ("timers", timers),
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
