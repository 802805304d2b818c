//! The way of a PUBLISH through the broker of one core, from received bytes to output bytes, and
//! its parts, each in a loop, to be counted by an instruction counter.
//!
//! It measures nothing itself: `scripts/bench/instructions.sh` runs each case under callgrind, once
//! with a count and once with twice the count. The difference is the loop without the set-up.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it did")]

#[path = "../tests/loopback/mod.rs"]
mod loopback;

use loopback::{Loopback, publish};
use ringlane::config::Config;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{
    Frame, PACKET_BYTES_MAX, Packet, QoS, Version, decode_from_client, frame, publish_run,
};
use std::hint::black_box;

const PAIRS: usize = 50;
const PAYLOAD: [u8; 256] = [b'x'; 256];

/// `PAIRS` publishers with a subscriber each; every client speaks its own version.
struct Pairs {
    broker: Loopback,
    publishers: Vec<ConnectionId>,
    /// What each publisher sends in one piece.
    pieces: Vec<Vec<u8>>,
}

fn pairs(
    publisher: Version,
    subscriber: Version,
    filter: fn(usize) -> String,
    batch: u64,
) -> Pairs {
    let mut broker = Loopback::new(&Config::default());
    let mut publishers = Vec::new();
    let mut pieces = Vec::new();
    for number in 0..PAIRS {
        publishers.push(broker.client(&format!("pub-{number}"), publisher));
        let client = broker.client(&format!("sub-{number}"), subscriber);
        broker.subscribe(client, subscriber, &filter(number), QoS::AtMostOnce);
        let packet = publish(publisher, &topic(number), QoS::AtMostOnce, 0, &PAYLOAD);
        pieces.push(packet.repeat(batch as usize));
    }
    Pairs { broker, publishers, pieces }
}

fn topic(number: usize) -> String {
    format!("plant/{}/line/{number}/temperature", number % 8)
}

/// Sends pieces of all publishers in turn, a turn of the broker for each round.
fn run(mut pairs: Pairs, batch: u64, count: u64) -> u64 {
    let before = pairs.broker.metrics.publishes_sent_qos0.get();
    let mut left = count / batch;
    while left > 0 {
        for (publisher, piece) in pairs.publishers.iter().zip(&pairs.pieces).take(left as usize) {
            pairs.broker.receive(*publisher, piece);
        }
        left = left.saturating_sub(PAIRS as u64);
        pairs.broker.end_turn();
    }
    let sent = pairs.broker.metrics.publishes_sent_qos0.get() - before;
    assert_eq!(sent, count / batch * batch, "every message is delivered once");
    sent
}

const V3: Version = Version::V311;
const V5: Version = Version::V5;

fn exact(publisher: Version, subscriber: Version, batch: u64, count: u64) -> u64 {
    run(pairs(publisher, subscriber, topic, batch), batch, count)
}

/// More topics than are remembered, each matched by the wildcard of one subscriber, so many of them in one piece.
fn wildcard_miss(batch: usize, count: u64) -> u64 {
    const TOPICS: usize = 100_000;
    let mut broker = Loopback::new(&Config::default());
    let publisher = broker.client("pub", V3);
    for number in 0..PAIRS {
        let client = broker.client(&format!("sub-{number}"), V3);
        broker.subscribe(client, V3, &format!("plant/{number}/+/temperature"), QoS::AtMostOnce);
    }
    let packets: Vec<_> = (0..TOPICS)
        .map(|number| format!("plant/{}/{number}/temperature", number % PAIRS))
        .map(|topic| publish(V3, &topic, QoS::AtMostOnce, 0, &PAYLOAD))
        .collect();
    let pieces: Vec<_> = packets.chunks_exact(batch).map(<[_]>::concat).collect();
    // Once round all topics, so that every place of the routes has been used.
    let rounds = pieces.len() + count as usize / batch;
    for (number, piece) in pieces.iter().cycle().take(rounds).enumerate() {
        broker.receive(publisher, piece);
        if number % PAIRS.div_ceil(batch) == 0 {
            broker.end_turn();
        }
    }
    let sent = broker.metrics.publishes_sent_qos0.get();
    assert_eq!(sent, (rounds * batch) as u64, "every message is delivered once");
    sent
}

/// One publisher, a hundred subscribers: operations are deliveries.
fn fan_out(count: u64) -> u64 {
    let mut broker = Loopback::new(&Config::default());
    let publisher = broker.client("pub", V3);
    for number in 0..100 {
        let client = broker.client(&format!("sub-{number}"), V3);
        broker.subscribe(client, V3, "plant/all", QoS::AtMostOnce);
    }
    let packet = publish(V3, "plant/all", QoS::AtMostOnce, 0, &PAYLOAD);
    for _ in 0..count / 100 {
        broker.receive(publisher, &packet);
        broker.end_turn();
    }
    broker.metrics.publishes_sent_qos0.get()
}

fn decode_publish(version: Version, count: u64) -> u64 {
    let packet = publish(version, &topic(7), QoS::AtMostOnce, 0, &PAYLOAD);
    let mut sum = 0;
    for _ in 0..count {
        let Ok(Frame::Complete(raw)) = frame(black_box(&packet), PACKET_BYTES_MAX) else { break };
        let Ok(Packet::Publish(publish)) = decode_from_client(version, raw) else { break };
        sum += publish.payload.len() as u64;
    }
    sum
}

/// Runs of 16 packets.
fn cut_runs(count: u64) -> u64 {
    let packets = publish(V3, &topic(7), QoS::AtMostOnce, 0, &PAYLOAD).repeat(16);
    let mut sum = 0;
    for _ in 0..count / 16 {
        let run = publish_run(V3, black_box(&packets), PACKET_BYTES_MAX);
        sum += run.map_or(0, |run| run.count as u64);
    }
    sum
}

fn encode_publish(count: u64) -> u64 {
    let topic = topic(7);
    let head = PublishHead {
        version: V5,
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: &topic,
        topic_alias: None,
        packet_id: 7,
        message_expiry_secs: None,
        subscription_ids: &[],
        forwarded: &[],
        payload_bytes: PAYLOAD.len(),
    };
    let mut out = Vec::with_capacity(1024);
    for _ in 0..count {
        out.clear();
        encode::publish_head(&mut out, black_box(&head));
        out.extend_from_slice(&PAYLOAD);
    }
    out.len() as u64
}

/// Does so many operations and returns something that depends on all of them.
type Case = fn(u64) -> u64;

fn main() {
    let cases: [(&str, Case); 11] = [
        ("publish", |count| exact(V3, V3, 1, count)),
        ("publish-v5", |count| exact(V5, V5, 1, count)),
        ("publish-mixed", |count| exact(V3, V5, 1, count)),
        ("publish-batch-16", |count| exact(V3, V3, 16, count)),
        ("publish-wildcard-miss", |count| wildcard_miss(1, count)),
        ("publish-wildcard-miss-batch-16", |count| wildcard_miss(16, count)),
        ("publish-fan-out-100", fan_out),
        ("decode", |count| decode_publish(V3, count)),
        ("decode-v5", |count| decode_publish(V5, count)),
        ("cut-runs", cut_runs),
        ("encode", encode_publish),
    ];
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_some_and(|first| first == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}"));
        return;
    }
    let wanted = arguments.first().map(String::as_str);
    let count = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(16_000);
    for (name, case) in cases {
        if wanted.is_none_or(|wanted| wanted == name) {
            println!("{name}: {count} operations, sum {}", case(count));
        }
    }
}
