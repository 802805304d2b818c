//! MQTT over WebSocket against the running broker (Q19): the handshake, the frames, the stream.

use crate::support;
use crate::support::packets::{PINGREQ, disconnect};
use crate::support::websocket::{HANDSHAKE, frame, status};
use crate::support::{
    Broker, Client, Connect, Kind, Options, Properties, Publish, Transport, Version, Will, packets,
};

on_both_transports!(
    q19_mqtt_6_0_0_1_a_text_frame_ends_the_connection,
    q19_mqtt_6_0_0_2_packets_and_frames_have_nothing_to_do_with_each_other,
    q19_mqtt_6_0_0_2_a_remaining_length_above_the_frame_waits,
    q19_mqtt_6_0_0_3_a_client_must_offer_mqtt,
    q19_mqtt_6_0_0_4_the_server_answers_with_mqtt,
    requests_that_are_no_handshake_are_refused,
    origins_are_checked_against_the_list,
    frames_against_the_rfc_end_the_connection_with_a_code,
    ping_is_answered_between_the_fragments_of_a_message,
    close_is_answered_and_publishes_the_will,
    disconnect_ends_the_websocket_connection,
    a_frame_may_hold_more_than_the_largest_packet,
    what_stands_behind_connect_in_its_segment_is_answered,
    large_messages_travel_both_ways,
    tcp_and_websocket_clients_exchange_messages,
    mqtt_without_websocket_is_refused,
);

const BINARY: u8 = 0x82;
const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const CLOSE: u8 = 0x88;

fn connected(broker: &Broker, version: Version, name: &str) -> Client {
    let mut client = Client::open_websocket(broker.websocket, version);
    client.greet(&Connect::new(version, name));
    client
}

/// The code of Close is 1003: a type of data that the server does not take.
fn q19_mqtt_6_0_0_1_a_text_frame_ends_the_connection(transport: Transport) {
    let broker = Broker::on(transport);
    let mut first = Client::open_websocket(broker.websocket, Version::V5);
    first.send_unframed(&frame(TEXT, &Connect::new(Version::V5, "text").encode()));
    assert_eq!(first.expect_closed(), []);
    assert_eq!(first.framing().close_code, Some(1003));
    let mut later = connected(&broker, Version::V5, "text");
    later.send_unframed(&frame(TEXT, &PINGREQ));
    let last = later.expect_closed();
    assert!(last.iter().all(|packet| packet.kind() == Kind::Disconnect), "{last:?}");
    assert_eq!(later.framing().close_code, Some(1003));
    broker.stop();
}

fn q19_mqtt_6_0_0_2_packets_and_frames_have_nothing_to_do_with_each_other(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let stream = [
            Connect::new(version, "framed").encode(),
            packets::subscribe(version, 1, &[("t/+", 1)], &Properties::new()),
            Publish::new("t/1", "one").qos(1, 2).encode(version),
            Publish::new("t/1", "two").qos(1, 3).encode(version),
        ]
        .concat();
        for size in [1, 2, 3, 7, stream.len()] {
            let mut client = Client::open_websocket(broker.websocket, version);
            let frames: Vec<u8> =
                stream.chunks(size).flat_map(|piece| frame(BINARY, piece)).collect();
            client.send_unframed(&frames);
            client.expect(Kind::Connack);
            client.read_kind(Kind::Suback);
            for id in [2, 3] {
                assert_eq!(client.read_kind(Kind::Puback).id(), id, "frames of {size} bytes");
            }
            for text in ["one", "two"] {
                assert_eq!(client.receive_and_acknowledge().text(), text);
            }
            client.expect_nothing();
        }
    }
    broker.stop();
}

fn q19_mqtt_6_0_0_2_a_remaining_length_above_the_frame_waits(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut client = connected(&broker, version, "waiting");
        client.subscribe("t/+", 0);
        let bytes = Publish::new("t/1", [7; 1000]).encode(version);
        let (head, tail) = bytes.split_at(100);
        client.send(head);
        client.send_unframed(&frame(PING, b"fence"));
        assert!(client.wait_for_pong().is_empty(), "half a packet is not answered");
        client.send(tail);
        assert_eq!(client.receive().payload, [7; 1000]);
    }
    broker.stop();
}

