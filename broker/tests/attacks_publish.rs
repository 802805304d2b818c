//! Attacks by publishers: topic aliases, retained messages, QoS 2 identifiers, depth, properties,
//! amplification.
//!
//! Source: the table of resource attacks, rows R04, R05, R11, R14, R17 and R19. In each, the
//! broker's memory stays within the bound that the test states, and a healthy pair beside the
//! attack loses nothing.

use crate::load;
use crate::load::{Crowd, KIB, MIB, Memory, scaled};
use crate::support;
use crate::support::properties::{self, Properties};
use crate::support::{
    Broker, Client, Connect, Gone, Kind, Options, Packet, Publish, Transport, Version, Will,
    Witness, packets,
};
use ringlane_bench::process::Process;
use std::time::{Duration, Instant};

/// What an allocator may keep that no connection accounts for.
const SLACK: u64 = 8 * MIB;
/// What the broker may hold per idle connection.
const CONNECTION_BYTES_MAX: u64 = 16 * KIB;

on_both_transports!(
    topic_aliases_are_counted_and_freed,
    retained_messages_are_refused_at_their_bound,
    unreleased_identifiers_are_bounded_by_receive_maximum,
    unreleased_identifiers_before_mqtt_5_take_bounded_memory,
    deep_topics_are_refused,
    a_million_bytes_of_tiny_items_cost_bounded_cpu,
    amplification_keeps_one_copy,
);

/// R04: tables full of 4 KiB topics, and clients that come back to fill them again.
fn topic_aliases_are_counted_and_freed(transport: Transport) {
    const ALIASES: u16 = 16;
    const WARM_UP: usize = 3;
    const ROUNDS: usize = 8;
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let count = scaled(100);
    let memory = Memory::of(&broker);
    let mut settled = None;
    for round in 0..ROUNDS {
        let mut crowd = Crowd::new(broker.tcp);
        crowd.connect(count, |index| Connect::new(Version::V5, &format!("{round}-alias-{index}")));
        crowd.send_all(|index| alias_table(index, ALIASES));
        crowd.fence();
        assert_eq!(crowd.closed(), 0, "round {round}");
        let tables = count as u64 * u64::from(ALIASES) * 4 * KIB;
        let bound = 2 * tables + count as u64 * CONNECTION_BYTES_MAX + SLACK;
        memory.assert_growth(bound, "alias tables");
        if round == WARM_UP {
            settled = Some(Memory::of(&broker));
        }
        if let Some(settled) = &settled {
            settled.assert_growth(2 * MIB, "the same tables again");
        }
        crowd.send_all(|_| with_alias("one/too/many", ALIASES + 1));
        crowd.wait_closed();
        for index in 0..count {
            let last = crowd.take_packets(index, Version::V5).pop().expect("a packet");
            assert_eq!((last.kind(), last.reason()), (Kind::Disconnect, 0x94), "MQTT-3.3.2-9");
        }
    }
    witness.finish();
    broker.stop();
}

fn alias_table(index: usize, aliases: u16) -> Vec<u8> {
    let topic = |alias| format!("{index}/{alias}/{}", "t".repeat(4 * KIB as usize - 20));
    (1..=aliases).flat_map(|alias| with_alias(&topic(alias), alias)).collect()
}

fn with_alias(topic: &str, alias: u16) -> Vec<u8> {
    let properties = Properties::new().two(properties::TOPIC_ALIAS, alias);
    Publish::new(topic, "x").properties(properties).encode(Version::V5)
}

