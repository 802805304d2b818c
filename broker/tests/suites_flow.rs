//! The load tool's suites about retained messages and many subscriptions, against this broker.

use crate::support::{Broker, Options, PATIENCE, Transport};
use ringlane_bench::fleet::Target;
use ringlane_bench::meter::Meter;
use ringlane_bench::probe::{ProbeOptions, Run};
use ringlane_bench::process::Process;
use ringlane_bench::publishers::{self, PublisherOptions};
use ringlane_bench::retained_storm::{self, RetainedOptions};
use ringlane_bench::wildcards::{self, WildcardOptions};
use ringlane_mqtt::{QoS, Version};
use std::time::Duration;

on_both_transports!(
    every_subscriber_gets_every_retained_message,
    retained_messages_that_are_refused_are_missed,
    a_publish_finds_its_listeners_among_many_filters,
    filters_beyond_the_bound_end_the_run,
    many_publishers_share_a_rate,
);

fn meter(broker: &Broker) -> Meter {
    Meter::of(Process(broker.pid()))
}

fn retained(broker: &Broker, qos: QoS) -> RetainedOptions {
    RetainedOptions {
        prefix: "suite".to_owned(),
        topic: "retained".to_owned(),
        messages: 1300,
        topics: 500,
        publishers: 3,
        subscribers: 7,
        qos,
        payload_bytes: 40,
        window: 20,
        settle: Duration::from_millis(500),
        keep: false,
        patience: PATIENCE,
        meter: meter(broker),
    }
}

fn every_subscriber_gets_every_retained_message(transport: Transport) {
    let broker = Broker::on(transport);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for version in [Version::V311, Version::V5] {
            let options = retained(&broker, qos);
            let target = Target::new(broker.tcp, version);
            let outcome = retained_storm::run(&target, &options).expect("a storm");
            assert_eq!((outcome.missing, outcome.wrong), (0, 0), "{qos:?}, {version:?}");
            assert_eq!((outcome.delivered, outcome.rejected), (7 * 500, 0));
            assert_eq!((outcome.first.len(), outcome.last.len()), (7, 7));
            assert!(outcome.storing.cpu_seconds.is_some_and(|seconds| seconds > 0.0));
        }
    }
    // The topics under `$SYS` stay.
    broker.wait_until("all were cleared", |it| it.metric("retained_messages") < 100);
}

fn retained_messages_that_are_refused_are_missed(transport: Transport) {
    let options = Options::new(transport).cores(1).config("[retained]\nmax_messages = 100\n");
    let broker = Broker::start(&options);
    let target = Target::new(broker.tcp, Version::V5);
    let options =
        RetainedOptions { patience: Duration::from_secs(2), ..retained(&broker, QoS::AtLeastOnce) };
    let outcome = retained_storm::run(&target, &options).expect("a storm");
    assert!(outcome.rejected > 0 && outcome.missing > 0, "{}", outcome.rejected);
    assert_eq!(outcome.delivered + outcome.missing, 7 * 500);
}

fn probe(broker: &Broker) -> ProbeOptions {
    ProbeOptions {
        payload_bytes: 64,
        window: 10,
        lockstep: false,
        rate: None,
        run: Run::Messages(500),
        patience: PATIENCE,
        meter: meter(broker),
        hook: None,
    }
}

fn wildcards(broker: &Broker) -> WildcardOptions {
    WildcardOptions {
        prefix: "suite".to_owned(),
        topic: "wild".to_owned(),
        exact: 1500,
        wildcard: 600,
        steps: vec![300, 2100],
        holders: 3,
        matching: vec![1, 5],
        publishers: 2,
        topics: 50,
        warm_up: Run::Messages(20),
        probe: probe(broker),
    }
}

fn a_publish_finds_its_listeners_among_many_filters(transport: Transport) {
    let broker = Broker::on(transport);
    let options = wildcards(&broker);
    let outcome = wildcards::run(&Target::new(broker.tcp, Version::V5), &options).expect("a run");
    assert_eq!((outcome.misdelivered, outcome.faults), (0, Default::default()));
    let subscribed: Vec<(u64, u64)> =
        outcome.steps.iter().map(|step| (step.subscriptions, step.subscribing.0)).collect();
    assert_eq!(subscribed, [(300, 300), (2100, 1800)]);
    for measured in outcome.steps.iter().flat_map(|step| &step.measured) {
        assert_eq!(measured.window.messages, 500);
        assert_eq!(measured.window.latency.len(), 500 * measured.matching as u64);
        assert!(measured.window.cpu_us_per_message().is_some_and(|cost| cost > 0.0));
    }
    // Two steps, two numbers of listeners, each with its warm-up.
    assert_eq!(broker.metric("publishes_received_qos0_total"), 4 * (500 + 20));
}

fn filters_beyond_the_bound_end_the_run(transport: Transport) {
    let options = Options::new(transport).config("[mqtt]\nmax_subscriptions = 500\n");
    let broker = Broker::start(&options);
    let target = Target::new(broker.tcp, Version::V5);
    let error = wildcards::run(&target, &wildcards(&broker)).expect_err("700 filters each");
    assert!(error.to_string().contains("refused filters"), "{error}");
}

fn many_publishers_share_a_rate(transport: Transport) {
    let broker = Broker::on(transport);
    for (lockstep, rate) in [(true, None), (false, Some(2000.0))] {
        let options = PublisherOptions {
            prefix: "suite".to_owned(),
            topic: "many".to_owned(),
            publishers: vec![5, 300],
            warm_up: Run::Messages(100),
            probe: ProbeOptions { lockstep, rate, ..probe(&broker) },
        };
        let target = Target::new(broker.tcp, Version::V311);
        let outcome = publishers::run(&target, &options).expect("a run");
        assert_eq!(outcome.faults, Default::default());
        let counts: Vec<(usize, u64)> =
            outcome.windows.iter().map(|(count, window)| (*count, window.messages)).collect();
        assert_eq!(counts, [(5, 500), (300, 500)]);
        let seconds = outcome.windows[1].1.spent.seconds;
        assert!(rate.is_none() || seconds >= 0.249, "500 messages in {seconds} s");
    }
}