fn q19_mqtt_6_0_0_3_a_client_must_offer_mqtt(transport: Transport) {
    let broker = Broker::on(transport);
    let offer = "Sec-WebSocket-Protocol: mqtt\r\n";
    for (replacement, expected) in [
        ("", 400),
        ("Sec-WebSocket-Protocol: chat\r\n", 400),
        ("Sec-WebSocket-Protocol: mqttx\r\n", 400),
        ("Sec-WebSocket-Protocol: chat, mqtt\r\n", 101),
        ("Sec-WebSocket-Protocol: mqttv3.1\r\n", 101),
    ] {
        let request = HANDSHAKE.replace(offer, replacement);
        assert_eq!(status(broker.websocket, &request), expected, "{replacement}");
    }
    broker.stop();
}

/// The harness compares the answer's subprotocol with `mqtt` at each handshake.
fn q19_mqtt_6_0_0_4_the_server_answers_with_mqtt(transport: Transport) {
    let broker = Broker::on(transport);
    for version in [Version::V31, Version::V311, Version::V5] {
        connected(&broker, version, "answered").expect_nothing();
    }
    broker.stop();
}

fn requests_that_are_no_handshake_are_refused(transport: Transport) {
    let broker = Broker::on(transport);
    let large = format!("Host: localhost\r\nX-Large: {}", "x".repeat(8192));
    for (from, to, expected) in [
        ("GET ", "POST ", 405),
        ("/mqtt", "/other", 404),
        ("Upgrade: websocket\r\n", "", 426),
        ("Version: 13", "Version: 12", 426),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: short", 400),
        ("HTTP/1.1", "SMTP/1.1", 400),
        ("Host: localhost", large.as_str(), 431),
    ] {
        let request = HANDSHAKE.replace(from, to);
        assert_eq!(status(broker.websocket, &request), expected, "{from} -> {to:.40}");
    }
    connected(&broker, Version::V5, "still").expect_nothing();
    broker.stop();
}

fn origins_are_checked_against_the_list(transport: Transport) {
    let config = "[listeners.websocket]\nallowed_origins = [\"https://good.example\"]";
    let broker = Broker::start(&Options::new(transport).config(config));
    for (origin, expected) in [
        ("", 101),
        ("Origin: https://good.example\r\n", 101),
        ("Origin: https://bad.example\r\n", 403),
        ("Origin: null\r\n", 403),
    ] {
        let request = HANDSHAKE.replace("Upgrade: ", &format!("{origin}Upgrade: "));
        assert_eq!(status(broker.websocket, &request), expected, "{origin}");
    }
    broker.stop();
}

fn frames_against_the_rfc_end_the_connection_with_a_code(transport: Transport) {
    let broker = Broker::on(transport);
    let unmasked = [&[BINARY, 2][..], &PINGREQ].concat();
    let impossible = [&[BINARY, 0xff][..], &[0xff; 8], &[0; 4]].concat();
    for (bytes, code) in [
        (unmasked, 1002),
        (frame(0xc2, &PINGREQ), 1002),
        (frame(0x83, &PINGREQ), 1002),
        (frame(0x80, &PINGREQ), 1002),
        (frame(0x09, b""), 1002),
        (frame(PING, &[0; 126]), 1002),
        (frame(CLOSE, &[1]), 1002),
        (impossible, 1002),
    ] {
        let mut client = connected(&broker, Version::V311, "wrong");
        client.send_unframed(&bytes);
        assert_eq!(client.expect_closed(), [], "{}", support::show(&bytes));
        assert_eq!(client.framing().close_code, Some(code), "{}", support::show(&bytes));
    }
    broker.stop();
}

fn ping_is_answered_between_the_fragments_of_a_message(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut client = connected(&broker, version, "fragments");
        client.subscribe("t/+", 0);
        let bytes = Publish::new("t/1", "in three fragments").encode(version);
        client.send_unframed(&frame(0x02, &bytes[..3]));
        client.send_unframed(&frame(PING, b"first"));
        client.send_unframed(&frame(0x00, &bytes[3..9]));
        client.send_unframed(&frame(PING, b"second"));
        client.send_unframed(&frame(0x80, &bytes[9..]));
        assert_eq!(client.receive().text(), "in three fragments");
        assert_eq!(client.framing().pongs, [b"first".to_vec(), b"second".to_vec()]);
    }
    broker.stop();
}

