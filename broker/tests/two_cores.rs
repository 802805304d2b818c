//! Two cores: clients whose sessions live on different ones, small mailboxes, groups across cores.
//!
//! Environment:
//! - `RINGLANE_TEST_SECONDS`: how long small mailboxes are kept full; 3 if it is not set, 60 in the
//!   documented run.

use crate::load;
use crate::load::{ids_on, metrics, placement, scaled};
use crate::support;
use crate::support::{Broker, Options, Transport};
use ringlane_bench::fleet::Target;
use ringlane_bench::flow::{
    self, FlowOptions, FlowOutcome, FlowPlan, Limit, ListenerPlan, PublisherPlan,
};
use ringlane_bench::metrics_page::MetricsPage;
use ringlane_bench::shared::{self, SharedOptions, SharedOutcome, Stall};
use ringlane_dataplane::routing::Placement;
use ringlane_mqtt::{QoS, Version};
use std::time::Duration;

on_both_transports!(
    messages_cross_from_core_to_core_whole_and_in_order,
    small_mailboxes_full_both_ways_never_stall,
    a_stalled_member_on_either_core_starves_nobody,
    nothing_is_lost_when_members_on_both_cores_are_cut_off,
);

const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn two_cores(transport: Transport, config: &str) -> (Broker, Placement) {
    let cpus = support::broker::cpus(2);
    assert_eq!(cpus.len(), 2, "this test needs two CPUs");
    let broker = Broker::start(&Options::new(transport).cores(2).config(config));
    let placement = placement(&broker, 2);
    (broker, placement)
}

/// Pairs with all publishers on one core and all subscribers on the other.
fn crossing(placement: &Placement, from: u16, name: &str, pairs: usize) -> FlowPlan {
    let publishers = ids_on(placement, from, &format!("{name}-publisher"), pairs);
    let listeners = ids_on(placement, 1 - from, &format!("{name}-subscriber"), pairs);
    let topic = |index: usize| format!("{name}/{from}/{index}");
    FlowPlan {
        publishers: publishers
            .into_iter()
            .enumerate()
            .map(|(index, client_id)| PublisherPlan { client_id, topic: topic(index) })
            .collect(),
        listeners: listeners
            .into_iter()
            .enumerate()
            .map(|(index, client_id)| ListenerPlan {
                client_id,
                filter: topic(index),
                streams: index..index + 1,
            })
            .collect(),
        shared: false,
    }
}

/// Both plans at once, on one thread.
fn joined(mut one: FlowPlan, other: FlowPlan) -> FlowPlan {
    let shift = one.publishers.len();
    one.publishers.extend(other.publishers);
    one.listeners.extend(other.listeners.into_iter().map(|mut listener| {
        listener.streams = listener.streams.start + shift..listener.streams.end + shift;
        listener
    }));
    one
}

fn metric_of(direction: &str, qos: QoS) -> String {
    format!("ringlane_publishes_{direction}_qos{}_total", qos as u8)
}

/// By how much a metric of a core grew.
fn growth(before: &MetricsPage, after: &MetricsPage, name: &str, core: u16) -> u64 {
    (after.core(name, core) - before.core(name, core)) as u64
}

fn messages_cross_from_core_to_core_whole_and_in_order(transport: Transport) {
    // Without `$SYS`, whose messages come from core 0 and cross as well.
    let (broker, placement) = two_cores(transport, "[sys]\nenabled = false");
    let pairs = 8;
    let messages = scaled(500) as u64;
    for version in [Version::V311, Version::V5] {
        for qos in ALL_QOS {
            for from in [0, 1] {
                let to = 1 - from;
                let name = format!("{version:?}-{}", qos as u8);
                let plan = crossing(&placement, from, &name, pairs);
                let options = FlowOptions {
                    qos,
                    window: 16,
                    limit: Limit::Messages(messages),
                    ..FlowOptions::default()
                };
                let before = metrics(&broker);
                let outcome = flow::run(&Target::new(broker.tcp, version), &plan, &options)
                    .expect("the load runs");
                let after = metrics(&broker);
                assert!(outcome.is_perfect(), "{name} from {from}: {outcome:?}");
                let sent = pairs as u64 * messages;
                assert_eq!((outcome.sent, outcome.delivered), (sent, sent));
                // Who did what: each core by its own counters.
                let (received, delivered) = (metric_of("received", qos), metric_of("sent", qos));
                assert_eq!(growth(&before, &after, &received, from), sent, "{name}");
                assert_eq!(growth(&before, &after, &received, to), 0, "{name}");
                assert_eq!(growth(&before, &after, &delivered, to), sent, "{name}");
                assert_eq!(growth(&before, &after, &delivered, from), 0, "{name}");
                let mails = "ringlane_fanout_mails_total";
                assert_eq!(growth(&before, &after, mails, from), sent, "{name}");
                assert_eq!(growth(&before, &after, mails, to), 0, "{name}");
            }
        }
    }
    broker.stop();
}

