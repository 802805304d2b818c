//! The load engine finds what it is there to find: each planted fault is counted, and nothing else;
//! a schedule is kept to the message; a stall of the broker shows in every message that was due
//! meanwhile.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod faulty;

use faulty::Fault;
use ringlane_bench::fleet::Target;
use ringlane_bench::floor::Floor;
use ringlane_bench::flow::{
    self, FlowOptions, FlowOutcome, FlowPlan, Limit, ListenerPlan, Pace, PublisherPlan,
};
use ringlane_bench::meter::Meter;
use ringlane_bench::process::Process;
use ringlane_mqtt::{QoS, Version};
use std::net::SocketAddr;
use std::time::Duration;

/// A relay that runs until the test process ends.
fn floor() -> SocketAddr {
    let mut floor = Floor::bind("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let address = floor.local_address().unwrap();
    std::thread::spawn(move || floor.run(&mut std::io::sink()));
    address
}

fn pairs(count: usize) -> FlowPlan {
    let topic = |index| format!("t/{index}");
    let publisher = |index| PublisherPlan { client_id: format!("p{index}"), topic: topic(index) };
    let listener = |index| ListenerPlan {
        client_id: format!("s{index}"),
        filter: topic(index),
        streams: index..index + 1,
    };
    FlowPlan {
        publishers: (0..count).map(publisher).collect(),
        listeners: (0..count).map(listener).collect(),
        shared: false,
    }
}

fn run(address: SocketAddr, options: &FlowOptions) -> FlowOutcome {
    let target = Target::new(address, Version::V311);
    flow::run(&target, &pairs(2), options).unwrap()
}

fn closed() -> FlowOptions {
    FlowOptions {
        window: 8,
        limit: Limit::Messages(300),
        patience: Duration::from_secs(1),
        ..FlowOptions::default()
    }
}

fn open(rate: f64, seconds: f64) -> FlowOptions {
    FlowOptions {
        pace: Pace::Rate(rate),
        window: 0,
        limit: Limit::Time {
            warm_up: Duration::from_millis(100),
            run: Duration::from_secs_f64(seconds),
        },
        meter: Meter::of(Process(std::process::id())),
        ..closed()
    }
}

/// Lost, doubled, reordered and damaged messages with one fault in both kinds of loop.
fn found(fault: Fault) -> [[u64; 4]; 2] {
    [closed(), open(5000.0, 0.2)].map(|options| {
        let outcome = run(faulty::relay(floor(), fault, 150), &options);
        assert!(!outcome.is_perfect(), "{fault:?}: {outcome:?}");
        [outcome.lost, outcome.duplicated, outcome.reordered, outcome.damaged]
    })
}

#[test]
fn a_lost_message_is_found() {
    assert_eq!(found(Fault::Drop), [[1, 0, 0, 0]; 2]);
}

#[test]
fn a_doubled_message_is_found() {
    assert_eq!(found(Fault::Double), [[0, 1, 0, 0]; 2]);
}

#[test]
fn a_message_out_of_order_is_found() {
    assert_eq!(found(Fault::Swap), [[0, 0, 1, 0]; 2]);
}

#[test]
fn a_damaged_message_is_found_and_counts_as_lost() {
    assert_eq!(found(Fault::Damage), [[1, 0, 0, 1]; 2]);
}

#[test]
fn a_run_without_a_fault_is_perfect() {
    let outcome = run(faulty::relay(floor(), Fault::Drop, u64::MAX), &closed());
    assert!(outcome.is_perfect(), "{outcome:?}");
    assert_eq!((outcome.sent, outcome.delivered, outcome.measured), (600, 600, 600));
    assert_eq!(outcome.latency.len(), 600);
    assert!(outcome.publisher_traffic.writes > 0 && outcome.listener_traffic.reads > 0);
}

#[test]
fn a_schedule_is_kept_to_the_message() {
    let outcome = run(floor(), &open(4000.0, 0.6));
    assert!(outcome.is_perfect(), "{outcome:?}");
    let timed = outcome.latency.len();
    assert!((2399..=2401).contains(&timed), "{timed} messages were due in 0.6 s");
    let open = outcome.open_loop.as_ref().unwrap();
    assert_eq!(open.lateness.len(), timed);
    assert!(outcome.timeline.len() >= 2, "{:?}", outcome.timeline);
    let in_slices: u64 = outcome.timeline.iter().map(|sample| sample.messages).sum();
    assert!(in_slices <= outcome.measured && in_slices > 0);
    assert!(outcome.timeline.iter().all(|sample| sample.cpu_seconds.is_some_and(|cpu| cpu >= 0.0)));
    assert!(outcome.spent.resident_bytes.is_some_and(|(start, end)| start > 0 && end > 0));
}

/// 1,000 messages per second, and for 300 ms nothing arrives: those that were due in its first
/// 200 ms are late by at least 100 ms, however slow the machine is.
#[test]
fn a_stall_shows_in_every_message_that_was_due_meanwhile() {
    let fault = Fault::Pause(Duration::from_millis(300));
    let target = Target::new(faulty::relay(floor(), fault, 200), Version::V311);
    let options = open(1000.0, 0.8);
    let outcome = flow::run(&target, &pairs(1), &options).unwrap();
    assert!(outcome.is_perfect(), "{outcome:?}");
    let late = outcome.latency.count_between(100_000_000, u64::MAX / 2);
    assert!(late >= 190, "{late} of {} messages", outcome.latency.len());
}

#[test]
fn plans_that_cannot_work_are_refused() {
    let target = Target::new(floor(), Version::V311);
    let without_listeners = FlowPlan { listeners: Vec::new(), ..pairs(1) };
    assert!(flow::run(&target, &without_listeners, &closed()).is_err());
    assert!(flow::run(&target, &FlowPlan::default(), &closed()).is_err());
    let wide = FlowOptions { batch: 9, ..closed() };
    assert!(flow::run(&target, &pairs(1), &wide).is_err());
    let standing = FlowOptions { pace: Pace::Rate(0.0), ..closed() };
    assert!(flow::run(&target, &pairs(1), &standing).is_err());
    let acknowledged = FlowOptions { qos: QoS::AtLeastOnce, ..closed() };
    assert!(flow::run(&target, &pairs(1), &acknowledged).is_ok_and(|it| !it.is_perfect()));
}
