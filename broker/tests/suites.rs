//! The load tool's suites about connections, against this broker: they count what is there, and
//! they fail where something is missing.

use crate::support::{Broker, Options, PATIENCE, Transport};
use ringlane_bench::arrivals::ArrivalOptions;
use ringlane_bench::connect_storm::{self, StormOptions};
use ringlane_bench::fleet::Target;
use ringlane_bench::idle::{self, IdleOptions};
use ringlane_bench::meter::Meter;
use ringlane_bench::process::Process;
use ringlane_mqtt::Version;
use std::net::SocketAddr;
use std::time::Duration;

on_both_transports!(
    a_storm_connects_everybody,
    a_storm_follows_its_schedule,
    a_storm_says_why_clients_failed,
    idle_connections_are_measured_and_served,
    idle_connections_that_end_are_counted,
);

fn arrival() -> ArrivalOptions {
    ArrivalOptions {
        prefix: "suite".to_owned(),
        rate: None,
        pending_max: 64,
        keep_alive_secs: 0,
        subscribe: None,
        patience: PATIENCE,
    }
}

fn storm(clients: u64, arrival: ArrivalOptions) -> StormOptions {
    StormOptions { clients, arrival, keep: Duration::ZERO, meter: Meter::default() }
}

fn a_storm_connects_everybody(transport: Transport) {
    let broker = Broker::on(transport);
    let meter = Meter::of(Process(broker.pid()));
    let arrival = ArrivalOptions { subscribe: Some("storm".to_owned()), ..arrival() };
    let options = StormOptions { meter, ..storm(500, arrival) };
    for version in [Version::V311, Version::V5] {
        let outcome =
            connect_storm::run(&Target::new(broker.tcp, version), &options).expect("a storm");
        assert_eq!((outcome.arrivals.standing, outcome.ended), (500, 0));
        assert_eq!(outcome.arrivals.whole.len(), 500);
        assert!(outcome.arrivals.whole.max() >= outcome.arrivals.connect.min());
        assert!(outcome.spent.cpu_seconds.is_some_and(|seconds| seconds > 0.0));
    }
    broker.wait_until("all were counted", |it| it.metric("connects_accepted_total") == 1000);
    broker.wait_until_sockets_are(0);
}

fn a_storm_follows_its_schedule(transport: Transport) {
    let broker = Broker::on(transport);
    let options = storm(60, ArrivalOptions { rate: Some(200.0), ..arrival() });
    let outcome =
        connect_storm::run(&Target::new(broker.tcp, Version::V5), &options).expect("a storm");
    assert_eq!(outcome.arrivals.standing, 60);
    // The last of 60 is due 295 ms after the first.
    assert!(outcome.spent.seconds >= 0.295, "{} s", outcome.spent.seconds);
}

fn a_storm_says_why_clients_failed(transport: Transport) {
    let options = Options::new(transport).cores(1).config("[limits]\nmax_connections = 20\n");
    let broker = Broker::start(&options);
    let storm = StormOptions { keep: Duration::from_millis(50), ..storm(50, arrival()) };
    let outcome =
        connect_storm::run(&Target::new(broker.tcp, Version::V5), &storm).expect("a storm");
    let (standing, failed) = (outcome.arrivals.standing, outcome.arrivals.failed());
    assert_eq!(standing + failed, 50, "{standing} stood");
    assert!((1..=20).contains(&standing), "{standing} stood");
    let nobody = SocketAddr::new(broker.tcp.ip(), 1);
    let outcome = connect_storm::run(&Target::new(nobody, Version::V5), &storm).expect("a storm");
    let causes: Vec<(&String, &u64)> = outcome.arrivals.failures.iter().collect();
    let [(cause, 50)] = causes[..] else { panic!("{causes:?}") };
    assert!(cause.starts_with("no TCP connection: Connection refused"), "{cause}");
}

fn idle(broker: &Broker, subscribe: bool) -> IdleOptions {
    let topic = "idle".to_owned();
    let subscribe = subscribe.then(|| topic.clone());
    IdleOptions {
        steps: vec![50, 400],
        arrival: ArrivalOptions { subscribe, keep_alive_secs: 1, ..arrival() },
        topic,
        settle: Duration::from_millis(100),
        hold: Duration::from_millis(600),
        sample: 30,
        process: Some(Process(broker.pid())),
    }
}

fn idle_connections_are_measured_and_served(transport: Transport) {
    let broker = Broker::on(transport);
    for subscribe in [false, true] {
        let target = Target {
            sources: ringlane_bench::sources::parse("127.0.0.1-127.0.0.3").expect("addresses"),
            ..Target::new(broker.tcp, Version::V5)
        };
        let outcome = idle::run(&target, &idle(&broker, subscribe)).expect("idle connections");
        let connections: Vec<u64> = outcome.steps.iter().map(|step| step.connections).collect();
        assert_eq!(connections, [50, 400]);
        assert_eq!((outcome.ended, outcome.misdelivered), (0, 0));
        assert_eq!(outcome.sampled, (30, 30));
        let (pings, pongs) = outcome.pings;
        assert!(pings >= 400 && pings == pongs, "{pings} pings, {pongs} answers");
        assert!(outcome.steps.iter().all(|step| step.broker_bytes.is_some()));
        broker.wait_until_sockets_are(0);
    }
}

/// A broker that disconnects idle clients: the tool says nothing to it for longer than the keep
/// alive that the broker was told, because the broker shortens it.
fn idle_connections_that_end_are_counted(transport: Transport) {
    let options = Options::new(transport).config("[mqtt]\nmax_keep_alive = 1\n");
    let broker = Broker::start(&options);
    let options = IdleOptions {
        steps: vec![20],
        arrival: ArrivalOptions { keep_alive_secs: 600, ..arrival() },
        hold: Duration::from_millis(2500),
        sample: 0,
        ..idle(&broker, false)
    };
    // The publisher is idle as well, and the run ends with it.
    let error =
        idle::run(&Target::new(broker.tcp, Version::V5), &options).expect_err("a connection ended");
    assert!(error.to_string().contains("lost its connection"), "{error}");
}
