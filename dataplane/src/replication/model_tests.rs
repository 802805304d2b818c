//! Replicas of one partition against a model: a network that loses, repeats and cuts, disks that lose
//! what was not flushed, crashes, damage, and candidates at any time. After every step nothing that
//! was acknowledged is lost, all logs agree up to their high watermark, and marks only rise; when the faults
//! end, all become equal.
//!
//! `RINGLANE_REPLICATION_SEEDS=from..to` runs others than the few that a test run has.

use super::model::{Faults, World};

fn run(seed: u64, nodes: u16, faults: Faults) -> super::model::Counters {
    println!("RINGLANE_REPLICATION_SEEDS={seed}..{}", seed + 1);
    let mut world = World::new(seed, nodes, faults);
    for _ in 0..3000 {
        world.step();
    }
    world.heal();
    world.counters
}

fn seeds(default: core::ops::Range<u64>) -> core::ops::Range<u64> {
    let Ok(given) = std::env::var("RINGLANE_REPLICATION_SEEDS") else { return default };
    let (from, to) = given.split_once("..").expect("from..to");
    from.parse().expect("a seed")..to.parse().expect("a seed")
}

#[test]
fn three_replicas_lose_nothing() {
    let mut all = super::model::Counters::default();
    for seed in seeds(0..60) {
        all.add(&run(seed, 3, Faults::ALL));
    }
    all.check();
}

#[test]
fn five_replicas_lose_nothing() {
    let mut all = super::model::Counters::default();
    for seed in seeds(1000..1060) {
        all.add(&run(seed, 5, Faults::ALL));
    }
    all.check();
}

#[test]
fn without_a_crash_nothing_that_a_quorum_has_in_memory_is_lost() {
    for seed in seeds(2000..2040) {
        run(seed, 3, Faults::NETWORK);
    }
}

#[test]
fn one_replica_leads_itself() {
    for seed in seeds(3000..3010) {
        run(seed, 1, Faults::ALL);
    }
}
