//! Each bug planted in what sessions and routing rest on is found by clusters of whole brokers: with the features
//! `planted` and `brokers`, best in the profile `sim`.

use ringlane_dataplane::planted::{Bug, plant};
use ringlane_sim::brokers::{WHOLE, run};

/// Seeds that are tried.
const SEEDS_MAX: u64 = 300;

fn is_found(bug: Bug) {
    plant(Some(bug));
    let mut failures = (0..SEEDS_MAX).filter_map(|seed| Some((seed, run(seed, WHOLE).failure?)));
    let found = failures.next();
    plant(None);
    let (seed, failure) = found.expect("one of the seeds finds it");
    assert_eq!(run(seed, WHOLE).failure, None, "without the bug: {failure}");
}

#[test]
fn packet_identifiers_of_qos_2_that_nobody_keeps() {
    is_found(Bug::ExactlyOnceUnkept);
}

#[test]
fn a_posting_before_its_record() {
    is_found(Bug::PostingEarly);
}

#[test]
fn a_lease_that_has_ended_and_is_served_under() {
    is_found(Bug::StaleLease);
}

#[test]
fn a_checkpoint_that_leaves_out_a_subscription() {
    is_found(Bug::SubscriptionSkipped);
}
