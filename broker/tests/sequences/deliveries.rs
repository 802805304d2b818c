//! Q08, Q09, Q11 to Q13, Q16: what a subscriber is owed.

use super::{expect_text, messages};
use crate::support::properties::{MAXIMUM_PACKET_SIZE, MESSAGE_EXPIRY, RECEIVE_MAXIMUM};
use crate::support::{
    Broker, Client, Connect, Kind, Packet, Properties, Publish, Received, Transport, Version,
    packets,
};
use std::time::Duration;

on_both_transports!(
    q08_mqtt_4_4_0_1_a_resumed_session_gets_again_what_it_did_not_acknowledge,
    q09_mqtt_4_4_0_1_nothing_is_sent_again_on_a_live_connection,
    q11_mqtt_3_10_4_2_unsubscribe_finishes_what_is_in_flight,
    q12_mqtt_3_1_2_24_a_message_above_the_maximum_packet_size_is_not_sent,
    q13_mqtt_3_3_4_9_a_receive_maximum_of_one_is_kept,
    q16_mqtt_3_3_2_5_a_message_expires_while_it_waits,
);

fn subscriber(broker: &Broker, connect: &Connect) -> Client {
    let mut client = Client::connect(broker.tcp, connect);
    if !client.connack().session_present() {
        assert_eq!(client.subscribe("t/+", 2), 2);
    }
    client
}

fn receive_texts(client: &mut Client, texts: &[&str]) -> Vec<Received> {
    let received: Vec<Received> = texts.iter().map(|_| client.receive()).collect();
    let found: Vec<String> = received.iter().map(Received::text).collect();
    assert_eq!(found, texts);
    received
}

/// Same identifiers and DUP [MQTT-3.3.1-1], same order [MQTT-4.6.0-1], PUBREL for what the client
/// has answered with PUBREC [MQTT-4.4.0-1]; what came while it was away follows.
fn q08_mqtt_4_4_0_1_a_resumed_session_gets_again_what_it_did_not_acknowledge(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let connect = Connect::new(version, &format!("durable-{version:?}")).durable();
        let mut client = subscriber(&broker, &connect);
        let mut publisher = Client::plain(broker.tcp, version, "publisher");
        for (text, qos) in [("a", 1), ("b", 2), ("c", 1), ("d", 2)] {
            publisher.publish("t/1", text, qos);
        }
        let first = receive_texts(&mut client, &["a", "b", "c", "d"]);
        assert!(first.iter().all(|received| !received.dup), "[MQTT-3.3.1-2] {first:?}");
        client.acknowledge(Kind::Pubrec, first[1].id);
        assert_eq!(client.expect(Kind::Pubrel).id(), first[1].id);
        client.reset();
        publisher.publish("t/1", "e", 1);

        let mut client = subscriber(&broker, &connect);
        assert!(client.connack().session_present(), "[MQTT-3.2.2-2]");
        let packets: Vec<Packet> = (0..5).map(|_| client.read()).collect();
        let (pubrels, publishes): (Vec<_>, Vec<_>) =
            packets.into_iter().partition(|packet| packet.kind() == Kind::Pubrel);
        assert_eq!(pubrels.iter().map(Packet::id).collect::<Vec<_>>(), [first[1].id]);
        let again: Vec<Received> = publishes.iter().map(Packet::publish).collect();
        let seen: Vec<_> = again.iter().map(|it| (it.text(), it.dup)).collect();
        let expected = [("a", true), ("c", true), ("d", true), ("e", false)];
        assert_eq!(seen, expected.map(|(text, dup)| (text.to_owned(), dup)));
        let ids: Vec<u16> = again[..3].iter().map(|received| received.id).collect();
        assert_eq!(ids, [first[0].id, first[2].id, first[3].id], "[MQTT-4.4.0-1]");
        client.acknowledge(Kind::Pubcomp, first[1].id);
        again.iter().for_each(|received| client.finish(received));
        assert_eq!(client.fence_through(&mut publisher, 2), []);

        client.reset();
        let mut client = subscriber(&broker, &connect);
        assert_eq!(client.fence_through(&mut publisher, 2), [], "all was acknowledged");
        client.disconnect();
    }
    broker.stop();
}

/// No timer repeats a message; a second of silence is more than any such timer is worth.
fn q09_mqtt_4_4_0_1_nothing_is_sent_again_on_a_live_connection(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut client = subscriber(&broker, &Connect::new(version, "silent"));
        let mut publisher = Client::plain(broker.tcp, version, "publisher");
        publisher.publish("t/1", "one", 1);
        publisher.publish("t/1", "two", 2);
        let received = receive_texts(&mut client, &["one", "two"]);
        assert_eq!(client.try_read(Duration::from_secs(1)), Err(crate::support::Gone::TimedOut));
        assert_eq!(client.fence_through(&mut publisher, 1), []);
        received.iter().for_each(|received| client.finish(received));
        client.expect_nothing();
    }
    broker.stop();
}

