//! The ledger finds what it is there to find: every planted bug by the name of the check that must
//! find it, and nothing where there is no bug.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod planted;

use planted::{Bug, Planted};
use ringlane_bench::durability::{self, Check, Fault, Options, Outcome};
use ringlane_mqtt::QoS;
use std::time::Duration;

fn options(seed: u64) -> Options {
    Options {
        seed,
        cycles: 8,
        answers: (20, 120),
        patience: Duration::from_secs(20),
        silence: Duration::from_millis(300),
        final_silence: Duration::from_millis(300),
        will_wait: Duration::from_millis(300),
        rest_one_in: 1,
        rest: Duration::from_millis(5),
        keep_going: true,
        is_quiet: true,
        ..Options::default()
    }
}

/// For brokers that lose nothing: a drain ends as soon as everything has come, so that a machine which is
/// busy for a while makes nothing late.
fn patient(seed: u64) -> Options {
    let long = Duration::from_secs(10);
    Options { silence: long, final_silence: long, will_wait: long / 2, ..options(seed) }
}

fn run(bug: Bug, options: &Options) -> Outcome {
    durability::run(options, &mut Planted::new(bug)).unwrap()
}

/// The checks that fail with a bug.
fn found(bug: Bug) -> Vec<Check> {
    found_with(bug, &options(bug as u64 + 100))
}

/// The only check that fails with a bug that loses nothing.
fn only_found(bug: Bug) -> Check {
    let failed = found_with(bug, &patient(bug as u64 + 100));
    assert_eq!(failed.len(), 1, "{bug:?}: {failed:?}");
    failed[0]
}

fn found_with(bug: Bug, options: &Options) -> Vec<Check> {
    let outcome = run(bug, options);
    assert!(outcome.acknowledged > 50, "{outcome:?}");
    let failed = outcome.findings.failed();
    for check in &failed {
        let text = &outcome.findings.texts(*check)[0];
        assert!(text.starts_with("cycle "), "{text}");
    }
    failed
}

#[test]
fn a_broker_without_a_bug_passes_at_every_seed() {
    for seed in 1..=4 {
        let outcome = run(Bug::None, &patient(seed));
        assert_eq!(outcome.findings.total(), 0, "seed {seed}: {:?}", outcome.findings);
        assert_eq!(outcome.cycles, 8);
        assert_eq!(outcome.restarts.len(), 8);
        assert!(outcome.deliveries >= outcome.owed, "{outcome:?}");
    }
}

#[test]
fn one_quality_of_service_alone_passes_as_well() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let outcome = run(Bug::None, &Options { qos: vec![qos], ..patient(9) });
        assert_eq!(outcome.findings.total(), 0, "{:?}", outcome.findings);
    }
}

#[test]
fn cut_connections_without_a_fault_pass() {
    let options = Options { fault: Fault::None, ..patient(5) };
    let outcome = run(Bug::None, &options);
    assert_eq!(outcome.findings.total(), 0, "{:?}", outcome.findings);
    assert!(outcome.restarts.is_empty());
}

#[test]
fn an_acknowledgement_before_the_message_is_kept() {
    assert!(found(Bug::AckBeforeKeep).contains(&Check::LostAck));
}

#[test]
fn a_forgotten_packet_identifier_of_a_publisher() {
    assert!(found(Bug::ForgetPacketIds).contains(&Check::Qos2Dup));
}

#[test]
fn a_changed_order() {
    assert!(found(Bug::Reorder).contains(&Check::Order));
}

#[test]
fn a_finished_exchange_that_begins_again() {
    assert!(found(Bug::ReleaseAgain).contains(&Check::Qos2Dup));
}

#[test]
fn a_forgotten_session() {
    assert!(found(Bug::ForgetSession).contains(&Check::SessionLie));
}

#[test]
fn a_session_without_its_subscriptions() {
    let failed = found(Bug::ForgetSubscriptions);
    assert!(failed.contains(&Check::SessionLie) && failed.contains(&Check::LostAck), "{failed:?}");
}

#[test]
fn a_forgotten_message_in_flight() {
    assert!(found(Bug::ForgetInFlight).contains(&Check::SessionLie));
}

#[test]
fn an_acknowledged_message_that_comes_back() {
    assert!(found(Bug::Resurrect).contains(&Check::Resurrection));
}

#[test]
fn an_ended_subscription_that_comes_back() {
    assert_eq!(only_found(Bug::BringBackFilter), Check::Resurrection);
}

#[test]
fn a_stale_retained_message() {
    assert_eq!(only_found(Bug::StaleRetained), Check::Retained);
}

#[test]
fn wills_that_are_missing_doubled_or_unwanted() {
    for bug in [Bug::WillMissing, Bug::WillTwice, Bug::WillAfterDisconnect] {
        assert_eq!(only_found(bug), Check::Will, "{bug:?}");
    }
}

#[test]
fn a_damaged_message_is_a_phantom_and_lost() {
    let failed = found(Bug::Damage);
    assert!(failed.contains(&Check::Phantom) && failed.contains(&Check::LostAck), "{failed:?}");
}

#[test]
fn a_repeat_in_one_connection() {
    assert_eq!(only_found(Bug::Double), Check::Qos1DupUnmarked);
}

#[test]
fn a_broker_that_answers_no_more() {
    let options = Options { patience: Duration::from_secs(1), ..options(3) };
    let outcome = run(Bug::Stuck, &options);
    assert!(outcome.findings.count(Check::Stuck) > 0, "{:?}", outcome.findings);
    assert_eq!(outcome.cycles, 1);
}
