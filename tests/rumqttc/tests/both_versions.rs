//! What 3.1.1 and MQTT 5 have in common, through both halves of rumqttc.

use ringlane_rumqttc_tests::broker::Broker;
use ringlane_rumqttc_tests::{Connection, Message};

fn message(topic: &str, payload: &str, qos: u8) -> Message {
    Message { topic: topic.into(), payload: payload.into(), qos, retain: false }
}

macro_rules! suite {
    ($version:ident) => {
        mod $version {
            use super::{Broker, Connection, message};
            use ringlane_rumqttc_tests::$version::Client;

            #[tokio::test]
            async fn every_pair_of_qos() {
                let broker = Broker::start();
                let mut publisher = Client::connect(broker.port, Connection::new("p")).await;
                let mut subscriber = Client::connect(broker.port, Connection::new("s")).await;
                for granted in 0..3 {
                    let topic = format!("granted/{granted}");
                    assert_eq!(subscriber.subscribe(&topic, granted).await, granted);
                    for qos in 0..3 {
                        publisher.publish(&topic, "x", qos, false).await;
                        assert_eq!(
                            subscriber.receive().await,
                            message(&topic, "x", qos.min(granted))
                        );
                    }
                }
                broker.stop();
            }

            #[tokio::test]
            async fn many_in_flight_stay_in_order() {
                let broker = Broker::start();
                let mut publisher = Client::connect(broker.port, Connection::new("p")).await;
                let mut subscriber = Client::connect(broker.port, Connection::new("s")).await;
                for qos in 0..3 {
                    let topic = format!("order/{qos}");
                    subscriber.subscribe(&topic, qos).await;
                    for number in 0..500 {
                        publisher.send(&topic, &number.to_string(), qos, false).await;
                    }
                    for number in 0..500 {
                        let expected = message(&topic, &number.to_string(), qos);
                        assert_eq!(subscriber.receive().await, expected);
                    }
                    for _ in 0..500 {
                        publisher.published(qos).await;
                    }
                }
                broker.stop();
            }

            #[tokio::test]
            async fn large_payloads() {
                let broker = Broker::start();
                let mut client = Client::connect(broker.port, Connection::new("c")).await;
                client.subscribe("large", 1).await;
                for size in [0, 127, 128, 16_383, 16_384, 900_000] {
                    let payload = "abcdefg".repeat(size / 7 + 1)[..size].to_owned();
                    client.publish("large", &payload, 1, false).await;
                    assert_eq!(client.receive().await, message("large", &payload, 1));
                }
                broker.stop();
            }

            #[tokio::test]
            async fn retained_messages() {
                let broker = Broker::start();
                let mut publisher = Client::connect(broker.port, Connection::new("p")).await;
                publisher.publish("kept/a", "first", 1, true).await;
                publisher.publish("kept/a", "second", 2, true).await;
                let mut subscriber = Client::connect(broker.port, Connection::new("s")).await;
                subscriber.subscribe("kept/#", 2).await;
                let mut expected = message("kept/a", "second", 2);
                expected.retain = true;
                assert_eq!(subscriber.receive().await, expected);
                publisher.publish("kept/a", "", 1, true).await;
                assert_eq!(subscriber.receive().await, message("kept/a", "", 1));
                let mut late = Client::connect(broker.port, Connection::new("late")).await;
                late.subscribe("kept/#", 1).await;
                publisher.publish("kept/b", "live", 1, false).await;
                assert_eq!(late.receive().await, message("kept/b", "live", 1));
                broker.stop();
            }

            #[tokio::test]
            async fn will_and_normal_disconnect() {
                let broker = Broker::start();
                let mut witness = Client::connect(broker.port, Connection::new("witness")).await;
                witness.subscribe("will/+", 1).await;
                for (client_id, killed) in [("quiet", false), ("loud", true)] {
                    let mut connection = Connection::new(client_id);
                    connection.will = Some((format!("will/{client_id}"), "gone".into()));
                    let client = Client::connect(broker.port, connection).await;
                    if killed {
                        client.kill().await;
                    } else {
                        client.disconnect().await;
                    }
                }
                assert_eq!(witness.receive().await, message("will/loud", "gone", 1));
                broker.stop();
            }

            #[tokio::test]
            async fn a_session_waits_and_sends_again() {
                let broker = Broker::start();
                let mut publisher = Client::connect(broker.port, Connection::new("p")).await;
                let mut keeping = Connection::new("session");
                keeping.keep_session = true;
                keeping.manual_acks = true;
                let mut first = Client::connect(broker.port, keeping.clone()).await;
                assert!(!first.session_present);
                first.subscribe("waiting", 1).await;
                publisher.publish("waiting", "seen, not acknowledged", 1, false).await;
                assert!(!first.packet().await.dup);
                first.kill().await;
                publisher.publish("waiting", "missed", 1, false).await;
                let mut second = Client::connect(broker.port, keeping).await;
                assert!(second.session_present);
                let again = second.packet().await;
                assert!(again.dup, "sent again with DUP [MQTT-3.3.1-1]");
                assert_eq!(&again.payload[..], b"seen, not acknowledged");
                // It may carry DUP: the broker may have sent it before it saw the first connection's end.
                let missed = second.packet().await;
                assert_eq!(&missed.payload[..], b"missed");
                second.ack(&again).await;
                second.ack(&missed).await;
                broker.stop();
            }

            #[tokio::test]
            async fn unsubscribe_ends_delivery() {
                let broker = Broker::start();
                let mut client = Client::connect(broker.port, Connection::new("c")).await;
                client.subscribe("a", 1).await;
                client.subscribe("b", 1).await;
                client.unsubscribe("a").await;
                client.publish("a", "no", 1, false).await;
                client.publish("b", "yes", 1, false).await;
                assert_eq!(client.receive().await, message("b", "yes", 1));
                broker.stop();
            }
        }
    };
}

suite!(v3);
suite!(v5);