/// R05: ever new topics. Above the bound a retained message is refused with 0x97.
fn retained_messages_are_refused_at_their_bound(transport: Transport) {
    const CONFIGURED: u64 = 500;
    // Each core gets its part and a quarter more, because hashing does not spread evenly.
    const MESSAGES_MAX: u64 = CONFIGURED + CONFIGURED / 4 + 2;
    let config = format!("[retained]\nmax_messages = {CONFIGURED}\nmax_bytes = \"4MiB\"");
    let broker = Broker::start(&Options::new(transport).config(&config));
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let mut flooder = Client::plain(broker.tcp, Version::V5, "flooder");
    let payload = vec![b'r'; 1000];
    let count = scaled(10_000);
    let mut refused = 0;
    for first in (0..count).step_by(100) {
        let range = first..first + 100;
        let bytes: Vec<u8> = range.clone().flat_map(|n| retained(n, &payload)).collect();
        flooder.send(&bytes);
        for _ in range {
            let puback = flooder.expect(Kind::Puback);
            assert!(matches!(puback.reason(), 0x00 | 0x10 | 0x97), "{puback:?}");
            refused += u64::from(puback.reason() == 0x97);
        }
    }
    assert!(refused >= count as u64 - MESSAGES_MAX, "{refused} of {count} refused");
    assert!(refused <= count as u64 - CONFIGURED / 4, "{refused} of {count} refused");
    assert!(broker.metric("retained_messages") <= MESSAGES_MAX);
    assert!(broker.metric("retained_bytes") <= 5 * MIB);
    assert_eq!(broker.metric("retained_refused_total"), refused);
    memory.assert_growth(5 * MIB + SLACK, "retained messages");

    // What is there can still be replaced and cleared, and its place be taken again.
    let mut reader = Client::plain(broker.tcp, Version::V5, "reader");
    reader.subscribe("flood/#", 0);
    let kept = reader.receive().topic;
    flooder.publish_packet(Publish::new(&kept, "new").retain().qos(1, 1));
    flooder.publish_packet(Publish::new(&kept, "").retain().qos(1, 1));
    witness.finish();
    broker.stop();
}

fn retained(number: usize, payload: &[u8]) -> Vec<u8> {
    let id = (number % 60_000 + 1) as u16;
    Publish::new(&format!("flood/{number}"), payload).retain().qos(1, id).encode(Version::V5)
}

/// R11: QoS 2 publishes that are never released.
fn unreleased_identifiers_are_bounded_by_receive_maximum(transport: Transport) {
    const MAXIMUM: u16 = 32;
    let config = format!("[mqtt]\nreceive_maximum = {MAXIMUM}");
    let broker = Broker::start(&Options::new(transport).config(&config));
    let witness = Witness::start(broker.tcp);
    let count = scaled(500);
    let memory = Memory::of(&broker);
    let mut crowd = Crowd::new(broker.tcp);
    crowd.connect(count, |index| Connect::new(Version::V5, &format!("unreleased-{index}")));
    crowd.send_all(|_| unreleased(Version::V5, 1..=MAXIMUM));
    crowd.wait_bytes("each PUBREC came", 4 * usize::from(MAXIMUM));
    for index in 0..count {
        let packets = crowd.take_packets(index, Version::V5);
        let pubrecs = packets.iter().filter(|packet| packet.kind() == Kind::Pubrec).count();
        assert_eq!(pubrecs, usize::from(MAXIMUM), "client {index}");
    }
    crowd.send_all(|_| unreleased(Version::V5, MAXIMUM + 1..=MAXIMUM + 1));
    crowd.wait_closed();
    for index in 0..count {
        let last = crowd.take_packets(index, Version::V5).pop().expect("a packet");
        assert_eq!((last.kind(), last.reason()), (Kind::Disconnect, 0x93), "MQTT-3.3.4-7");
    }
    memory.assert_growth(count as u64 * CONNECTION_BYTES_MAX + SLACK, "unreleased identifiers");
    witness.finish();
    broker.stop();
}

/// R11 before MQTT 5: there is no Receive Maximum to break; the 65,535 identifiers are the bound.
fn unreleased_identifiers_before_mqtt_5_take_bounded_memory(transport: Transport) {
    /// Per identifier: a packet identifier and its place in a table.
    const IDENTIFIER_BYTES_MAX: u64 = 64;
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let count = scaled(10);
    let mut crowd = Crowd::new(broker.tcp);
    crowd.connect(count, |index| Connect::new(Version::V311, &format!("unreleased-{index}")));
    // Each round uses all identifiers; in the later ones they are repetitions.
    const ROUNDS: usize = 3;
    for _ in 0..ROUNDS {
        crowd.send_all(|_| unreleased(Version::V311, 1..=u16::MAX));
        crowd.turn();
    }
    crowd.wait_bytes("each PUBREC came", ROUNDS * 4 * usize::from(u16::MAX));
    let bound = count as u64 * 65_535 * IDENTIFIER_BYTES_MAX + SLACK;
    memory.assert_growth(bound, "all identifiers unreleased");
    crowd.reset_all();
    witness.finish();
    broker.stop();
}

