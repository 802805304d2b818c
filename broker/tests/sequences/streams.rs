//! Q20: where the segments of a TCP stream end means nothing.

use crate::on_both_transports;
use crate::support::packets::{PINGREQ, acknowledge, disconnect, subscribe, unsubscribe};
use crate::support::properties::{CONTENT_TYPE, MESSAGE_EXPIRY, SUBSCRIPTION_ID};
use crate::support::{
    Broker, Client, Connect, Kind, Packet, Properties, Publish, Received, Transport, Version, Will,
};

on_both_transports!(
    q20_every_packet_may_come_byte_by_byte,
    q20_a_hundred_packets_may_come_in_one_segment,
);

/// Every type of packet that a client may send, up to its DISCONNECT.
fn conversation(version: Version) -> Vec<Vec<u8>> {
    let connect = Connect::new(version, "talker").will(Will::new("wills/talker", "gone"));
    let mut properties = Properties::new();
    let mut subscription = Properties::new();
    if version.is_v5() {
        properties = properties.string(CONTENT_TYPE, "text/plain").four(MESSAGE_EXPIRY, 3600);
        properties = properties.pair("name", "value");
        subscription = subscription.variable(SUBSCRIPTION_ID, 200);
    }
    let publish = |text: &str, qos, id| {
        Publish::new("t/1", text).qos(qos, id).properties(properties.clone()).encode(version)
    };
    vec![
        connect.encode(),
        subscribe(version, 1, &[("t/+", 0), ("other/#", 1)], &subscription),
        publish("zero", 0, 0),
        publish("one", 1, 2),
        publish("two", 2, 3),
        acknowledge(Kind::Pubrel, 3),
        publish(&"large".repeat(1000), 1, 4),
        PINGREQ.to_vec(),
        unsubscribe(version, 5, &["other/#", "t/+"]),
        publish("unseen", 1, 6),
        disconnect(),
    ]
}

/// What comes back: acknowledgements in order, messages in order.
fn transcript(broker: &Broker, version: Version, pieces: &[&[u8]]) -> (Vec<Packet>, Vec<Packet>) {
    let mut client = Client::open(broker.tcp, version);
    for piece in pieces {
        client.send(piece);
    }
    let packets = client.expect_closed();
    packets.into_iter().partition(|packet| packet.kind() == Kind::Publish)
}

fn q20_every_packet_may_come_byte_by_byte(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut watcher = Client::plain(broker.tcp, version, "watcher");
        watcher.subscribe("wills/#", 0);
        let stream = conversation(version).concat();
        let by_byte: Vec<&[u8]> = stream.chunks(1).collect();
        let by_seven: Vec<&[u8]> = stream.chunks(7).collect();
        let whole = transcript(&broker, version, &[&stream]);
        let kinds: Vec<Kind> = whole.1.iter().map(Packet::kind).collect();
        let expected = [
            Kind::Connack,
            Kind::Suback,
            Kind::Puback,
            Kind::Pubrec,
            Kind::Pubcomp,
            Kind::Puback,
            Kind::Pingresp,
            Kind::Unsuback,
            Kind::Puback,
        ];
        assert_eq!(kinds, expected);
        let texts: Vec<String> = whole.0.iter().map(|packet| packet.publish().text()).collect();
        assert_eq!(texts, ["zero", "one", "two", &"large".repeat(1000)]);
        for pieces in [by_byte, by_seven] {
            assert_eq!(transcript(&broker, version, &pieces), whole);
        }
        watcher.expect_nothing();
    }
    broker.stop();
}

fn q20_a_hundred_packets_may_come_in_one_segment(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut subscriber = Client::plain(broker.tcp, version, "subscriber");
        assert_eq!(subscriber.subscribe("t/+", 2), 2);
        let mut publisher = Client::plain(broker.tcp, version, "publisher");
        let mut segment = Vec::new();
        for id in 1..=100u16 {
            let publish = Publish::new("t/1", id.to_string()).qos((id % 2) as u8 + 1, id);
            segment.extend(publish.encode(version));
        }
        publisher.send(&segment);
        for id in 1..=100u16 {
            let kind = if id % 2 == 0 { Kind::Puback } else { Kind::Pubrec };
            assert_eq!(publisher.expect(kind).id(), id, "[MQTT-4.6.0-2]");
        }
        let mut segment = Vec::new();
        for id in (1..=100u16).step_by(2) {
            segment.extend(acknowledge(Kind::Pubrel, id));
        }
        publisher.send(&segment);
        for id in (1..=100u16).step_by(2) {
            assert_eq!(publisher.expect(Kind::Pubcomp).id(), id);
        }
        let received: Vec<Received> =
            (0..100).map(|_| subscriber.receive_and_acknowledge()).collect();
        for qos in [1, 2] {
            let of_qos = received.iter().filter(|it| it.qos == qos).map(Received::text);
            let expected = (1..=100u16).filter(|id| id % 2 == u16::from(qos == 2));
            let expected: Vec<String> = expected.map(|id| id.to_string()).collect();
            assert_eq!(of_qos.collect::<Vec<_>>(), expected, "[MQTT-4.6.0-6]");
        }
        subscriber.expect_nothing();
    }
    broker.stop();
}
