//! Attacks by subscribers: retained messages to everybody, masses of filters, filters made to be
//! slow, in-flight windows that never empty, members of groups that stall, and bad packets that
//! each want a line in the log.
//!
//! Source: the table of resource attacks, rows R06 to R10, R15 and R20. In each, the broker's
//! memory stays within the bound that the test states, and a healthy pair beside the attack loses
//! nothing.

use crate::load;
use crate::load::{Crowd, KIB, MIB, Memory, metrics, scaled};
use crate::support::properties::Properties;
use crate::support::{
    Broker, Client, Connect, Kind, Options, Publish, Transport, Version, Witness, packets,
};
use ringlane_bench::fleet::Target;
use ringlane_bench::shared::{self, SharedOptions, Stall};
use ringlane_mqtt::QoS;
use std::time::{Duration, Instant};

/// What an allocator may keep that no connection accounts for.
const SLACK: u64 = 8 * MIB;
/// What the broker may hold per idle connection.
const CONNECTION_BYTES_MAX: u64 = 16 * KIB;

on_both_transports!(
    retained_messages_for_everybody_are_paced,
    filters_are_bounded_per_client_and_in_bytes,
    overlapping_wildcards_cost_what_they_match,
    sys_topics_are_allowed_and_kept_from_wildcards,
    windows_that_never_empty_are_bounded_and_the_oldest_dropped,
    windows_that_never_empty_make_publishers_wait_or_fail,
    a_stalled_member_of_a_group_costs_only_itself,
    bad_packets_do_not_flood_the_log,
);

/// R06: `#` against a full store, by many at once: everybody gets everything, in pieces, while
/// the witness goes on.
fn retained_messages_for_everybody_are_paced(transport: Transport) {
    let broker = Broker::on(transport);
    let (retained, count) = (2000, scaled(50));
    let mut feeder = Client::plain(broker.tcp, Version::V5, "feeder");
    for first in (0..retained).step_by(100) {
        let bytes: Vec<u8> = (first..first + 100).flat_map(retained_message).collect();
        feeder.send(&bytes);
        (0..100).for_each(|_| assert_eq!(feeder.expect(Kind::Puback).reason() & 0x80, 0));
    }
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let mut crowd = Crowd::new(broker.tcp);
    crowd.connect(count, |index| Connect::new(Version::V311, &format!("curious-{index}")));
    let filter = [("store/#", 0)];
    crowd.send_all(|_| packets::subscribe(Version::V311, 1, &filter, &Properties::new()));
    let mut seen = vec![vec![false; retained]; count];
    let mut left = retained * count;
    let deadline = Instant::now() + load::CROWD_PATIENCE;
    while left > 0 {
        assert!(Instant::now() < deadline, "{left} of {} are missing", retained * count);
        crowd.turn();
        for (index, seen) in seen.iter_mut().enumerate() {
            for packet in crowd.take_packets(index, Version::V311) {
                if packet.kind() == Kind::Publish {
                    let received = packet.publish();
                    assert!(received.retain, "MQTT-3.3.1-8");
                    let number: usize = received.topic["store/".len()..].parse().expect("a number");
                    assert!(!seen[number], "client {index} got {number} twice");
                    seen[number] = true;
                    left -= 1;
                }
            }
        }
        memory.assert_growth(count as u64 * 256 * KIB + SLACK, "retained messages on their way");
    }
    assert_eq!(broker.metric("messages_dropped_slow_subscriber_total"), 0);
    crowd.reset_all();
    witness.finish();
    broker.stop();
}

fn retained_message(number: usize) -> Vec<u8> {
    let id = (number % 60_000 + 1) as u16;
    Publish::new(&format!("store/{number}"), [b'r'; 100]).retain().qos(1, id).encode(Version::V5)
}