/// Also [MQTT-3.10.4-3]: QoS 1 and 2 that were sent are completed, no new ones are added.
fn q11_mqtt_3_10_4_2_unsubscribe_finishes_what_is_in_flight(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut client = subscriber(&broker, &Connect::new(version, "leaving"));
        let mut publisher = Client::plain(broker.tcp, version, "publisher");
        for (text, qos) in [("one", 1), ("two", 2), ("three", 2)] {
            publisher.publish("t/1", text, qos);
        }
        let received = receive_texts(&mut client, &["one", "two", "three"]);
        client.acknowledge(Kind::Pubrec, received[2].id);
        client.expect(Kind::Pubrel);
        let unsuback = client.unsubscribe("t/+");
        let expected: &[u8] = if version.is_v5() { &[0] } else { &[] };
        assert_eq!(unsuback.codes(), expected);
        publisher.publish("t/1", "four", 1);
        assert_eq!(client.fence_through(&mut publisher, 1), []);
        client.acknowledge(Kind::Puback, received[0].id);
        client.finish(&received[1]);
        client.acknowledge(Kind::Pubcomp, received[2].id);
        client.expect_nothing();
    }
    broker.stop();
}

/// Also [MQTT-3.1.2-25]: as if it had been sent, for QoS 0, 1 and 2, live and from the backlog.
fn q12_mqtt_3_1_2_24_a_message_above_the_maximum_packet_size_is_not_sent(transport: Transport) {
    let broker = Broker::on(transport);
    let size = Properties::new().four(MAXIMUM_PACKET_SIZE, 64);
    let connect = Connect::new(Version::V5, "narrow").properties(size).durable();
    let mut client = subscriber(&broker, &connect);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    // Header, topic, identifier, property length and payload: 2 + 5 + 2 + 1 + 54 = 64 bytes.
    let (fits, too_large) = ([b'x'; 54], [b'y'; 55]);
    for qos in [1, 2] {
        publisher.publish("t/1", fits, qos);
        publisher.publish("t/1", too_large, qos);
    }
    publisher.publish("t/1", [b'y'; 200], 0);
    for _ in [1, 2] {
        assert_eq!(client.receive_and_acknowledge().payload, fits);
    }
    assert_eq!(client.fence_through(&mut publisher, 1), []);
    client.disconnect();
    publisher.publish("t/1", too_large, 1);
    publisher.publish("t/1", fits, 1);
    let mut client = subscriber(&broker, &connect);
    assert_eq!(client.receive_and_acknowledge().payload, fits);
    assert_eq!(client.fence_through(&mut publisher, 1), []);
    broker.stop();
}

/// Also [MQTT-4.9.0-2], [MQTT-4.9.0-3]: other packets flow while the window is full.
fn q13_mqtt_3_3_4_9_a_receive_maximum_of_one_is_kept(transport: Transport) {
    let broker = Broker::on(transport);
    let window = Properties::new().two(RECEIVE_MAXIMUM, 1);
    let mut client = subscriber(&broker, &Connect::new(Version::V5, "one").properties(window));
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    let texts = ["1", "2", "3", "4", "5", "6"];
    for (index, text) in texts.iter().enumerate() {
        publisher.publish("t/1", text, 1 + (index % 2) as u8);
    }
    for text in texts {
        let received = client.receive();
        assert_eq!(received.text(), text);
        assert_eq!(client.fence_through(&mut publisher, 0), [], "two messages in flight");
        assert_eq!(client.subscribe("other", 0), 0);
        if received.qos == 2 {
            client.acknowledge(Kind::Pubrec, received.id);
            assert_eq!(client.expect(Kind::Pubrel).id(), received.id);
            client.expect_nothing();
            client.acknowledge(Kind::Pubcomp, received.id);
        } else {
            client.acknowledge(Kind::Puback, received.id);
        }
    }
    // An error in PUBREC gives the window back too [MQTT-4.9.0-1].
    publisher.publish("t/1", "refused", 2);
    publisher.publish("t/1", "next", 1);
    let refused = client.receive();
    client.send(&packets::acknowledge_with(Kind::Pubrec, refused.id, 0x80));
    expect_text(&mut client, "next");
    client.expect_nothing();
    broker.stop();
}

/// Also [MQTT-3.3.2-6]: what has not expired comes with what is left of its interval.
fn q16_mqtt_3_3_2_5_a_message_expires_while_it_waits(transport: Transport) {
    let broker = Broker::on(transport);
    let connect = Connect::new(Version::V5, "away").durable();
    subscriber(&broker, &connect).disconnect();
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    for (text, expiry) in [("short", Some(1)), ("long", Some(1000)), ("endless", None)] {
        let mut publish = Publish::new("t/1", text).qos(1, 0);
        if let Some(expiry) = expiry {
            publish = publish.properties(Properties::new().four(MESSAGE_EXPIRY, expiry));
        }
        publisher.publish_packet(publish);
    }
    // Time must pass here: it is what is tested.
    std::thread::sleep(Duration::from_millis(2100));
    let mut client = subscriber(&broker, &connect);
    let long = client.receive_and_acknowledge();
    assert_eq!(long.text(), "long");
    let left = long.properties.number(MESSAGE_EXPIRY).expect("[MQTT-3.3.2-6]");
    assert!((900..=998).contains(&left), "{left} s are left");
    let endless = client.receive_and_acknowledge();
    assert_eq!((endless.text().as_str(), endless.properties.list().len()), ("endless", 0));
    assert_eq!(messages(&client.fence_through(&mut publisher, 1)), [""; 0]);
    broker.stop();
}
