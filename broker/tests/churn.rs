//! Connections that come and go: memory and descriptors end as they began.
//!
//! Environment:
//! - `RINGLANE_TEST_CONNECTIONS`: connections at once; 10,000 if it is not set.

use crate::load;
use crate::support::{Broker, Transport};
use ringlane_bench::churn::{self, ChurnOptions};
use ringlane_bench::fleet::Target;
use ringlane_bench::process::Process;
use ringlane_mqtt::{QoS, Version};
use std::sync::{Mutex, PoisonError};

on_both_transports!(ten_thousand_connections_leave_nothing_behind);

const ROUNDS: usize = 4;
const WARM_UP_ROUNDS: usize = 2;

/// One transport after the other: two times 10,000 sockets are more than a process may have.
static TURN: Mutex<()> = Mutex::new(());

fn ten_thousand_connections_leave_nothing_behind(transport: Transport) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let connections = std::env::var("RINGLANE_TEST_CONNECTIONS").ok();
    let connections = connections.and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let broker = Broker::on(transport);
    let options = ChurnOptions {
        connections,
        rounds: ROUNDS,
        warm_up_rounds: WARM_UP_ROUNDS,
        qos: QoS::AtLeastOnce,
        prefix: "churn".to_owned(),
        process: Some(Process(broker.pid())),
        patience: load::CROWD_PATIENCE,
    };
    let target = Target::new(broker.tcp, Version::V5);
    let outcome = churn::run(&target, &options).expect("every client is served");
    assert_eq!(outcome.messages, (connections * ROUNDS) as u64);
    let (before, after) = outcome.compared(WARM_UP_ROUNDS).expect("the process was watched");
    load::note(format!(
        "{} connections in {:.1} s: {outcome:?}",
        outcome.connections, outcome.seconds
    ));
    let bound = before.resident_bytes + before.resident_bytes / 10;
    assert!(after.resident_bytes <= bound, "{before:?}, then {after:?}");
    // The first reading may count the harness's last question to the control plane.
    let resting = outcome.footprints[0].descriptors;
    assert!(after.descriptors <= resting, "{resting} descriptors, then {after:?}");
    broker.wait_until("all sessions and sockets are gone", |broker| {
        ["sessions", "subscriptions", "sockets"].iter().all(|name| broker.metric(name) == 0)
    });
    broker.stop();
}