/// Mailboxes of 64 words, QoS 0 and QoS 1 at once in both directions. What is dropped is QoS 0,
/// because of the mailbox, and counted one by one.
fn small_mailboxes_full_both_ways_never_stall(transport: Transport) {
    const PAIRS: usize = 8;
    // Outputs have room for everything, so that a subscriber that the machine keeps waiting is not
    // a second reason for drops.
    let config = "[runtime]\nmailbox_slots = 64\n\
                  [limits]\nwrite_buffer_high = \"64MiB\"\nwrite_buffer_max = \"128MiB\"";
    let (broker, placement) = two_cores(transport, config);
    let seconds = std::env::var("RINGLANE_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    let run = Duration::from_secs(seconds.unwrap_or(3));
    let before = metrics(&broker);
    let load = |qos: QoS, window: u64| {
        let name = format!("full-{}", qos as u8);
        let [one, other] = [0, 1].map(|from| crossing(&placement, from, &name, PAIRS));
        let options = FlowOptions {
            qos,
            window,
            batch: 16,
            limit: Limit::Time { warm_up: Duration::ZERO, run },
            ..FlowOptions::default()
        };
        let target = Target::new(broker.tcp, Version::V5);
        flow::run(&target, &joined(one, other), &options).expect("the load runs")
    };
    let [qos0, qos1]: [FlowOutcome; 2] = std::thread::scope(|scope| {
        let other = scope.spawn(|| load(QoS::AtLeastOnce, 256));
        [load(QoS::AtMostOnce, 512), other.join().expect("the load runs")]
    });
    let after = metrics(&broker);
    let grown = |name: &str| (after.sum(name) - before.sum(name)) as u64;
    let dropped = grown("ringlane_messages_dropped_mailbox_total");
    load::note(format!(
        "QoS 0: {} sent, {} lost, {dropped} dropped at a mailbox, silent for {:.3} s at most; \
         QoS 1: {} sent, silent for {:.3} s at most; {} stalled turns",
        qos0.sent,
        qos0.lost,
        qos0.silence_seconds_max,
        qos1.sent,
        qos1.silence_seconds_max,
        grown("ringlane_fanout_stalls_total"),
    ));
    assert!(qos1.is_perfect(), "{qos1:?}");
    assert_eq!(qos1.sent, qos1.acknowledged);
    assert_eq!((qos0.duplicated, qos0.reordered, qos0.damaged, qos0.ended), (0, 0, 0, 0));
    for reason in ["slow_subscriber", "backlog", "expired", "too_large", "memory"] {
        assert_eq!(grown(&format!("ringlane_messages_dropped_{reason}_total")), 0, "{reason}");
    }
    assert_eq!(
        grown(&metric_of("received", QoS::AtMostOnce)),
        qos0.sent,
        "all that was sent is read"
    );
    assert_eq!(qos0.lost, dropped, "every loss is counted, and nothing else is");
    let mails = |core| growth(&before, &after, "ringlane_fanout_mails_total", core);
    assert!(mails(0) > 1000 && mails(1) > 1000, "{} and {} mails", mails(0), mails(1));
    broker.stop();
}

/// A group of eight, four members on each core, fed from both. All that is on its way fits into the windows of
/// the members of one core, with as much again that they have answered: whichever core the system
/// lets stand still, no window is ever full, and turns alone decide who gets how much. A full group
/// shares by speed (docs/adr/0002), which nobody promises.
fn group(
    broker: &Broker,
    placement: &Placement,
    name: &str,
    change: impl Fn(&mut SharedOptions),
) -> SharedOutcome {
    let [one, other] = [0, 1].map(|core| ids_on(placement, core, &format!("{name}-member"), 4));
    let [left, right] = [0, 1].map(|core| ids_on(placement, core, &format!("{name}-feeder"), 2));
    // Alternating, so that the first and the last members are on different cores.
    let members = one.into_iter().zip(other).flat_map(|(one, other)| [one, other]).collect();
    let mut options = SharedOptions {
        members,
        publishers: left.into_iter().chain(right).collect(),
        group: name.to_owned(),
        topic: format!("across/{name}"),
        qos: QoS::AtLeastOnce,
        payload_bytes: 64,
        messages: scaled(1500) as u64,
        window: 8,
        receive_maximum: 64,
        stalled: 0,
        stall: Stall::NoAcknowledgement,
        killed: 0,
        patience: Duration::from_secs(10),
    };
    change(&mut options);
    let target = Target::new(broker.tcp, Version::V5);
    let outcome = shared::run(&target, &options).expect("the group works");
    load::note(format!("{name}: {outcome:?}"));
    assert_eq!(outcome.sent, options.messages * 4);
    assert_eq!((outcome.lost, outcome.damaged, outcome.ended), (0, 0, 0), "{name}: {outcome:?}");
    outcome
}

fn a_stalled_member_on_either_core_starves_nobody(transport: Transport) {
    let (broker, placement) = two_cores(transport, "");
    let outcome = group(&broker, &placement, "healthy", |_| {});
    assert!(outcome.fairness >= 0.9, "{outcome:?}");
    assert_eq!(outcome.duplicated, 0);
    for stall in [Stall::NoAcknowledgement, Stall::NoRead] {
        for first in [0, 1] {
            let name = format!("{stall:?}-{first}").to_lowercase();
            let outcome = group(&broker, &placement, &name, |options| {
                options.members.rotate_left(first);
                (options.stalled, options.stall) = (1, stall);
            });
            assert!(outcome.fairness >= 0.9, "{name}: {outcome:?}");
        }
    }
    broker.stop();
}

fn nothing_is_lost_when_members_on_both_cores_are_cut_off(transport: Transport) {
    let (broker, placement) = two_cores(transport, "");
    for round in 0..3 {
        let outcome = group(&broker, &placement, &format!("cut-{round}"), |options| {
            options.killed = 2;
        });
        assert_eq!(outcome.acknowledged, outcome.sent, "{outcome:?}");
    }
    broker.stop();
}
