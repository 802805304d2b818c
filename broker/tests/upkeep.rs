//! What a client leaves unanswered holds its own bytes and nothing else, and stays what it was.

use crate::loopback::{Loopback, publish};
use ringlane::config::Config;
use ringlane_mqtt::{QoS, Version};

const ROUNDS: u8 = 200;
const PAYLOAD_BYTES: usize = 100;

/// Each round is a turn with a batch of its own: one message that nobody answers, and many to a
/// client that does.
#[test]
fn a_silent_client_holds_its_messages_and_no_batch() {
    let mut broker = Loopback::new(&Config::default());
    let version = Version::V311;
    let silent = broker.client("silent", version);
    broker.subscribe(silent, version, "silent/#", QoS::AtLeastOnce);
    let twin = broker.client("twin", version);
    broker.subscribe(twin, version, "silent/#", QoS::AtLeastOnce);
    let prompt = broker.client("prompt", version);
    broker.subscribe(prompt, version, "prompt", QoS::AtLeastOnce);
    let publisher = broker.client("publisher", version);
    assert_eq!(broker.metrics.message_bytes.get(), 0);

    let mut packet_id = 0_u16;
    for round in 0..ROUNDS {
        for _ in 0..20 {
            let filler = publish(version, "prompt", QoS::AtLeastOnce, 2, &[255; PAYLOAD_BYTES]);
            broker.receive(publisher, &filler);
        }
        // Behind so many that it does not lie in the small batch that a turn begins with.
        let payload = [round; PAYLOAD_BYTES];
        broker.receive(publisher, &publish(version, "silent/t", QoS::AtLeastOnce, 1, &payload));
        broker.end_turn();
        for _ in 0..20 {
            packet_id += 1;
            let [high, low] = packet_id.to_be_bytes();
            broker.receive(prompt, &[0x40, 2, high, low]);
        }
        broker.end_turn();
    }
    let in_batches = broker.metrics.message_bytes.get();
    assert!(in_batches > u64::from(ROUNDS) * 32 * 1024, "{in_batches}");

    broker.pass(3);
    let copied = broker.metrics.message_bytes.get();
    assert!(copied < u64::from(ROUNDS) * 2 * PAYLOAD_BYTES as u64, "one copy for both: {copied}");
    assert_eq!(broker.metrics.inflight_messages.get(), 2 * u64::from(ROUNDS));

    // They end like any others.
    for client in [silent, twin] {
        for id in 1..=u16::from(ROUNDS) {
            let [high, low] = id.to_be_bytes();
            broker.receive(client, &[0x40, 2, high, low]);
        }
    }
    broker.pass(3);
    assert_eq!(broker.metrics.inflight_messages.get(), 0);
    assert_eq!(broker.metrics.message_bytes.get(), 0);
}

/// The batch that a message was copied out of has been used again when it is sent again.
#[test]
fn a_message_that_was_copied_out_is_sent_again_as_it_was() {
    let mut broker = Loopback::new(&Config::default());
    let version = Version::V311;
    let silent = broker.returning_client("silent", version);
    broker.subscribe(silent, version, "silent/#", QoS::AtLeastOnce);
    let publisher = broker.client("publisher", version);
    let topic = |round: u8| format!("silent/{round}");
    for round in 0..ROUNDS {
        let payload = [round; PAYLOAD_BYTES];
        broker.receive(publisher, &publish(version, &topic(round), QoS::AtLeastOnce, 1, &payload));
        broker.end_turn();
    }
    broker.pass(3);
    for _ in 0..ROUNDS {
        let other = publish(version, "nobody", QoS::AtLeastOnce, 1, &[255; PAYLOAD_BYTES]);
        broker.receive(publisher, &other.repeat(20));
        broker.end_turn();
    }
    broker.sent = Some(Vec::new());
    let back = broker.returning_client("silent", version);
    let sent = broker.sent.take().unwrap_or_default();
    let bytes: Vec<u8> =
        sent.into_iter().filter(|(id, _)| *id == back).flat_map(|(_, b)| b).collect();
    let mut expected = vec![0x20, 2, 1, 0];
    for round in 0..ROUNDS {
        let id = u16::from(round) + 1;
        let mut packet =
            publish(version, &topic(round), QoS::AtLeastOnce, id, &[round; PAYLOAD_BYTES]);
        packet[0] |= 0b1000;
        expected.extend_from_slice(&packet);
    }
    assert!(bytes == expected, "CONNACK, then everything again, with DUP");
}
