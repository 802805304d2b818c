//! Q01 to Q04, Q21, Q22: how connections end, and what becomes of their wills.

use crate::support::properties::{SESSION_EXPIRY, WILL_DELAY};
use crate::support::{
    Broker, Client, Connect, Kind, Packet, Properties, Publish, Transport, Version, Will, packets,
};

on_both_transports!(
    q01_mqtt_3_1_2_24_silence_beyond_the_keep_alive_ends_the_connection,
    q02_mqtt_3_1_4_2_a_second_connection_ends_the_first,
    q02_mqtt_3_1_3_9_a_takeover_keeps_a_delayed_will,
    q03_mqtt_3_1_2_8_a_reset_publishes_the_will,
    q03_mqtt_3_1_2_10_a_disconnect_removes_the_will,
    q03_mqtt_3_14_4_3_disconnect_with_will_publishes_it,
    q04_mqtt_3_1_3_9_the_session_end_publishes_a_will_with_a_longer_delay,
    q21_mqtt_3_1_2_8_fin_after_connect_publishes_the_will,
    q21_a_reset_inside_publish_publishes_the_will_alone,
    q21_what_came_before_a_half_close_is_processed,
    q22_proxy_protocol_is_refused_as_what_it_is_not,
);

/// A subscriber to `wills/#` and a client whose will goes there.
struct Pair {
    broker: Broker,
    watcher: Client,
    mortal: Client,
    version: Version,
}

impl Pair {
    fn new(transport: Transport, version: Version, change: fn(Connect) -> Connect) -> Self {
        let broker = Broker::on(transport);
        let mut watcher = Client::plain(broker.tcp, version, "watcher");
        assert_eq!(watcher.subscribe("wills/#", 1), 1);
        let connect = Connect::new(version, "mortal").will(Will::new("wills/mortal", "gone"));
        let mortal = Client::connect(broker.tcp, &change(connect));
        Self { broker, watcher, mortal, version }
    }

    fn expect_will(&mut self) {
        let will = self.watcher.receive_and_acknowledge();
        assert_eq!((will.topic.as_str(), will.text().as_str()), ("wills/mortal", "gone"));
    }

    fn expect_no_more_wills(&mut self) {
        let mut publisher = Client::plain(self.broker.tcp, self.version, "publisher");
        let before = self.watcher.fence_through(&mut publisher, 1);
        assert!(before.is_empty(), "{before:?}");
    }
}

/// A DISCONNECT of MQTT 5 with this code, or nothing.
fn is_notice(version: Version, packets: &[Packet], reason: u8) -> bool {
    match packets {
        [] => true,
        [packet] => {
            version.is_v5() && packet.kind() == Kind::Disconnect && packet.reason() == reason
        }
        _ => false,
    }
}

/// Also v5 [MQTT-3.1.2-22]; the will is [MQTT-3.1.2-8]. A keep alive of 0 has no limit.
fn q01_mqtt_3_1_2_24_silence_beyond_the_keep_alive_ends_the_connection(transport: Transport) {
    for version in Version::BOTH {
        let mut pair = Pair::new(transport, version, |connect| connect.keep_alive(1));
        let endless = Connect::new(version, "endless").keep_alive(0);
        let mut endless = Client::connect(pair.broker.tcp, &endless);
        let last = pair.mortal.expect_closed();
        assert!(is_notice(version, &last, 0x8d), "{last:?}");
        pair.expect_will();
        endless.expect_nothing();
        pair.expect_no_more_wills();
        pair.broker.stop();
    }
}

/// Also v5 [MQTT-3.1.4-3]: DISCONNECT with 0x8E. The will of the first is published
/// [MQTT-3.1.2-8]: its connection ended without a DISCONNECT of its own.
fn q02_mqtt_3_1_4_2_a_second_connection_ends_the_first(transport: Transport) {
    for version in Version::BOTH {
        let mut pair = Pair::new(transport, version, |connect| connect);
        let mut second = Client::plain(pair.broker.tcp, version, "mortal");
        let last = pair.mortal.expect_closed();
        assert!(is_notice(version, &last, 0x8e), "{last:?}");
        if version.is_v5() {
            assert_eq!(last.len(), 1, "a client of MQTT 5 is told why");
        }
        pair.expect_will();
        second.expect_nothing();
        pair.broker.stop();
    }
}

fn q02_mqtt_3_1_3_9_a_takeover_keeps_a_delayed_will(transport: Transport) {
    let mut pair = Pair::new(transport, Version::V5, |connect| {
        let mut connect = connect.durable();
        let delay = Properties::new().four(WILL_DELAY, 60);
        connect.will.as_mut().expect("a will").properties = delay;
        connect
    });
    let mut second =
        Client::connect(pair.broker.tcp, &Connect::new(Version::V5, "mortal").durable());
    assert!(second.connack().session_present());
    pair.mortal.expect_closed();
    pair.expect_no_more_wills();
    second.expect_nothing();
    pair.broker.stop();
}

fn q03_mqtt_3_1_2_8_a_reset_publishes_the_will(transport: Transport) {
    for version in Version::BOTH {
        let mut pair = Pair::new(transport, version, |connect| connect);
        let next = Client::open(pair.broker.tcp, version);
        std::mem::replace(&mut pair.mortal, next).reset();
        pair.expect_will();
        pair.expect_no_more_wills();
        pair.broker.stop();
    }
}