/// R07: each client as many filters as it may have, and more; wildcards of every shape.
fn filters_are_bounded_per_client_and_in_bytes(transport: Transport) {
    const FILTERS_MAX: usize = 1000;
    const EACH: usize = 1100;
    /// Names and tree nodes of one filter of four levels.
    const FILTER_BYTES_MAX: u64 = 1024;
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let count = scaled(40);
    let mut crowd = Crowd::new(broker.tcp);
    crowd.connect(count, |index| Connect::new(Version::V5, &format!("hungry-{index}")));
    crowd.send_all(|index| {
        (0..EACH)
            .step_by(100)
            .flat_map(|first| {
                let names: Vec<String> =
                    (first..first + 100).map(|number| exploding_filter(index, number)).collect();
                let filters: Vec<(&str, u8)> = names.iter().map(|name| (&**name, 0)).collect();
                packets::subscribe(Version::V5, first as u16 + 1, &filters, &Properties::new())
            })
            .collect()
    });
    let (mut granted, mut refused) = (0, 0);
    for index in 0..count {
        for _ in 0..EACH / 100 {
            let suback = crowd.next_packet(index, Version::V5);
            assert_eq!(suback.kind(), Kind::Suback);
            granted += suback.codes().iter().filter(|code| **code == 0).count();
            refused += suback.codes().iter().filter(|code| **code == 0x97).count();
        }
    }
    assert_eq!(granted, count * FILTERS_MAX);
    assert_eq!(refused, count * (EACH - FILTERS_MAX));
    assert_eq!(broker.metric("subscriptions"), (count * FILTERS_MAX) as u64 + 1);
    let bound = (count * FILTERS_MAX) as u64 * FILTER_BYTES_MAX + SLACK;
    memory.assert_growth(bound, "filters");

    // Publishing goes on, into a tree that full; and the memory comes back.
    let mut publisher = Client::plain(broker.tcp, Version::V5, "into-the-tree");
    for number in 0..200 {
        publisher.publish(&format!("x{number}/y/z/w"), "x", 1);
    }
    crowd.reset_all();
    broker.wait_until("only the witness subscribes", |broker| broker.metric("subscriptions") == 1);
    witness.finish();
    broker.stop();
}

fn exploding_filter(client: usize, number: usize) -> String {
    match number % 4 {
        0 => format!("+/c{client}/n{number}/#"),
        1 => format!("c{client}/+/n{number}/+"),
        2 => format!("c{client}/n{number}/+/#"),
        _ => format!("c{client}/n{number}/leaf"),
    }
}

/// R08: `{a,+}` at each of ten levels: every topic of `a`s matches all 1,024; and as many that
/// differ only at their end, so that a walk is long and finds nothing.
fn overlapping_wildcards_cost_what_they_match(transport: Transport) {
    const LEVELS: u32 = 10;
    let broker = Broker::start(&Options::new(transport).config("[mqtt]\nmax_subscriptions = 5000"));
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let mut bomber = Client::plain(broker.tcp, Version::V5, "bomber");
    let all: Vec<u32> = (0..1 << LEVELS).collect();
    for part in all.chunks(128) {
        for end in ["", "/never"] {
            let names: Vec<String> =
                part.iter().map(|bits| wildcards(*bits, LEVELS, end)).collect();
            let filters: Vec<(&str, u8)> = names.iter().map(|name| (&**name, 0)).collect();
            let codes = bomber.subscribe_all(&filters, &Properties::new());
            assert!(codes.iter().all(|code| *code == 0), "{codes:02x?}");
        }
    }
    let levels = vec!["a"; LEVELS as usize].join("/");
    let mut publisher = Client::plain(broker.tcp, Version::V5, "trigger");
    for number in 0..20 {
        publisher.publish(&levels, number.to_string(), 1);
        // Matching subscriptions may be delivered once or each: MQTT-3.3.4-2.
        assert_eq!(bomber.receive().text(), number.to_string());
        let copies = bomber.fence();
        assert!(copies.len() < 1 << LEVELS, "{} copies", copies.len());
    }
    for number in 0..2000 {
        publisher.publish(&format!("{levels}/b{number}"), "x", 1);
    }
    bomber.expect_nothing();
    // 128 levels of nothing but wildcards, below a filter for every depth.
    let deep: Vec<String> = (1..128).map(|depth| "deep".to_owned() + &"/+".repeat(depth)).collect();
    let filters: Vec<(&str, u8)> = deep.iter().map(|name| (&**name, 0)).collect();
    let mut diver = Client::plain(broker.tcp, Version::V5, "diver");
    assert!(diver.subscribe_all(&filters, &Properties::new()).iter().all(|code| *code == 0));
    publisher.publish(&("deep".to_owned() + &"/d".repeat(127)), "x", 1);
    assert_eq!(diver.receive().text(), "x");
    memory.assert_growth(SLACK, "overlapping wildcards");
    witness.finish();
    broker.stop();
}

/// One filter per number: level n is `+` where its bit n is set.
fn wildcards(bits: u32, levels: u32, end: &str) -> String {
    let level = |place: u32| if bits >> place & 1 == 1 { "+" } else { "a" };
    (0..levels).map(level).collect::<Vec<_>>().join("/") + end
}

