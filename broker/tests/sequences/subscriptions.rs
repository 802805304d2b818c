//! Q10, Q14, Q17, Q18: subscriptions and what they match.

use super::{expect_text, messages};
use crate::support::{
    Broker, Client, Connect, Kind, Options, Properties, Publish, Transport, Version, packets,
};

on_both_transports!(
    q10_mqtt_3_8_4_3_a_subscription_is_replaced_without_a_loss,
    q10_mqtt_3_8_4_3_a_replaced_subscription_gets_retained_messages_again,
    q14_mqtt_4_7_2_1_leading_wildcards_do_not_match_dollar_topics,
    q17_mqtt_4_8_2_4_a_member_finishes_its_qos_2_message,
    q17_mqtt_4_8_2_6_a_refused_message_goes_to_nobody_else,
    q18_mqtt_3_8_4_5_a_thousand_filters_get_their_codes_in_order,
);

/// Also v5 [MQTT-3.8.4-4]: each message once and in order, whatever is replaced meanwhile.
fn q10_mqtt_3_8_4_3_a_subscription_is_replaced_without_a_loss(transport: Transport) {
    const ROUNDS: u16 = 50;
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut client = Client::plain(broker.tcp, version, "subscriber");
        assert_eq!(client.subscribe("t/1", 0), 0);
        let mut publisher = Client::plain(broker.tcp, version, "publisher");
        for round in 0..ROUNDS {
            let text = |half: u16| (2 * round + half).to_string();
            let qos = (round % 3) as u8;
            publisher.send_publish(&Publish::new("t/1", text(0)).qos(1, 2 * round + 1));
            client.send(&packets::subscribe(version, round + 100, &[("t/1", qos)], &no_options()));
            publisher.send_publish(&Publish::new("t/1", text(1)).qos(1, 2 * round + 2));
            assert_eq!(client.read_kind(Kind::Suback).codes(), [qos]);
            publisher.expect(Kind::Puback);
            publisher.expect(Kind::Puback);
            expect_text(&mut client, &text(0));
            expect_text(&mut client, &text(1));
            publisher.publish("t/1", "after", 2);
            let after = client.receive_and_acknowledge();
            assert_eq!((after.text().as_str(), after.qos), ("after", qos));
        }
        assert_eq!(client.fence_through(&mut publisher, 1), []);
    }
    broker.stop();
}

fn no_options() -> Properties {
    Properties::new()
}

fn q10_mqtt_3_8_4_3_a_replaced_subscription_gets_retained_messages_again(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut publisher = Client::plain(broker.tcp, version, "publisher");
        publisher.publish_packet(Publish::new("kept/1", "retained").qos(1, 0).retain());
        let mut client = Client::plain(broker.tcp, version, "subscriber");
        for qos in [1, 0, 1] {
            assert_eq!(client.subscribe("kept/+", qos), qos);
            let received = client.receive_and_acknowledge();
            assert_eq!((received.retain, received.qos), (true, qos));
            assert_eq!(received.text(), "retained");
        }
        assert_eq!(client.fence_through(&mut publisher, 1), []);
    }
    broker.stop();
}

fn q14_mqtt_4_7_2_1_leading_wildcards_do_not_match_dollar_topics(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut wild = Client::plain(broker.tcp, version, "wild");
        for filter in ["#", "+/x", "+/#", "+/+"] {
            assert_eq!(wild.subscribe(filter, 1), 1);
        }
        let mut named = Client::plain(broker.tcp, version, "named");
        assert_eq!(named.subscribe("$ringlane-test/+", 1), 1);
        let mut publisher = Client::plain(broker.tcp, version, "publisher");
        // A server may keep $SYS to itself, so that only an answer is awaited for it.
        publisher.send_publish(&Publish::new("$SYS/x", "").qos(1, 999));
        publisher.expect(Kind::Puback);
        publisher.publish_packet(Publish::new("$ringlane-test/x", "seen").qos(1, 0));
        expect_text(&mut named, "seen");
        publisher.publish("plain/x", "the end", 1);
        let first = wild.receive_and_acknowledge();
        assert_eq!(first.topic, "plain/x", "[MQTT-4.7.2-1]");
    }
    broker.stop();
}

/// A member of a shared group with a session that outlives its connection.
fn member(broker: &Broker, name: &str) -> Client {
    let mut client = Client::connect(broker.tcp, &Connect::new(Version::V5, name).durable());
    if !client.connack().session_present() {
        assert_eq!(client.subscribe("$share/group/t/#", 2), 2);
    }
    client
}