fn unreleased(version: Version, ids: std::ops::RangeInclusive<u16>) -> Vec<u8> {
    ids.flat_map(|id| Publish::new("q2", "x").qos(2, id).encode(version)).collect()
}

/// R14: as many levels as a string holds, wherever a topic may stand.
fn deep_topics_are_refused(transport: Transport) {
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    for version in [Version::V311, Version::V5] {
        // Above the length limit; and within it, one level above the limit of levels.
        for topic in ["/".repeat(65_535), "/".repeat(65_519), "a/".repeat(128) + "a"] {
            deep_publish(&broker, version, &topic);
            deep_filter(&broker, version, &topic);
            deep_filter(
                &broker,
                version,
                &format!("$share/g/{}", &topic[..topic.len().min(65_500)]),
            );
            deep_will(&broker, version, &topic);
        }
    }
    // The deepest that is allowed still works.
    let topic = "a/".repeat(127) + "a";
    let mut client = Client::plain(broker.tcp, Version::V5, "deep-enough");
    assert_eq!(client.subscribe(&topic, 0), 0);
    client.publish(&topic, "x", 0);
    assert_eq!(client.receive().topic, topic);
    memory.assert_growth(SLACK, "deep topics");
    witness.finish();
    broker.stop();
}

/// The broker must end the connection, or acknowledge with an error, and deliver to nobody.
fn deep_publish(broker: &Broker, version: Version, topic: &str) {
    let mut client = Client::plain(broker.tcp, version, "deep-publisher");
    let _ = client.try_send(&Publish::new(topic, "x").qos(1, 1).encode(version));
    match client.try_read(support::PATIENCE) {
        Ok(answer) => assert!(answer.reason() >= 0x80, "{version:?}: {answer:?}"),
        Err(gone) => {
            assert_eq!(gone, Gone::Closed);
            assert!(!version.is_v5(), "MQTT 5 is told why");
        }
    }
}

/// Each of SUBSCRIBE and UNSUBSCRIBE must be answered with an error, or end the connection.
fn deep_filter(broker: &Broker, version: Version, filter: &str) {
    let mut client = Client::plain(broker.tcp, version, "deep-subscriber");
    let bytes = packets::subscribe(version, 1, &[(filter, 1)], &Properties::new());
    let _ = client.try_send(&bytes);
    match client.try_fence() {
        Ok(answers) => {
            assert_eq!(answers.len(), 1, "{answers:?}");
            assert!(answers[0].codes()[0] >= 0x80, "{version:?}: {answers:?}");
        }
        Err(answers) => return assert_told_why(version, &answers),
    }
    let _ = client.try_send(&packets::unsubscribe(version, 2, &[filter]));
    match client.try_fence() {
        Ok(answers) => {
            // 0x11, no subscription existed, is as true as an error.
            let is_refused = answers[0].codes().first().is_none_or(|code| *code >= 0x11);
            assert!(is_refused, "{version:?}: {answers:?}");
        }
        Err(answers) => assert_told_why(version, &answers),
    }
}

fn deep_will(broker: &Broker, version: Version, topic: &str) {
    let mut client = Client::open(broker.tcp, version);
    let connect = Connect::new(version, "deep-will").will(Will::new(topic, "x"));
    let _ = client.try_send(&connect.encode());
    for packet in client.expect_closed() {
        assert_ne!(packet.reason(), 0, "{version:?}: {packet:?}");
    }
}

/// A connection of MQTT 5 that the broker ends is told why; 3.1.1 has no words for it.
fn assert_told_why(version: Version, answers: &[Packet]) {
    let expected = usize::from(version.is_v5());
    assert_eq!(answers.len(), expected, "{version:?}: {answers:?}");
    assert!(answers.iter().all(|packet| packet.reason() >= 0x80), "{version:?}: {answers:?}");
}

