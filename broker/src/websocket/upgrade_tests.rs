//! Tests of the opening handshake.

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn request(change: impl Fn(&str) -> String) -> String {
    change(
        "GET /mqtt HTTP/1.1\r\nHost: example.org:8083\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
}

fn valid() -> String {
    request(str::to_owned)
}

fn replaced(from: &str, to: &str) -> String {
    assert!(valid().contains(from), "{from} is not part of the request");
    request(|text| text.replace(from, to))
}

fn status(outcome: &Upgrade) -> u16 {
    let response = match outcome {
        Upgrade::Incomplete => return 0,
        Upgrade::Accepted { response, .. } | Upgrade::Refused { response } => response,
    };
    let text = std::str::from_utf8(response).unwrap();
    text.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap()
}

fn answer(request: &str) -> u16 {
    status(&upgrade(request.as_bytes(), "/mqtt", &[]))
}

/// RFC 6455 section 1.3 computes this accept value for this key.
#[test]
fn mqtt_6_0_0_4_the_subprotocol_is_answered_and_the_key_of_the_rfc_is_hashed() {
    let Upgrade::Accepted { consumed, response } = upgrade(valid().as_bytes(), "/mqtt", &[]) else {
        panic!("refused")
    };
    assert_eq!(consumed, valid().len());
    let text = String::from_utf8(response).unwrap();
    assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{text}");
    assert!(text.contains("\r\nUpgrade: websocket\r\n"), "{text}");
    assert!(text.contains("\r\nConnection: Upgrade\r\n"), "{text}");
    assert!(text.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
    assert!(text.ends_with("\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"), "{text}");
    assert!(!text.contains("Extensions"), "{text}");
}

#[test]
fn mqtt_6_0_0_3_a_request_must_offer_mqtt() {
    let line = "Sec-WebSocket-Protocol: mqtt\r\n";
    assert_eq!(answer(&replaced(line, "")), 400);
    for (offer, expected) in [
        ("mqttx", 400),
        ("MQTT", 400),
        ("chat", 400),
        ("", 400),
        ("mqttv3.1", 101),
        ("chat, mqtt", 101),
        ("chat,mqttv3.1 ,superchat", 101),
        ("chat\r\nSec-WebSocket-Protocol: mqtt", 101),
    ] {
        let text = replaced("Protocol: mqtt", &format!("Protocol: {offer}"));
        assert_eq!(answer(&text), expected, "{offer}");
    }
}

#[test]
fn mqtt_is_preferred_to_mqttv31() {
    for (offer, expected) in [("mqttv3.1, mqtt", "mqtt"), ("mqttv3.1", "mqttv3.1")] {
        let text = replaced("Protocol: mqtt", &format!("Protocol: {offer}"));
        let Upgrade::Accepted { response, .. } = upgrade(text.as_bytes(), "/mqtt", &[]) else {
            panic!("refused")
        };
        let response = String::from_utf8(response).unwrap();
        assert!(response.ends_with(&format!("Protocol: {expected}\r\n\r\n")), "{response}");
    }
}

#[test]
fn a_request_that_is_no_handshake_gets_its_status() {
    for (from, to, expected) in [
        ("GET ", "POST ", 405),
        ("GET ", "HEAD ", 405),
        ("/mqtt", "/", 404),
        ("/mqtt", "/mqtt/", 404),
        ("/mqtt", "/MQTT", 404),
        ("HTTP/1.1", "HTTP/1.0", 505),
        ("HTTP/1.1", "HTTP/2.0", 400),
        ("Host: example.org:8083\r\n", "", 400),
        ("Upgrade: websocket\r\n", "", 426),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("Connection: Upgrade\r\n", "", 426),
        ("Connection: Upgrade", "Connection: keep-alive", 426),
        ("Version: 13", "Version: 8", 426),
        ("Version: 13", "Version: 13, 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        ("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13", 400),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400),
        (KEY, "short==", 400),
        (KEY, "", 400),
        ("Version: 13", "Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400),
        ("Version: 13", "Version: 13\r\nContent-Length: 4", 400),
        ("Version: 13", "Version: 13\r\nTransfer-Encoding: chunked", 400),
    ] {
        assert_eq!(answer(&replaced(from, to)), expected, "{from} -> {to}");
    }
}

#[test]
fn what_clients_may_vary_is_accepted() {
    for (from, to) in [
        ("/mqtt", "/mqtt?token=1"),
        ("/mqtt", "http://example.org/mqtt"),
        ("/mqtt", "http://example.org/mqtt?a=/b"),
        ("Upgrade: websocket", "upgrade: WebSocket"),
        ("Connection: Upgrade", "connection: keep-alive, upgrade"),
        ("Host:", "HOST:"),
        ("Version: 13", "Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate"),
        ("Version: 13", "Version: 13\r\nContent-Length: 0"),
        ("Version: 13", "Version: 13\r\nOrigin: https://anywhere.example"),
    ] {
        assert_eq!(answer(&replaced(from, to)), 101, "{from} -> {to}");
    }
}

#[test]
fn an_answer_of_426_names_the_version() {
    let Upgrade::Refused { response } =
        upgrade(replaced("Version: 13", "Version: 8").as_bytes(), "/mqtt", &[])
    else {
        panic!("accepted")
    };
    let text = String::from_utf8(response).unwrap();
    assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
}

#[test]
fn an_origin_must_be_listed_if_a_list_is_configured() {
    let origins = ["https://a.example".to_owned(), "http://b.example:8080".to_owned()];
    for (origin, expected) in [
        (None, 101),
        (Some("https://a.example"), 101),
        (Some("HTTPS://A.example"), 101),
        (Some("http://b.example:8080"), 101),
        (Some("http://a.example"), 403),
        (Some("https://a.example.evil.org"), 403),
        (Some("null"), 403),
        (Some(""), 403),
    ] {
        let line = origin.map_or_else(String::new, |origin| format!("\r\nOrigin: {origin}"));
        let text = replaced("Version: 13", &format!("Version: 13{line}"));
        let outcome = upgrade(text.as_bytes(), "/mqtt", &origins);
        assert_eq!(status(&outcome), expected, "{origin:?}");
    }
}

#[test]
fn a_head_is_read_in_any_pieces() {
    let mut bytes = valid().into_bytes();
    let length = bytes.len();
    bytes.extend_from_slice(&[0x82, 0x80, 1, 2, 3, 4]);
    for end in 0..length {
        assert_eq!(upgrade(&bytes[..end], "/mqtt", &[]), Upgrade::Incomplete, "{end} bytes");
    }
    for end in length..=bytes.len() {
        let Upgrade::Accepted { consumed, .. } = upgrade(&bytes[..end], "/mqtt", &[]) else {
            panic!("{end} bytes")
        };
        assert_eq!(consumed, length);
    }
}

#[test]
fn the_head_is_bounded() {
    let padded = |bytes: usize| {
        let filler = "x".repeat(bytes - valid().len() - "\r\nX: ".len());
        replaced("Version: 13", &format!("Version: 13\r\nX: {filler}"))
    };
    assert_eq!(padded(HEAD_BYTES_MAX).len(), HEAD_BYTES_MAX);
    assert_eq!(answer(&padded(HEAD_BYTES_MAX)), 101);
    assert_eq!(answer(&padded(HEAD_BYTES_MAX + 1)), 431);
    assert_eq!(answer(&padded(HEAD_BYTES_MAX + 1)[..HEAD_BYTES_MAX]), 431);
    assert_eq!(answer(&padded(HEAD_BYTES_MAX + 1)[..HEAD_BYTES_MAX - 1]), 0);
    let fields = "\r\nX: 1".repeat(HEADERS_MAX);
    assert_eq!(answer(&replaced("Version: 13", &format!("Version: 13{fields}"))), 431);
}

#[test]
fn mqtt_without_websocket_is_refused_at_once() {
    let connect = [0x10, 0x0d, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 1, b'p'];
    assert_eq!(status(&upgrade(&connect, "/mqtt", &[])), 400);
    assert_eq!(status(&upgrade(&[0x16, 0x03, 0x01], "/mqtt", &[])), 400);
}

/// Every byte of a valid request replaced by every value: no panic, and what is accepted offers
/// the subprotocol.
#[test]
fn no_mutated_request_breaks_the_reader() {
    let original = valid().into_bytes();
    for index in 0..original.len() {
        for value in 0..=255u8 {
            let mut bytes = original.clone();
            bytes[index] = value;
            match upgrade(&bytes, "/mqtt", &[]) {
                Upgrade::Accepted { consumed, .. } => {
                    let head = &bytes[..consumed];
                    let offers = |part: &[u8]| part == b"mqtt";
                    assert!(head.windows(4).any(offers), "byte {index} = {value:#x}");
                }
                Upgrade::Refused { response } => assert!(response.starts_with(b"HTTP/1.1 ")),
                Upgrade::Incomplete => {}
            }
        }
    }
}
