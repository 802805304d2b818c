//! Runs are what their seed says, and nothing else; the rules are rules.

use ringlane_dataplane::ids::NodeId;
use ringlane_sim::counters::{Counter, Counters};
use ringlane_sim::ledger::Ledger;
use ringlane_sim::run::{Options, run};

const SHORT: Options = Options { nodes: 3, liveness: false, seconds: 12 };

#[test]
fn the_same_seed_does_the_same_bit_for_bit() {
    let (one, again, other) = (run(7, &SHORT), run(7, &SHORT), run(8, &SHORT));
    assert_eq!(one.failure, None);
    assert_eq!((one.trace, one.steps, one.counters), (again.trace, again.steps, again.counters));
    assert_ne!(one.trace, other.trace);
    assert!(one.counters.of(Counter::Acknowledged) > 100, "{}", one.counters);
    assert!(one.counters.of(Counter::LeaderChange) > 0);
}

#[test]
fn a_cluster_works_again_after_its_faults() {
    let outcome = run(3, &Options { nodes: 3, liveness: true, seconds: 10 });
    assert_eq!(outcome.failure, None);
}

#[test]
fn the_ledger_tells_what_is_lost_from_what_may_be() {
    let mut counters = Counters::default();
    let mut ledger = Ledger::new(1);
    let (one, two) = (NodeId(1), NodeId(2));
    assert!(ledger.on_apply(0, one, 0, (5, 50)).is_ok());
    assert!(ledger.on_apply(0, two, 0, (5, 50)).is_ok());
    assert!(ledger.on_apply(0, two, 0, (5, 51)).is_err(), "logs part");
    assert!(ledger.on_ack(0, 1, (5, 60), false).is_ok());
    assert!(ledger.on_lead(0, two, 6, 1, &mut counters).is_err(), "offset 1 is not there");
    ledger.on_crash(|_, offset, epoch| (offset, epoch) == (1, 5));
    assert!(ledger.on_lead(0, two, 6, 1, &mut counters).is_err(), "somebody has it");
    ledger.on_crash(|_, _, _| false);
    assert!(ledger.on_lead(0, two, 6, 1, &mut counters).is_ok());
    assert_eq!(counters.of(Counter::Excused), 1);
    assert!(ledger.on_lead(0, one, 6, 1, &mut counters).is_err(), "two lead in one epoch");
    assert!(ledger.on_ack(0, 2, (6, 70), true).is_ok());
    ledger.on_crash(|_, _, _| false);
    assert!(ledger.on_lead(0, one, 7, 2, &mut counters).is_err(), "on disk is on disk");
    assert!(ledger.on_apply(0, one, 2, (7, 71)).is_err(), "another record is in its place");
}