/// The end comes without an MQTT DISCONNECT, so that the will is published [MQTT-3.1.2-8].
fn close_is_answered_and_publishes_the_will(transport: Transport) {
    let broker = Broker::on(transport);
    let mut watcher = Client::plain(broker.tcp, Version::V5, "watcher");
    watcher.subscribe("wills/#", 1);
    for code in [1000u16, 1001] {
        let mut client = Client::open_websocket(broker.websocket, Version::V5);
        let will = Will::new("wills/closing", &code.to_string());
        client.greet(&Connect::new(Version::V5, "closing").will(will));
        client.send_unframed(&frame(CLOSE, &code.to_be_bytes()));
        client.expect_closed();
        assert_eq!(client.framing().close_code, Some(code));
        assert_eq!(watcher.receive_and_acknowledge().text(), code.to_string());
    }
    broker.stop();
}

fn disconnect_ends_the_websocket_connection(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut client = connected(&broker, version, "leaving");
        client.send(&disconnect());
        assert_eq!(client.expect_closed(), []);
        assert_eq!(client.framing().close_code, Some(1000), "RFC 6455 section 7.1.2");
    }
    broker.stop();
}

/// A frame is no unit of MQTT [MQTT-6.0.0-2]: the limit on packets is not one on frames.
fn a_frame_may_hold_more_than_the_largest_packet(transport: Transport) {
    let config = "[mqtt]\nmax_packet_size = 65536";
    let broker = Broker::start(&Options::new(transport).config(config));
    for version in Version::BOTH {
        let mut client = connected(&broker, version, "many-in-one");
        let packets: Vec<u8> = (1..=40)
            .flat_map(|id| Publish::new("t/1", [3; 10_000]).qos(1, id).encode(version))
            .collect();
        client.send(&packets);
        for id in 1..=40 {
            assert_eq!(client.expect(Kind::Puback).id(), id);
        }
    }
    broker.stop();
}

/// The identifiers belong to both cores, so that some connections move between the two frames.
fn what_stands_behind_connect_in_its_segment_is_answered(transport: Transport) {
    let broker = Broker::on(transport);
    for number in 0..16 {
        let connect = Connect::new(Version::V5, &format!("quick-{number}")).encode();
        let open = |behind: &[u8]| {
            let mut client = Client::open_websocket(broker.websocket, Version::V5);
            client.send_unframed(&[&frame(BINARY, &connect)[..], behind].concat());
            client
        };
        let mut pinging = open(&frame(PING, b"quick"));
        pinging.expect(Kind::Connack);
        if pinging.framing().pongs.is_empty() {
            assert!(pinging.wait_for_pong().is_empty());
        }
        assert_eq!(pinging.framing().pongs, [b"quick"], "client {number}");
        pinging.disconnect();
        for (behind, code) in [(frame(TEXT, b"quick"), 1003), (frame(CLOSE, &[3, 0xe8]), 1000)] {
            let mut client = open(&behind);
            client.expect_closed();
            assert_eq!(client.framing().close_code, Some(code), "client {number}");
        }
    }
    broker.wait_until_sockets_are(0);
    broker.stop();
}

fn large_messages_travel_both_ways(transport: Transport) {
    let broker = Broker::on(transport);
    for version in Version::BOTH {
        let mut client = connected(&broker, version, "large");
        assert_eq!(client.subscribe("t/+", 1), 1);
        for size in [0, 100, 125, 126, 65_400, 65_536, 1_000_000] {
            let payload: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            client.publish("t/1", &payload, 1);
            assert_eq!(client.receive_and_acknowledge().payload, payload, "{size} bytes");
        }
    }
    broker.stop();
}

fn tcp_and_websocket_clients_exchange_messages(transport: Transport) {
    let broker = Broker::on(transport);
    let mut over_tcp = Client::plain(broker.tcp, Version::V5, "over-tcp");
    let mut over_websocket = connected(&broker, Version::V311, "over-websocket");
    for client in [&mut over_tcp, &mut over_websocket] {
        assert_eq!(client.subscribe("t/+", 2), 2);
    }
    for qos in [0, 1, 2] {
        over_tcp.publish("t/1", "from tcp", qos);
        over_websocket.publish("t/1", "from websocket", qos);
        for client in [&mut over_tcp, &mut over_websocket] {
            let mut texts: Vec<String> =
                (0..2).map(|_| client.receive_and_acknowledge().text()).collect();
            texts.sort();
            assert_eq!(texts, ["from tcp", "from websocket"]);
        }
    }
    broker.stop();
}

fn mqtt_without_websocket_is_refused(transport: Transport) {
    let broker = Broker::on(transport);
    let mut client = Client::open(broker.websocket, Version::V311);
    client.send(&Connect::new(Version::V311, "bare").encode());
    let answer = client.read_unframed_until_closed();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    broker.stop();
}
