//! One client identifier that connects on both cores again and again, under fan-out.
//!
//! Environment:
//! - `RINGLANE_TEST_TAKEOVERS`: rounds; 3,000 if it is not set, 50,000 (100,000 connections) in the
//!   documented run.

use crate::load;
use crate::load::{MIB, Memory};
use crate::support::{Broker, Transport};
use ringlane_bench::fleet::Target;
use ringlane_bench::takeover::{self, TakeoverOptions};
use ringlane_mqtt::Version;
use std::time::Duration;

on_both_transports!(one_of_many_survives_and_its_session_is_whole, before_mqtt_5_as_well);

fn one_of_many_survives_and_its_session_is_whole(transport: Transport) {
    let connections = std::env::var("RINGLANE_TEST_TAKEOVERS").ok();
    let connections = connections.and_then(|text| text.parse().ok()).unwrap_or(3000);
    contest(transport, Version::V5, connections / 2, 2);
}

fn before_mqtt_5_as_well(transport: Transport) {
    contest(transport, Version::V311, 150, 4);
}

fn contest(transport: Transport, version: Version, rounds: u64, sockets: usize) {
    let broker = Broker::on(transport);
    let names = |role: &str, count: usize| -> Vec<String> {
        (0..count).map(|index| format!("{role}-{index}")).collect()
    };
    let options = TakeoverOptions {
        client_id: "contended".to_owned(),
        rounds,
        sockets,
        publishers: names("publisher", 4),
        bystanders: names("bystander", 8),
        topic: "takeover".to_owned(),
        window: 8,
        patience: Duration::from_secs(10),
    };
    let memory = Memory::of(&broker);
    let target = Target::new(broker.tcp, version);
    let outcome = takeover::run(&target, &options).expect("one connection survives each round");
    load::note(format!(
        "{} connections: p99 {} us, at most {} us; {} messages, {} redelivered",
        outcome.connections,
        outcome.latency.value_at_quantile(0.99) / 1000,
        outcome.latency.max() / 1000,
        outcome.sent,
        outcome.redelivered,
    ));
    assert!(outcome.is_perfect(rounds), "{outcome:?}");
    assert!(outcome.sent > rounds, "messages flowed: {}", outcome.sent);
    assert_eq!(broker.metric("session_takeovers_total"), outcome.connections + 1);
    memory.assert_growth(16 * MIB, "takeovers");
    broker.wait_until("all sessions are over", |broker| broker.metric("sessions") == 0);
    broker.stop();
}