/// At both stages: before its PUBREC, and before its PUBCOMP. The other member gets neither.
fn q17_mqtt_4_8_2_4_a_member_finishes_its_qos_2_message(transport: Transport) {
    let broker = Broker::on(transport);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    let mut first = member(&broker, "first");
    publisher.publish("t/1", "published", 2);
    publisher.publish("t/1", "released", 2);
    let published = first.receive();
    let released = first.receive();
    first.acknowledge(Kind::Pubrec, released.id);
    assert_eq!(first.expect(Kind::Pubrel).id(), released.id);
    let mut second = member(&broker, "second");
    first.reset();
    broker.wait_until_sockets_are(2);
    publisher.publish("t/1", "while one is away", 2);
    expect_text(&mut second, "while one is away");
    assert_eq!(second.fence_through(&mut publisher, 2), [], "[MQTT-4.8.2-4]");

    let mut first = member(&broker, "first");
    assert!(first.connack().session_present());
    let mut again = [first.read(), first.read()];
    again.sort_by_key(|packet| packet.kind() == Kind::Pubrel);
    let received = again[0].publish();
    assert_eq!((received.text().as_str(), received.dup), ("published", true));
    assert_eq!((received.id, again[1].id()), (published.id, released.id));
    first.finish(&received);
    first.acknowledge(Kind::Pubcomp, released.id);
    first.expect_nothing();
    second.expect_nothing();
    broker.stop();
}

/// PUBACK and PUBREC with an error code end the delivery.
fn q17_mqtt_4_8_2_6_a_refused_message_goes_to_nobody_else(transport: Transport) {
    let broker = Broker::on(transport);
    let mut publisher = Client::plain(broker.tcp, Version::V5, "publisher");
    let mut first = member(&broker, "first");
    publisher.publish("t/1", "one", 1);
    publisher.publish("t/1", "two", 2);
    let (one, two) = (first.receive(), first.receive());
    assert_eq!((one.qos, two.qos), (1, 2));
    let mut second = member(&broker, "second");
    first.send(&packets::acknowledge_with(Kind::Puback, one.id, 0x80));
    first.send(&packets::acknowledge_with(Kind::Pubrec, two.id, 0x97));
    assert_eq!(first.fence_through(&mut publisher, 1), []);
    first.reset();
    broker.wait_until_sockets_are(2);
    publisher.publish("t/1", "next", 1);
    expect_text(&mut second, "next");
    assert_eq!(second.fence_through(&mut publisher, 1), [], "[MQTT-4.8.2-6]");
    let mut first = member(&broker, "first");
    assert_eq!(messages(&first.fence_through(&mut publisher, 1)), [""; 0]);
    broker.stop();
}

/// Also [MQTT-3.9.3-1]. Filters above the limits are refused one by one: beyond 128 levels, and
/// beyond the number of subscriptions.
fn q18_mqtt_3_8_4_5_a_thousand_filters_get_their_codes_in_order(transport: Transport) {
    const LIMIT: usize = 980;
    let config = format!("[mqtt]\nmax_subscriptions = {LIMIT}\nmax_topic_levels = 16");
    let broker = Broker::start(&Options::new(transport).config(&config));
    for version in Version::BOTH {
        let mut client = Client::plain(broker.tcp, version, "subscriber");
        let names: Vec<String> = (0..1000)
            .map(|index| match index % 100 {
                50 => format!("deep/{index}{}", "/x".repeat(30)),
                _ => format!("plain/{index}"),
            })
            .collect();
        let qos = |index: usize| (index % 3) as u8;
        let filters: Vec<(&str, u8)> =
            names.iter().enumerate().map(|(index, name)| (name.as_str(), qos(index))).collect();
        let codes = client.subscribe_all(&filters, &Properties::new());
        assert_eq!(codes.len(), 1000, "[MQTT-3.8.4-5]");
        let mut taken = 0;
        for (index, code) in codes.iter().enumerate() {
            let refused: &[u8] = match (index % 100, version.is_v5()) {
                (50, true) => &[0x8f, 0x97],
                (50, false) => &[0x80],
                (_, true) if taken >= LIMIT => &[0x97],
                (_, false) if taken >= LIMIT => &[0x80],
                _ => &[],
            };
            if refused.is_empty() {
                taken += 1;
                assert_eq!(*code, qos(index), "filter {index}");
            } else {
                assert!(refused.contains(code), "filter {index} got {code:#x}");
            }
        }
        assert_eq!(taken, LIMIT);
        client.expect_nothing();
    }
    broker.stop();
}