/// R09: an ordinary user may subscribe to `$SYS/#` and `#`; the second does not get the first's.
fn sys_topics_are_allowed_and_kept_from_wildcards(transport: Transport) {
    let broker = Broker::start(&Options::new(transport).config("[sys]\ninterval = \"1s\""));
    let witness = Witness::start(broker.tcp);
    let mut all = Client::plain(broker.tcp, Version::V5, "all");
    assert_eq!(all.subscribe("#", 0), 0);
    let mut sys = Client::plain(broker.tcp, Version::V5, "sys");
    assert_eq!(sys.subscribe("$SYS/#", 0), 0);
    assert!(sys.receive().topic.starts_with("$SYS/"));
    let goal = witness.messages() + 200;
    while witness.messages() < goal {
        assert!(!all.receive().topic.starts_with('$'), "MQTT-4.7.2-1");
    }
    witness.finish();
    broker.stop();
}

/// What one subscriber of the two tests below may have in flight, and what is kept for it.
const WINDOWS: &str = "[mqtt]\nmax_inflight_messages = 50\nmax_inflight_bytes = \"32KiB\"\n\
    [session]\nmax_backlog = \"2MiB\"\n[limits]\nmemory = \"64MiB\"\n";

/// R10 with `drop_oldest`: the publisher is never refused, and what is dropped is counted.
fn windows_that_never_empty_are_bounded_and_the_oldest_dropped(transport: Transport) {
    const PAYLOAD_BYTES: usize = 1000;
    let options = Options::new(transport)
        .config(WINDOWS)
        .config("[[stream]]\nname = \"default\"\nwhen_full = \"drop_oldest\"");
    let broker = Broker::start(&options);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let count = scaled(20);
    let mut crowd = stalled_subscribers(&broker, count);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    let messages = scaled(8000);
    for first in (0..messages).step_by(50) {
        publish_part(&mut publisher, first, 50, PAYLOAD_BYTES);
        for _ in 0..50 {
            assert_eq!(publisher.expect(Kind::Puback).reason(), 0);
        }
        crowd.turn();
    }
    crowd.fence();
    for index in 0..count {
        let packets = crowd.take_packets(index, Version::V5);
        let publishes = packets.iter().filter(|packet| packet.kind() == Kind::Publish).count();
        // 32 KiB are 32 messages of this size; one may stand across the edge.
        assert!((20..=33).contains(&publishes), "client {index} has {publishes} in flight");
    }
    assert!(broker.metric("messages_dropped_backlog_total") > 0);
    let bound = 64 * MIB + count as u64 * CONNECTION_BYTES_MAX + SLACK;
    memory.assert_growth(bound, "windows that never empty");
    crowd.reset_all();
    witness.finish();
    broker.stop();
}

/// R10 with `reject`: at the bound the publisher gets 0x97, or no answer and is not read from; the
/// witness, whose messages nobody stalls, goes on.
fn windows_that_never_empty_make_publishers_wait_or_fail(transport: Transport) {
    const PAYLOAD_BYTES: usize = 1000;
    let broker = Broker::start(&Options::new(transport).config(WINDOWS));
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let count = scaled(20);
    let mut crowd = stalled_subscribers(&broker, count);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    let mut refused = 0;
    let mut first = 0;
    'bound: while first < scaled(20_000) {
        publish_part(&mut publisher, first, 50, PAYLOAD_BYTES);
        for _ in 0..50 {
            let Ok(puback) = publisher.try_read(Duration::from_secs(3)) else { break 'bound };
            assert!(matches!(puback.reason(), 0 | 0x97), "{puback:?}");
            refused += usize::from(puback.reason() == 0x97);
        }
        if refused > 0 {
            break;
        }
        first += 50;
        crowd.turn();
    }
    assert!(first < scaled(20_000), "the bound of 2 MiB was never reached");
    assert_eq!(broker.metric("messages_dropped_backlog_total"), 0);
    let bound = 64 * MIB + count as u64 * CONNECTION_BYTES_MAX + SLACK;
    memory.assert_growth(bound, "windows that never empty");
    // Once the subscribers are gone, the same topic takes messages again.
    crowd.reset_all();
    broker.wait_until("the subscribers are gone", |broker| broker.metric("connections") <= 3);
    let mut next = Client::plain(broker.tcp, Version::V5, "next");
    let deadline = Instant::now() + load::CROWD_PATIENCE;
    loop {
        next.send_publish(&Publish::new("stalled", "x").qos(1, 1));
        if next.expect(Kind::Puback).reason() < 0x80 {
            break;
        }
        assert!(Instant::now() < deadline, "the topic stays refused");
        std::thread::sleep(Duration::from_millis(20));
    }
    witness.finish();
    broker.stop();
}