/// R17: packets of 1 MiB made of the smallest items: user properties and topic filters.
fn a_million_bytes_of_tiny_items_cost_bounded_cpu(transport: Transport) {
    /// Of a broker without optimization; what counts is that it is not quadratic.
    const CPU_PER_PACKET_MAX: Duration = Duration::from_millis(500);
    const PACKETS: u32 = 10;
    const ITEMS_BYTES: usize = 1_000_000;
    let broker = Broker::on(transport);
    let witness = Witness::start(broker.tcp);
    let memory = Memory::of(&broker);
    let process = Process(broker.pid());
    let before = process.cpu_time().expect("the broker lives");
    let pairs = ITEMS_BYTES / 5;
    let properties = Properties([0x26, 0, 0, 0, 0].repeat(pairs));
    let filters: Vec<(&str, u8)> = vec![("a", 0); ITEMS_BYTES / 4];
    let names: Vec<&str> = vec!["a"; ITEMS_BYTES / 3];
    let bombs = [
        Publish::new("bomb", "x").properties(properties.clone()).encode(Version::V5),
        packets::subscribe(Version::V5, 1, &[("a", 0)], &properties),
        packets::subscribe(Version::V5, 1, &filters, &Properties::new()),
        packets::unsubscribe(Version::V5, 1, &names),
    ];
    for (number, bomb) in bombs.iter().enumerate() {
        assert!(bomb.len() <= MIB as usize, "the packet is within the limit");
        for _ in 0..PACKETS {
            let mut client = Client::plain(broker.tcp, Version::V5, "bomber");
            let _ = client.try_send(bomb);
            if let Err(answers) = client.try_fence() {
                let last = answers.last().expect("MQTT 5 is told why");
                assert_eq!(last.kind(), Kind::Disconnect, "bomb {number}: {last:?}");
                assert!(last.reason() >= 0x80, "bomb {number}: {last:?}");
            }
        }
    }
    let spent = process.cpu_time().expect("the broker lives").saturating_sub(before);
    let each = spent / (PACKETS * bombs.len() as u32);
    load::note(format!("broker CPU per packet, the witness included: {each:?}"));
    assert!(each < CPU_PER_PACKET_MAX, "{each:?}");
    assert!(broker.metric("subscriptions") <= 1001, "the limit per client and the witness");
    memory.assert_growth(16 * MIB + SLACK, "tiny items");
    witness.finish();
    broker.stop();
}

/// R19: large messages to many subscribers that do not read: one copy, and what the outputs hold
/// is bounded by the broker's memory budget, not by subscribers times bytes.
fn amplification_keeps_one_copy(transport: Transport) {
    const PAYLOAD_BYTES: usize = 900_000;
    const MESSAGES: usize = 8;
    let broker = Broker::start(&Options::new(transport).config("[limits]\nmemory = \"64MiB\""));
    let witness = Witness::start(broker.tcp);
    let count = scaled(1000);
    let memory = Memory::of(&broker);
    let mut crowd = Crowd::new(broker.tcp).receive_buffer(4096);
    crowd.connect(count, |index| Connect::new(Version::V311, &format!("amplified-{index}")));
    let subscribe = packets::subscribe(Version::V311, 1, &[("loud", 0)], &Properties::new());
    crowd.send_all(|_| subscribe.clone());
    for index in 0..count {
        assert_eq!(crowd.next_packet(index, Version::V311).kind(), Kind::Suback);
        crowd.pause(index, true);
    }
    let mut publisher = Client::plain(broker.tcp, Version::V311, "loud");
    let payload: Vec<u8> = (0..PAYLOAD_BYTES).map(|place| (place % 251) as u8).collect();
    for id in 1..=MESSAGES {
        publisher.send_publish(&Publish::new("loud", &payload).qos(1, id as u16));
        assert_eq!(publisher.expect(Kind::Puback).id(), id as u16);
    }
    // All in all 7 GB were to be sent. The first message may wait in each output, shared.
    let outputs = count as u64 * (CONNECTION_BYTES_MAX + 16 * KIB);
    memory.assert_growth(64 * MIB + outputs + SLACK, "amplified messages");
    // One that reads again gets the first message whole.
    crowd.pause(0, false);
    let first = crowd.next_packet(0, Version::V311).publish();
    assert!(first.payload == payload, "the payload is damaged");
    crowd.reset_all();
    let deadline = Instant::now() + load::CROWD_PATIENCE;
    while broker.metric("connections") > 3 {
        assert!(Instant::now() < deadline, "the connections do not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    memory.assert_growth(outputs + SLACK, "amplified messages, after their readers left");
    witness.finish();
    broker.stop();
}
