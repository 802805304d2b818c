//! Each planted bug is found, within 10,000 seeds: with the feature `planted`, best in the profile `sim`.

use ringlane_dataplane::planted::{Bug, plant};
use ringlane_sim::run::{Options, run};

const SEEDS_MAX: u64 = 10_000;
const SAFETY: Options = Options { nodes: 3, liveness: false, seconds: 60 };

/// The first seed that finds a bug.
fn found_by(bug: Bug, options: &Options) -> Option<(u64, String)> {
    plant(Some(bug));
    let mut failures = (0..SEEDS_MAX).filter_map(|seed| Some((seed, run(seed, options).failure?)));
    let found = failures.next();
    plant(None);
    found
}

fn is_found(bug: Bug, options: &Options) {
    let (seed, failure) = found_by(bug, options).expect("one of the seeds finds it");
    assert_eq!(run(seed, options).failure, None, "without the bug nothing is wrong");
    assert!(!failure.is_empty());
}

#[test]
fn the_least_complete_log_elected() {
    is_found(Bug::LeastComplete, &SAFETY);
}

#[test]
fn an_acknowledgement_before_the_quorum() {
    is_found(Bug::AckBeforeQuorum, &SAFETY);
}

#[test]
fn no_fence() {
    is_found(Bug::NoFence, &SAFETY);
}

#[test]
fn a_watermark_that_goes_back() {
    is_found(Bug::WatermarkBack, &SAFETY);
}

#[test]
fn a_checksum_that_is_not_checked() {
    is_found(Bug::ChecksumUnchecked, &SAFETY);
}

#[test]
fn a_truncation_that_leaves_one_record_too_many() {
    is_found(Bug::TruncateTooFew, &Options { liveness: true, ..SAFETY });
}

#[test]
fn more_sent_than_there_is_credit_for() {
    is_found(Bug::CreditOverrun, &SAFETY);
}

#[test]
fn an_acknowledgement_that_counts_twice() {
    is_found(Bug::AckTwice, &Options { nodes: 5, ..SAFETY });
}

#[test]
fn memory_that_a_crash_has_emptied_taken_for_full() {
    is_found(Bug::MemoryKept, &SAFETY);
}

#[test]
fn a_write_beyond_the_end_of_a_ring() {
    is_found(Bug::RingWrap, &SAFETY);
}