/// Also [MQTT-3.14.4-3] of 3.1.1 and MQTT 5 for the reason code 0x00, written and left out.
fn q03_mqtt_3_1_2_10_a_disconnect_removes_the_will(transport: Transport) {
    for (version, bytes) in [
        (Version::V311, packets::disconnect()),
        (Version::V5, packets::disconnect()),
        (Version::V5, packets::disconnect_with(0)),
    ] {
        let mut pair = Pair::new(transport, version, |connect| connect);
        pair.mortal.send(&bytes);
        assert_eq!(pair.mortal.expect_closed(), [], "[MQTT-3.14.4-1]");
        pair.expect_no_more_wills();
        pair.broker.stop();
    }
}

fn q03_mqtt_3_14_4_3_disconnect_with_will_publishes_it(transport: Transport) {
    let mut pair = Pair::new(transport, Version::V5, |connect| connect);
    pair.mortal.send(&packets::disconnect_with(0x04));
    pair.mortal.expect_closed();
    pair.expect_will();
    pair.expect_no_more_wills();
    pair.broker.stop();
}

/// Also [MQTT-3.1.2-8]: whichever of delay and session end comes first, and once.
fn q04_mqtt_3_1_3_9_the_session_end_publishes_a_will_with_a_longer_delay(transport: Transport) {
    for (expiry, reset) in [(1, true), (1, false), (0, true)] {
        let broker = Broker::on(transport);
        let mut watcher = Client::plain(broker.tcp, Version::V5, "watcher");
        watcher.subscribe("wills/#", 1);
        let mut will = Will::new("wills/mortal", "gone");
        will.properties = Properties::new().four(WILL_DELAY, 3600);
        let session = Properties::new().four(SESSION_EXPIRY, expiry);
        let connect = Connect::new(Version::V5, "mortal").properties(session).will(will);
        let mut mortal = Client::connect(broker.tcp, &connect);
        if reset {
            mortal.reset();
        } else {
            mortal.send(&packets::disconnect_with(0x04));
            mortal.expect_closed();
        }
        assert_eq!(watcher.receive_and_acknowledge().text(), "gone");
        let connect = Connect { clean: false, ..Connect::new(Version::V5, "mortal") };
        let mut next = Client::connect(broker.tcp, &connect);
        assert!(!next.connack().session_present(), "the session ended with its will");
        let before = watcher.fence_through(&mut next, 1);
        assert!(before.is_empty(), "{before:?}");
        broker.stop();
    }
}

fn q21_mqtt_3_1_2_8_fin_after_connect_publishes_the_will(transport: Transport) {
    for version in Version::BOTH {
        let mut pair = Pair::new(transport, version, |connect| connect);
        pair.mortal.half_close();
        assert_eq!(pair.mortal.expect_closed(), []);
        pair.expect_will();
        pair.expect_no_more_wills();
        pair.broker.stop();
    }
}

fn q21_a_reset_inside_publish_publishes_the_will_alone(transport: Transport) {
    for version in Version::BOTH {
        let mut pair = Pair::new(transport, version, |connect| connect);
        let bytes = Publish::new("wills/part", "never whole").encode(version);
        pair.mortal.send(&bytes[..bytes.len() - 1]);
        let next = Client::open(pair.broker.tcp, version);
        std::mem::replace(&mut pair.mortal, next).reset();
        pair.expect_will();
        pair.expect_no_more_wills();
        pair.broker.stop();
    }
}

fn q21_what_came_before_a_half_close_is_processed(transport: Transport) {
    for version in Version::BOTH {
        let mut pair = Pair::new(transport, version, |connect| connect);
        pair.mortal.send_publish(&Publish::new("wills/last", "words").qos(1, 7));
        pair.mortal.half_close();
        let last = pair.mortal.expect_closed();
        let is_puback = |packet: &Packet| packet.kind() == Kind::Puback && packet.id() == 7;
        assert!(last.iter().all(is_puback), "{last:?}");
        assert_eq!(pair.watcher.receive_and_acknowledge().text(), "words");
        pair.expect_will();
        pair.expect_no_more_wills();
        pair.broker.stop();
    }
}

/// PROXY protocol is not offered: neither form may pass as MQTT or change who the client is.
fn q22_proxy_protocol_is_refused_as_what_it_is_not(transport: Transport) {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let broker = Broker::on(transport);
    let connect = Connect::new(Version::V311, "behind-a-proxy").encode();
    for header in [
        b"PROXY TCP4 127.0.0.1 127.0.0.1 56324 1883\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        [SIGNATURE, &[0x20, 0x00, 0, 0]].concat(),
        [SIGNATURE, &[0x21, 0x11, 0, 12, 127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 7, 91]].concat(),
        [SIGNATURE, &[0x21, 0xf1, 0, 0]].concat(),
        [SIGNATURE, &[0x21, 0x11, 0xff, 0xff, 127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 7, 91, 1, 0xff]]
            .concat(),
    ] {
        let mut client = Client::open(broker.tcp, Version::V311);
        // The broker may close between the two, so that an error says nothing.
        let _ = client.try_send(&header).and_then(|()| client.try_send(&connect));
        assert_eq!(client.expect_closed(), []);
    }
    Client::plain(broker.tcp, Version::V311, "without").expect_nothing();
    broker.stop();
}
