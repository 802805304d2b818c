//! What only MQTT 5 has.

use bytes::Bytes;
use ringlane_rumqttc_tests::Connection;
use ringlane_rumqttc_tests::broker::Broker;
use ringlane_rumqttc_tests::v5::Client;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{DisconnectReasonCode, Filter, PublishProperties};
use rumqttc::v5::{ConnectionError, StateError};

#[tokio::test]
async fn properties_are_forwarded() {
    let broker = Broker::start();
    let mut subscriber = Client::connect(broker.port, Connection::new("s")).await;
    subscriber.subscribe_with(Filter::new("topic", QoS::AtLeastOnce), 12).await;
    let mut publisher = Client::connect(broker.port, Connection::new("p")).await;
    let sent = PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: None,
        topic_alias: None,
        response_topic: Some("re".into()),
        correlation_data: Some(Bytes::from_static(&[0, 1, 255])),
        user_properties: vec![("b".into(), "1".into()), ("a".into(), "2".into())],
        subscription_identifiers: Vec::new(),
        content_type: Some("text/plain".into()),
    };
    publisher.publish_with("topic", "x", sent.clone()).await;
    let mut expected = sent;
    expected.subscription_identifiers = vec![12];
    assert_eq!(subscriber.packet().await.properties, Some(expected));
    broker.stop();
}

#[tokio::test]
async fn takeover_names_its_reason() {
    let broker = Broker::start();
    let mut older = Client::connect(broker.port, Connection::new("same")).await;
    let mut newer = Client::connect(broker.port, Connection::new("same")).await;
    match older.events.end().await {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            assert_eq!(reason_code, DisconnectReasonCode::SessionTakenOver);
        }
        other => panic!("[MQTT-3.1.4-3] asks for DISCONNECT 0x8E, not {other:?}"),
    }
    newer.publish("alive", "x", 1, false).await;
    broker.stop();
}

#[tokio::test]
async fn receive_maximum_holds() {
    let broker = Broker::start();
    let mut connection = Connection::new("slow");
    connection.manual_acks = true;
    connection.receive_maximum = Some(3);
    let mut slow = Client::connect(broker.port, connection).await;
    slow.subscribe("limited", 1).await;
    slow.subscribe("free", 0).await;
    let mut publisher = Client::connect(broker.port, Connection::new("p")).await;
    for number in 0..9 {
        publisher.publish("limited", &number.to_string(), 1, false).await;
    }
    for round in 0..3 {
        let mut window = Vec::new();
        for number in 0..3 {
            let publish = slow.packet().await;
            assert_eq!(&publish.payload[..], (3 * round + number).to_string().as_bytes());
            window.push(publish);
        }
        // QoS 0 is not limited: it shows that the broker had nothing more to send by now.
        publisher.publish("free", "fence", 0, false).await;
        assert_eq!(slow.receive().await.topic, "free");
        for publish in &window {
            slow.ack(publish).await;
        }
    }
    broker.stop();
}

#[tokio::test]
async fn a_shared_subscription_delivers_once() {
    let broker = Broker::start();
    let mut members = Vec::new();
    for index in 0..2 {
        let mut member = Client::connect(broker.port, Connection::new(format!("m{index}"))).await;
        assert_eq!(member.subscribe("$share/group/work/+", 1).await, 1);
        members.push(member);
    }
    let mut publisher = Client::connect(broker.port, Connection::new("p")).await;
    for number in 0..100 {
        publisher.publish("work/x", &number.to_string(), 1, false).await;
    }
    // One more for each member, by a filter of its own, marks the end of its part.
    let mut seen = Vec::new();
    for (index, member) in members.iter_mut().enumerate() {
        let end = format!("end/{index}");
        member.subscribe(&end, 1).await;
        publisher.publish(&end, "", 1, false).await;
        let mut part = 0;
        loop {
            let message = member.receive().await;
            if message.topic == end {
                break;
            }
            seen.push(String::from_utf8(message.payload).expect("digits"));
            part += 1;
        }
        assert!(part >= 10, "member {index} got {part} of 100");
    }
    seen.sort_by_key(|text| text.parse::<u32>().expect("digits"));
    assert_eq!(seen, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    broker.stop();
}

#[tokio::test]
async fn no_local() {
    let broker = Broker::start();
    let mut one = Client::connect(broker.port, Connection::new("one")).await;
    let mut filter = Filter::new("topic", QoS::AtLeastOnce);
    filter.nolocal = true;
    one.subscribe_with(filter, 1).await;
    let mut other = Client::connect(broker.port, Connection::new("other")).await;
    one.publish("topic", "mine", 1, false).await;
    other.publish("topic", "theirs", 1, false).await;
    assert_eq!(one.receive().await.payload, b"theirs");
    broker.stop();
}

#[tokio::test]
async fn the_server_says_that_it_stops() {
    let broker = Broker::start();
    let mut client = Client::connect(broker.port, Connection::new("c")).await;
    broker.stop();
    match client.events.end().await {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            assert_eq!(reason_code, DisconnectReasonCode::ServerShuttingDown);
        }
        other => panic!("expected DISCONNECT 0x8B, not {other:?}"),
    }
}
