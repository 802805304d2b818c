//! The load tool's open loops and acknowledgements, against this broker.

use crate::support::{Broker, PATIENCE, Transport};
use ringlane_bench::fleet::Target;
use ringlane_bench::flow::{self, FlowOptions, FlowPlan, Limit, ListenerPlan, Pace, PublisherPlan};
use ringlane_mqtt::{QoS, Version};
use std::time::Duration;

on_both_transports!(
    every_qos_is_delivered_on_a_schedule,
    acknowledgements_are_timed_without_subscribers,
    a_shared_group_gets_each_message_once,
);

const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn options(qos: QoS) -> FlowOptions {
    FlowOptions {
        qos,
        pace: Pace::Rate(5000.0),
        window: 0,
        limit: Limit::Time { warm_up: Duration::from_millis(50), run: Duration::from_millis(400) },
        patience: PATIENCE,
        ..FlowOptions::default()
    }
}

fn plan(publishers: usize, listeners: Vec<ListenerPlan>, shared: bool) -> FlowPlan {
    let publisher =
        |index| PublisherPlan { client_id: format!("p{index}"), topic: format!("load/{index}") };
    FlowPlan { publishers: (0..publishers).map(publisher).collect(), listeners, shared }
}

fn listener(index: usize, filter: &str, streams: std::ops::Range<usize>) -> ListenerPlan {
    ListenerPlan { client_id: format!("s{index}"), filter: filter.to_owned(), streams }
}

fn every_qos_is_delivered_on_a_schedule(transport: Transport) {
    let broker = Broker::on(transport);
    let pairs = (0..10).map(|index| listener(index, &format!("load/{index}"), index..index + 1));
    let plan = plan(10, pairs.collect(), false);
    for version in [Version::V311, Version::V5] {
        for qos in ALL_QOS {
            let target = Target::new(broker.tcp, version);
            let outcome = flow::run(&target, &plan, &options(qos)).expect("the load runs");
            assert!(outcome.is_perfect(), "{version:?} {qos:?}: {outcome:?}");
            let timed = outcome.latency.len();
            assert!((1999..=2001).contains(&timed), "{timed} of 2,000 due messages");
            let acknowledged = if qos == QoS::AtMostOnce { 0 } else { timed };
            assert_eq!(outcome.acknowledged_latency.len(), acknowledged);
        }
    }
}

fn acknowledgements_are_timed_without_subscribers(transport: Transport) {
    let broker = Broker::on(transport);
    let target = Target::new(broker.tcp, Version::V5);
    for (qos, pubrecs) in [(QoS::AtLeastOnce, 0), (QoS::ExactlyOnce, 4000)] {
        for pace in [Pace::Rate(20_000.0), Pace::Window] {
            let limit = Limit::Messages(1000);
            let window = if pace == Pace::Window { 8 } else { 0 };
            let options = FlowOptions { pace, window, limit, ..options(qos) };
            let outcome =
                flow::run(&target, &plan(4, Vec::new(), false), &options).expect("the load runs");
            assert!(outcome.is_perfect(), "{qos:?} {pace:?}: {outcome:?}");
            assert_eq!((outcome.acknowledged, outcome.measured), (4000, 4000));
            assert_eq!(outcome.acknowledged_latency.len(), 4000);
            assert_eq!(outcome.received_latency.len(), pubrecs);
        }
    }
}

fn a_shared_group_gets_each_message_once(transport: Transport) {
    let broker = Broker::on(transport);
    let members = (0..4).map(|index| listener(index, "$share/g/load/#", 0..3)).collect();
    let plan = plan(3, members, true);
    for qos in ALL_QOS {
        let target = Target::new(broker.tcp, Version::V5);
        let outcome = flow::run(&target, &plan, &options(qos)).expect("the load runs");
        assert!(outcome.is_perfect(), "{qos:?}: {outcome:?}");
        assert_eq!(outcome.delivered, outcome.sent);
        assert_eq!(outcome.per_listener.iter().sum::<u64>(), outcome.sent);
        assert!(outcome.per_listener.iter().all(|count| *count > 0), "{outcome:?}");
    }
}
