//! Q20: where the segments of a TCP stream end means nothing.

use crate::support::packets::{PINGREQ, acknowledge, disconnect, subscribe, unsubscribe};
use crate::support::properties::{CONTENT_TYPE, MESSAGE_EXPIRY, SUBSCRIPTION_ID};
use crate::support::{
    Broker, Client, Connect, Kind, Packet, Properties, Publish, Received, Transport, Version, Will,
};

on_both_transports!(
    q20_every_packet_may_come_byte_by_byte,
    q20_a_hundred_packets_may_come_in_one_segment,
    q20_what_stands_behind_connect_in_its_segment_is_processed,
    q20_mqtt_4_3_2_4_publishes_before_a_disconnect_in_the_same_segment_are_answered,
);

/// Every type of packet that a client may send, in steps of what it may send at once, each with the
/// types of the packets that are to come back.
fn conversation(version: Version) -> Vec<(Vec<u8>, Vec<Kind>)> {
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
    let filters = [("t/+", 0), ("other/#", 1)];
    let subscribe = subscribe(version, 1, &filters, &subscription);
    let publishes = [
        publish("zero", 0, 0),
        publish("one", 1, 2),
        publish("two", 2, 3),
        publish(&"large".repeat(1000), 1, 4),
    ];
    let unsubscribe = unsubscribe(version, 5, &["other/#", "t/+"]);
    let release = [acknowledge(Kind::Pubrel, 3), PINGREQ.to_vec(), unsubscribe];
    use Kind::{Connack, Pingresp, Puback, Pubcomp, Pubrec, Suback, Unsuback};
    vec![
        ([connect.encode(), subscribe].concat(), vec![Connack, Suback]),
        (publishes.concat(), [&[Kind::Publish; 4][..], &[Puback, Puback, Pubrec]].concat()),
        (release.concat(), vec![Pubcomp, Unsuback, Pingresp]),
        (publish("unseen", 1, 6), vec![Puback]),
        (disconnect(), vec![]),
    ]
}

/// What comes back, step by step, when the stream is sent in pieces of this size.
fn transcript(broker: &Broker, version: Version, size: usize) -> Vec<Vec<Packet>> {
    let mut client = Client::open(broker.tcp, version);
    let mut steps = Vec::new();
    for (bytes, kinds) in conversation(version) {
        bytes.chunks(size).for_each(|piece| client.send(piece));
        let mut packets: Vec<Packet> = kinds.iter().map(|_| client.read()).collect();
        packets.sort_by_key(Packet::encode);
        let mut found: Vec<u8> = packets.iter().map(|packet| packet.kind() as u8).collect();
        let mut expected: Vec<u8> = kinds.iter().map(|kind| *kind as u8).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{packets:?}");
        steps.push(packets);
    }
    assert_eq!(client.expect_closed(), []);
    steps
}

fn q20_every_packet_may_come_byte_by_byte(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut watcher = Client::plain(broker.tcp, version, "watcher");
        watcher.subscribe("wills/#", 0);
        let whole = transcript(&broker, version, usize::MAX);
        for size in [1, 7] {
            assert_eq!(transcript(&broker, version, size), whole, "pieces of {size} bytes");
        }
        watcher.expect_nothing();
    }
    broker.stop();
}

/// Also [MQTT-4.3.3-8]: what a message is owed does not depend on where the segment ends that
/// brings DISCONNECT.
fn q20_mqtt_4_3_2_4_publishes_before_a_disconnect_in_the_same_segment_are_answered(
    transport: Transport,
) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut watcher = Client::plain(broker.tcp, version, "watcher");
        assert_eq!(watcher.subscribe("t/+", 1), 1);
        let segment = [
            Connect::new(version, "brief").encode(),
            Publish::new("t/1", "one").qos(1, 1).encode(version),
            Publish::new("t/1", "two").qos(1, 2).encode(version),
            Publish::new("t/1", "three").qos(2, 3).encode(version),
            disconnect(),
        ];
        let mut client = Client::open(broker.tcp, version);
        client.send(&segment.concat());
        let packets = client.expect_closed();
        let kinds: Vec<Kind> = packets.iter().map(Packet::kind).collect();
        assert_eq!(kinds, [Kind::Connack, Kind::Puback, Kind::Puback, Kind::Pubrec]);
        for text in ["one", "two"] {
            assert_eq!(watcher.receive_and_acknowledge().text(), text);
        }
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

/// A client need not wait for CONNACK (section 3.1.4). The identifiers belong to both cores, so
/// that some connections move with these bytes.
fn q20_what_stands_behind_connect_in_its_segment_is_processed(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        for number in 0..16 {
            let connect = Connect::new(version, &format!("quick-{version:?}-{number}")).encode();
            let open = |behind: &[u8]| {
                let mut client = Client::open(broker.tcp, version);
                client.send(&[&connect[..], behind].concat());
                client
            };
            let mut pinging = open(&PINGREQ);
            pinging.expect(Kind::Connack);
            pinging.expect(Kind::Pingresp);
            let mut half = open(&PINGREQ[..1]);
            half.expect(Kind::Connack);
            pinging.expect_closed();
            half.send(&PINGREQ[1..]);
            half.expect(Kind::Pingresp);
            for behind in [connect.clone(), disconnect(), vec![0, 0], vec![0xc1, 0]] {
                let packets = open(&behind).expect_closed();
                assert_eq!(packets[0].kind(), Kind::Connack, "{packets:?}");
            }
            half.expect_closed();
            open(&[]).half_close();
            open(&disconnect()).reset();
        }
    }
    broker.wait_until_sockets_are(0);
    broker.stop();
}
