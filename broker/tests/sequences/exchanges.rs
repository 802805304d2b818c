//! Q05 to Q07, Q15: exchanges that a publisher repeats.

use super::expect_text;
use crate::support::properties::TOPIC_ALIAS;
use crate::support::{Broker, Client, Connect, Kind, Properties, Publish, Transport, Version};

on_both_transports!(
    q05_mqtt_4_3_3_10_a_repeated_qos_2_publish_is_delivered_once,
    q05_mqtt_4_3_3_10_a_repetition_after_a_reconnect_is_delivered_once,
    q06_mqtt_4_3_3_12_an_identifier_after_pubcomp_is_a_new_message,
    q07_mqtt_4_3_2_5_an_identifier_after_puback_is_a_new_message,
    q15_mqtt_3_3_2_7_an_alias_ends_with_its_connection,
);

fn subscriber_and_publisher(broker: &Broker, version: Version) -> (Client, Client) {
    let mut subscriber = Client::plain(broker.tcp, version, &format!("sub-{version:?}"));
    assert_eq!(subscriber.subscribe("t/+", 2), 2);
    let name = format!("pub-{version:?}");
    let publisher = Client::connect(broker.tcp, &Connect::new(version, &name).durable());
    (subscriber, publisher)
}

fn expect_ack(client: &mut Client, kind: Kind, id: u16) {
    let packet = client.expect(kind);
    assert_eq!(packet.id(), id);
    assert!(packet.reason() < 0x80, "{packet:?}");
}

/// Also [MQTT-4.3.3-2] of 3.1.1: PUBREC each time.
fn q05_mqtt_4_3_3_10_a_repeated_qos_2_publish_is_delivered_once(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let (mut subscriber, mut publisher) = subscriber_and_publisher(&broker, version);
        let publish = Publish::new("t/1", "once").qos(2, 7);
        publisher.send_publish(&publish);
        expect_ack(&mut publisher, Kind::Pubrec, 7);
        for _ in 0..3 {
            publisher.send_publish(&publish.clone().dup());
            expect_ack(&mut publisher, Kind::Pubrec, 7);
        }
        for _ in 0..2 {
            publisher.acknowledge(Kind::Pubrel, 7);
            let pubcomp = publisher.expect(Kind::Pubcomp);
            assert_eq!(pubcomp.id(), 7, "[MQTT-4.3.3-11]");
        }
        expect_text(&mut subscriber, "once");
        assert_eq!(subscriber.fence_through(&mut publisher, 2), []);
    }
    broker.stop();
}

/// The identifier belongs to the session and not to the connection [MQTT-4.4.0-1].
fn q05_mqtt_4_3_3_10_a_repetition_after_a_reconnect_is_delivered_once(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let (mut subscriber, mut publisher) = subscriber_and_publisher(&broker, version);
        let publish = Publish::new("t/1", "once").qos(2, 7);
        publisher.send_publish(&publish);
        expect_ack(&mut publisher, Kind::Pubrec, 7);
        publisher.reset();
        let connect = Connect::new(version, &format!("pub-{version:?}")).durable();
        let mut publisher = Client::connect(broker.tcp, &connect);
        assert!(publisher.connack().session_present(), "[MQTT-3.2.2-2]");
        publisher.send_publish(&publish.dup());
        expect_ack(&mut publisher, Kind::Pubrec, 7);
        publisher.acknowledge(Kind::Pubrel, 7);
        expect_ack(&mut publisher, Kind::Pubcomp, 7);
        expect_text(&mut subscriber, "once");
        assert_eq!(subscriber.fence_through(&mut publisher, 2), []);
    }
    broker.stop();
}

/// Also [MQTT-4.3.3-2] of 3.1.1.
fn q06_mqtt_4_3_3_12_an_identifier_after_pubcomp_is_a_new_message(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let (mut subscriber, mut publisher) = subscriber_and_publisher(&broker, version);
        for text in ["first", "second", "third"] {
            publisher.send_publish(&Publish::new("t/1", text).qos(2, 9));
            expect_ack(&mut publisher, Kind::Pubrec, 9);
            publisher.acknowledge(Kind::Pubrel, 9);
            expect_ack(&mut publisher, Kind::Pubcomp, 9);
            expect_text(&mut subscriber, text);
        }
        assert_eq!(subscriber.fence_through(&mut publisher, 2), []);
    }
    broker.stop();
}

/// Also [MQTT-4.3.2-2] of 3.1.1. DUP from the publisher says nothing, and is not passed on
/// [MQTT-3.3.1-3].
fn q07_mqtt_4_3_2_5_an_identifier_after_puback_is_a_new_message(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let (mut subscriber, mut publisher) = subscriber_and_publisher(&broker, version);
        for _ in 0..3 {
            publisher.send_publish(&Publish::new("t/1", "again").qos(1, 3).dup());
            expect_ack(&mut publisher, Kind::Puback, 3);
            let received = subscriber.receive_and_acknowledge();
            assert_eq!((received.text().as_str(), received.dup), ("again", false));
        }
        assert_eq!(subscriber.fence_through(&mut publisher, 1), []);
    }
    broker.stop();
}

/// The answer is a protocol error, 0x82 (section 3.3.2.3.4).
fn q15_mqtt_3_3_2_7_an_alias_ends_with_its_connection(transport: Transport) {
    let broker = Broker::on(transport);
    let (mut subscriber, mut publisher) = subscriber_and_publisher(&broker, Version::V5);
    let alias = Properties::new().two(TOPIC_ALIAS, 1);
    publisher.send_publish(&Publish::new("t/1", "named").properties(alias.clone()));
    publisher.send_publish(&Publish::new("", "by its alias").properties(alias.clone()));
    expect_text(&mut subscriber, "named");
    let received = subscriber.receive_and_acknowledge();
    assert_eq!((received.topic.as_str(), received.text().as_str()), ("t/1", "by its alias"));
    publisher.disconnect();
    let connect = Connect::new(Version::V5, "pub-V5").durable();
    let mut publisher = Client::connect(broker.tcp, &connect);
    assert!(publisher.connack().session_present());
    publisher.send_publish(&Publish::new("", "no alias").properties(alias));
    let last = publisher.expect_closed();
    let is_error = |reason| [0x82].contains(&reason);
    assert!(last.iter().all(|packet| is_error(packet.reason())) && last.len() <= 1, "{last:?}");
    let mut publisher = Client::plain(broker.tcp, Version::V5, "other");
    assert_eq!(subscriber.fence_through(&mut publisher, 0), []);
    broker.stop();
}