/// Subscribers that read, and acknowledge nothing.
fn stalled_subscribers(broker: &Broker, count: usize) -> Crowd {
    let mut crowd = Crowd::new(broker.tcp);
    crowd.connect(count, |index| Connect::new(Version::V5, &format!("stalled-{index}")));
    crowd.send_all(|index| {
        let qos = 1 + (index % 2) as u8;
        packets::subscribe(Version::V5, 1, &[("stalled", qos)], &Properties::new())
    });
    for index in 0..count {
        assert_eq!(crowd.next_packet(index, Version::V5).kind(), Kind::Suback);
    }
    crowd
}

fn publish_part(publisher: &mut Client, first: usize, count: usize, payload_bytes: usize) {
    let payload = vec![b'p'; payload_bytes];
    let bytes: Vec<u8> = (first..first + count)
        .flat_map(|number| {
            let id = (number % 60_000 + 1) as u16;
            Publish::new("stalled", &payload).qos(1, id).encode(Version::V5)
        })
        .collect();
    publisher.send(&bytes);
}

/// R15: a member that acknowledges nothing, and one that reads nothing.
fn a_stalled_member_of_a_group_costs_only_itself(transport: Transport) {
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    for (number, stall) in [Stall::NoAcknowledgement, Stall::NoRead].into_iter().enumerate() {
        let options = SharedOptions {
            members: (0..5).map(|index| format!("member-{number}-{index}")).collect(),
            publishers: (0..2).map(|index| format!("feeder-{number}-{index}")).collect(),
            group: format!("group-{number}"),
            topic: format!("shared/{number}"),
            qos: QoS::AtLeastOnce,
            payload_bytes: 200,
            messages: scaled(2000) as u64,
            // Turns alone decide: less is on its way than one member's window holds.
            window: 16,
            receive_maximum: 64,
            stalled: 1,
            stall,
            killed: 0,
            patience: Duration::from_secs(10),
        };
        let target = Target::new(broker.tcp, ringlane_mqtt::Version::V5);
        let outcome = shared::run(&target, &options).expect("the group works");
        load::note(format!("{stall:?}: {outcome:?}"));
        assert_eq!((outcome.lost, outcome.damaged, outcome.ended), (0, 0, 0), "{outcome:?}");
        assert!(outcome.fairness >= 0.9, "{outcome:?}");
    }
    memory.assert_growth(SLACK, "a stalled member");
    witness.finish();
    broker.stop();
}

/// R20: every bad packet may want a line; identifiers may want to write lines of their own.
fn bad_packets_do_not_flood_the_log(transport: Transport) {
    const LINES_PER_SECOND_MAX: f64 = 100.0;
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let started = Instant::now();
    let lines_before = broker.log().lines().count();
    let count = scaled(3000);
    for round in 0..2 {
        let mut crowd = Crowd::new(broker.tcp);
        let id = |index| format!("evil-{round}-{index}\u{85}2026-01-01 ERROR forged\u{9b}31m");
        crowd.open(count, |index| {
            let mut bytes = Connect::new(Version::V5, &id(index)).encode();
            // A reserved packet type; for every third one instead of CONNECT.
            if index % 3 == 0 {
                bytes.clear();
            }
            bytes.extend_from_slice(&[0x00, 0x00]);
            bytes
        });
        crowd.wait_closed();
    }
    let seconds = started.elapsed().as_secs_f64();
    let log = broker.log();
    let lines = (log.lines().count() - lines_before) as f64;
    load::note(format!("{lines} lines in {seconds:.1} s"));
    let bound = LINES_PER_SECOND_MAX * (seconds + 1.0);
    assert!(lines <= bound, "{lines} lines in {seconds} s");
    assert!(!log.contains(['\u{85}', '\u{9b}', '\u{1b}']), "an identifier came unescaped");
    let malformed = metrics(&broker).sum("ringlane_malformed_packets_total");
    assert!(malformed >= count as f64, "{malformed} are counted");
    memory.assert_growth(count as u64 * CONNECTION_BYTES_MAX + SLACK, "bad packets");
    witness.finish();
    broker.stop();
}
