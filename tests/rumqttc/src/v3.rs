//! The 3.1.1 half of rumqttc.

use crate::events::Events;
use crate::{Connection, Message, PACKET_BYTES_MAX};
use rumqttc::mqttbytes::QoS;
use rumqttc::{
    AsyncClient, ConnectionError, Event, LastWill, MqttOptions, Packet, Publish,
    SubscribeReasonCode,
};
use tokio::sync::mpsc;

/// A connected client.
#[derive(Debug)]
pub struct Client {
    requests: AsyncClient,
    /// Whether CONNACK said that there was a session.
    pub session_present: bool,
    /// Everything that arrived and was not asked for yet.
    pub events: Events<Packet, ConnectionError>,
}

impl Client {
    /// Connects to a port of 127.0.0.1 and waits for CONNACK.
    pub async fn connect(port: u16, connection: Connection) -> Self {
        let (requests, mut event_loop) = AsyncClient::new(options(port, &connection), 1000);
        let (report, incoming) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                match event_loop.poll().await {
                    // A closed channel means that the test has ended.
                    Ok(Event::Incoming(packet)) => drop(report.send(Ok(packet))),
                    Ok(Event::Outgoing(_)) => {}
                    Err(error) => return drop(report.send(Err(error))),
                }
            }
        });
        let mut events = Events::new(incoming, task);
        let session_present = events
            .take("CONNACK", |packet| match packet {
                Packet::ConnAck(connack) => Some(connack.session_present),
                _ => None,
            })
            .await;
        Self { requests, session_present, events }
    }

    /// Subscribes and returns the granted QoS.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        self.requests.subscribe(filter, quality(qos)).await.expect("the client takes requests");
        self.granted().await
    }

    async fn granted(&mut self) -> u8 {
        self.events
            .take("SUBACK", |packet| match packet {
                Packet::SubAck(suback) => match suback.return_codes.first() {
                    Some(SubscribeReasonCode::Success(granted)) => Some(*granted as u8),
                    other => panic!("SUBACK {other:?}"),
                },
                _ => None,
            })
            .await
    }

    /// Unsubscribes and waits for UNSUBACK.
    pub async fn unsubscribe(&mut self, filter: &str) {
        self.requests.unsubscribe(filter).await.expect("the client takes requests");
        self.events
            .take("UNSUBACK", |packet| matches!(packet, Packet::UnsubAck(_)).then_some(()))
            .await;
    }

    /// Queues a PUBLISH; [`Client::published`] waits for its end.
    pub async fn send(&self, topic: &str, payload: &str, qos: u8, retain: bool) {
        self.requests
            .publish(topic, quality(qos), retain, payload.to_owned())
            .await
            .expect("the client takes requests");
    }

    /// Waits for the last packet of one hand-shake of QoS 1 or 2; QoS 0 has none.
    pub async fn published(&mut self, qos: u8) {
        if qos == 0 {
            return;
        }
        self.events
            .take("PUBACK or PUBCOMP", |packet| match packet {
                Packet::PubAck(_) | Packet::PubComp(_) => Some(()),
                _ => None,
            })
            .await;
    }

    /// Publishes and waits for the end of the hand-shake.
    pub async fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) {
        self.send(topic, payload, qos, retain).await;
        self.published(qos).await;
    }

    /// The next PUBLISH, as rumqttc gives it.
    pub async fn packet(&mut self) -> Publish {
        self.events
            .take("a message", |packet| match packet {
                Packet::Publish(publish) => Some(publish.clone()),
                _ => None,
            })
            .await
    }

    /// The next message.
    pub async fn receive(&mut self) -> Message {
        let publish = self.packet().await;
        Message {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
        }
    }

    /// Acknowledges a message of a client with manual acknowledgements.
    pub async fn ack(&self, publish: &Publish) {
        self.requests.ack(publish).await.expect("the client takes requests");
    }

    /// Sends DISCONNECT and waits for the end.
    pub async fn disconnect(mut self) {
        self.requests.disconnect().await.expect("the client takes requests");
        self.events.end().await;
    }

    /// Ends the connection without DISCONNECT.
    pub async fn kill(self) {
        self.events.kill().await;
    }
}

fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

fn options(port: u16, connection: &Connection) -> MqttOptions {
    let mut options = MqttOptions::new(&connection.client_id, "127.0.0.1", port);
    let bytes_max = PACKET_BYTES_MAX as usize;
    options
        .set_max_packet_size(bytes_max, bytes_max)
        .set_clean_session(!connection.keep_session)
        .set_manual_acks(connection.manual_acks);
    if let Some((topic, payload)) = &connection.will {
        options.set_last_will(LastWill::new(topic, payload.as_str(), QoS::AtLeastOnce, false));
    }
    options
}
