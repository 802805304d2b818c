//! What decoding one PUBLISH costs, beside `mqttbytes`: `cargo run --release --example cost`.
//!
//! Rounds alternate between the decoders and the best of each counts, so that what else runs on
//! the machine disturbs all of them alike. Read the ratios, not the times.

#![expect(clippy::print_stdout, reason = "the result is the output")]

use ringlane_mqtt::{Frame, Packet, Version, decode_from_client, encode, frame};
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROUNDS: usize = 40;
const PACKETS: u32 = 50_000;

fn main() {
    let plain = publish(Version::V311, &[]);
    let mut properties = Vec::new();
    encode::user_property(&mut properties, "unit", "celsius");
    let rich = publish(Version::V5, &properties);
    // `mqttbytes` consumes a buffer, so its figures hold one copy of the packet.
    let mut cases: [(&str, &dyn Fn(), Duration); 4] = [
        ("3.1.1, this crate", &|| ours(Version::V311, &plain), Duration::MAX),
        ("3.1.1, mqttbytes", &|| theirs_v4(&plain), Duration::MAX),
        ("5 with a user property, this crate", &|| ours(Version::V5, &rich), Duration::MAX),
        ("5 with a user property, mqttbytes", &|| theirs_v5(&rich), Duration::MAX),
    ];
    for _ in 0..ROUNDS {
        for (_, decode, best) in &mut cases {
            let start = Instant::now();
            (0..PACKETS).for_each(|_| decode());
            *best = start.elapsed().min(*best);
        }
    }
    println!("QoS 1 PUBLISH, topic of 20 bytes, payload of 256 bytes");
    for (name, _, best) in cases {
        println!("{:8.1} ns  {name}", best.as_secs_f64() * 1e9 / f64::from(PACKETS));
    }
}

fn publish(version: Version, forwarded: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let head = encode::PublishHead {
        version,
        dup: false,
        qos: ringlane_mqtt::QoS::AtLeastOnce,
        retain: false,
        topic: "factory/line/3/temp1",
        topic_alias: None,
        packet_id: 7,
        message_expiry_secs: None,
        subscription_ids: &[],
        forwarded,
        payload_bytes: 256,
    };
    encode::publish_head(&mut out, &head);
    out.resize(out.len() + 256, b'x');
    out
}

fn ours(version: Version, packet: &[u8]) {
    if let Ok(Frame::Complete(raw)) = frame(black_box(packet), 1 << 20)
        && let Ok(Packet::Publish(publish)) = decode_from_client(version, raw)
    {
        black_box((publish.topic, publish.payload));
    }
}

fn theirs_v4(packet: &[u8]) {
    let packet = mqttbytes::v4::read(&mut From::from(black_box(packet)), 1 << 20);
    if let Ok(mqttbytes::v4::Packet::Publish(publish)) = packet {
        black_box((publish.topic, publish.payload));
    }
}

fn theirs_v5(packet: &[u8]) {
    let packet = mqttbytes::v5::read(&mut From::from(black_box(packet)), 1 << 20);
    if let Ok(mqttbytes::v5::Packet::Publish(publish)) = packet {
        black_box((publish.topic, publish.payload));
    }
}
