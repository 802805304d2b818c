//! Tests of the frame decoder: the examples of the RFC, each violation, any split, any mutation.

use super::*;
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

/// A client's frame.
fn frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame_header(&mut bytes, payload.len());
    bytes[0] = first;
    bytes[1] |= MASKED;
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
    bytes
}

fn binary(payload: &[u8]) -> Vec<u8> {
    frame(FIN | BINARY, [0x37, 0xfa, 0x21, 0x3d], payload)
}

/// Everything a stream leads to.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    payload: Vec<u8>,
    replies: Vec<u8>,
    result: Result<Decoded, WebSocketError>,
}

fn run<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(LIMIT);
    let (mut payload, mut replies) = (Vec::new(), Vec::new());
    let mut result = Ok(Decoded { closed: false });
    for piece in pieces {
        result = decoder.decode(piece, &mut payload, &mut replies);
    }
    Outcome { payload, replies, result }
}

fn whole(bytes: &[u8]) -> Outcome {
    run([bytes])
}

fn error_of(bytes: &[u8]) -> Option<WebSocketError> {
    whole(bytes).result.err()
}

/// RFC 6455 section 5.7: "Hello" masked, as a binary frame.
#[test]
fn the_masked_example_of_the_rfc() {
    let bytes = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let outcome = whole(&bytes);
    assert_eq!(outcome.payload, b"Hello");
    assert!(outcome.replies.is_empty());
    assert_eq!(outcome.result, Ok(Decoded { closed: false }));
    assert_eq!(binary(b"Hello"), bytes);
}

/// RFC 6455 section 5.7: "Hel" and "lo" in two fragments, masked here.
#[test]
fn the_fragmented_example_of_the_rfc() {
    let mut bytes = frame(BINARY, [1, 2, 3, 4], b"Hel");
    bytes.extend(frame(FIN | PING, [5, 6, 7, 8], b""));
    bytes.extend(frame(FIN | CONTINUATION, [9, 10, 11, 12], b"lo"));
    let outcome = whole(&bytes);
    assert_eq!(outcome.payload, b"Hello");
    assert_eq!(outcome.replies, [0x8a, 0]);
}

/// RFC 6455 section 5.7: a Ping with "Hello" and its Pong.
#[test]
fn the_ping_example_of_the_rfc() {
    let bytes = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let outcome = whole(&bytes);
    assert!(outcome.payload.is_empty());
    assert_eq!(outcome.replies, [0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
}

/// RFC 6455 section 5.7: the headers of 256 bytes and of 64 KiB, and both sides of each change.
#[test]
fn the_header_of_each_length() {
    for (length, expected) in [
        (0usize, &[0x82, 0x00][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 0x7e, 0, 126]),
        (256, &[0x82, 0x7e, 0x01, 0x00]),
        (65_535, &[0x82, 0x7e, 0xff, 0xff]),
        (65_536, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut out = Vec::new();
        frame_header(&mut out, length);
        assert_eq!(out, expected, "{length}");
        assert!(out.len() <= FRAME_HEADER_BYTES_MAX);
    }
}

#[test]
fn mqtt_6_0_0_2_frames_of_each_length_are_one_stream() {
    for length in [0usize, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 65_537, LIMIT] {
        let payload: Vec<u8> = (0..length).map(|index| (index * 31 % 251) as u8).collect();
        let mut bytes = binary(&payload);
        bytes.extend(binary(b"next"));
        let outcome = whole(&bytes);
        assert_eq!(outcome.payload.len(), length + 4);
        assert_eq!(&outcome.payload[..length], &payload[..]);
        assert_eq!(&outcome.payload[length..], b"next");
    }
}

#[test]
fn mqtt_6_0_0_1_a_text_frame_closes() {
    let error = error_of(&frame(FIN | TEXT, [1, 2, 3, 4], b"Hello")).unwrap();
    assert_eq!(error, WebSocketError::Text);
    assert_eq!(error.close_frame(), [0x88, 2, 0x03, 0xeb]);
}

#[test]
fn each_violation_has_its_error_and_code() {
    use WebSocketError as E;
    let mask = [1, 2, 3, 4];
    let huge = [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let above = [0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1, 0, 0, 0, 0];
    let table: Vec<(Vec<u8>, E, u16)> = vec![
        (vec![0x82, 0x05], E::Unmasked, 1002),
        (vec![0x88, 0x00], E::Unmasked, 1002),
        (vec![0xc2], E::ReservedBit, 1002),
        (vec![0xa2], E::ReservedBit, 1002),
        (vec![0x92], E::ReservedBit, 1002),
        (vec![0x83], E::ReservedOpcode, 1002),
        (vec![0x87], E::ReservedOpcode, 1002),
        (vec![0x8b], E::ReservedOpcode, 1002),
        (vec![0x8f], E::ReservedOpcode, 1002),
        (vec![0x01], E::Text, 1003),
        (vec![0x09], E::FragmentedControl, 1002),
        (vec![0x08], E::FragmentedControl, 1002),
        (vec![0x89, 0xfe], E::ControlTooLarge, 1002),
        (vec![0x80], E::FragmentOutOfPlace, 1002),
        ([frame(BINARY, mask, b"a"), vec![0x82]].concat(), E::FragmentOutOfPlace, 1002),
        ([binary(b"a"), vec![0x80]].concat(), E::FragmentOutOfPlace, 1002),
        (vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0], E::LengthForm, 1002),
        (vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], E::LengthForm, 1002),
        (huge.to_vec(), E::LengthForm, 1002),
        (above.to_vec(), E::TooLarge, 1009),
        (frame(FIN | CLOSE, mask, &[3]), E::CloseCode, 1002),
        (frame(FIN | CLOSE, mask, &999u16.to_be_bytes()), E::CloseCode, 1002),
        (frame(FIN | CLOSE, mask, &1004u16.to_be_bytes()), E::CloseCode, 1002),
        (frame(FIN | CLOSE, mask, &1005u16.to_be_bytes()), E::CloseCode, 1002),
        (frame(FIN | CLOSE, mask, &1006u16.to_be_bytes()), E::CloseCode, 1002),
        (frame(FIN | CLOSE, mask, &1015u16.to_be_bytes()), E::CloseCode, 1002),
        (frame(FIN | CLOSE, mask, &5000u16.to_be_bytes()), E::CloseCode, 1002),
        (frame(FIN | CLOSE, mask, &[0x03, 0xe8, 0xff]), E::CloseReason, 1007),
    ];
    for (bytes, expected, code) in table {
        assert_eq!(error_of(&bytes), Some(expected), "{bytes:02x?}");
        assert_eq!(expected.close_code(), code);
        let one_by_one = run(bytes.chunks(1));
        assert_eq!(one_by_one.result, Err(expected), "{bytes:02x?} byte by byte");
    }
}

#[test]
fn a_failed_decoder_stays_failed() {
    let mut decoder = Decoder::new(LIMIT);
    let (mut payload, mut replies) = (Vec::new(), Vec::new());
    let bytes = [binary(b"good"), vec![0x81]].concat();
    assert!(decoder.decode(&bytes, &mut payload, &mut replies).is_err());
    assert_eq!(payload, b"good");
    let again = decoder.decode(&binary(b"more"), &mut payload, &mut replies);
    assert_eq!(again, Err(WebSocketError::Text));
    assert_eq!(payload, b"good");
}

#[test]
fn close_is_answered_with_its_code_and_ends_the_stream() {
    for (body, reply) in [
        (&b""[..], &[0x88, 0][..]),
        (&[0x03, 0xe8], &[0x88, 2, 0x03, 0xe8]),
        (&[0x03, 0xe9, b'b', b'y', b'e'], &[0x88, 2, 0x03, 0xe9]),
        (&[0x0b, 0xb8], &[0x88, 2, 0x0b, 0xb8]),
    ] {
        let mut bytes = binary(b"last");
        bytes.extend(frame(FIN | CLOSE, [9, 8, 7, 6], body));
        bytes.extend(binary(b"too late"));
        bytes.push(0x81);
        let outcome = whole(&bytes);
        assert_eq!(outcome.payload, b"last");
        assert_eq!(outcome.replies, reply);
        assert_eq!(outcome.result, Ok(Decoded { closed: true }));
    }
}

#[test]
fn a_control_frame_may_stand_between_fragments_and_a_pong_is_ignored() {
    let mask = [3, 1, 4, 1];
    let mut bytes = frame(BINARY, mask, b"ab");
    bytes.extend(frame(FIN | PONG, mask, b"?"));
    bytes.extend(frame(CONTINUATION, mask, b"cd"));
    bytes.extend(frame(FIN | PING, mask, &[7; 125]));
    bytes.extend(frame(FIN | CONTINUATION, mask, b""));
    bytes.extend(frame(FIN | BINARY, mask, b"ef"));
    let outcome = whole(&bytes);
    assert_eq!(outcome.payload, b"abcdef");
    assert_eq!(outcome.replies, [&[0x8a, 125][..], &[7; 125]].concat());
}

#[derive(Clone, Debug)]
enum Item {
    Message(Vec<Vec<u8>>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn item() -> impl Strategy<Value = Item> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        proptest::collection::vec(bytes(300), 1..4).prop_map(Item::Message),
        bytes(126).prop_map(Item::Ping),
        bytes(126).prop_map(Item::Pong),
    ]
}

/// The frames of the items, with what they carry and what they are answered with.
fn stream_of(items: &[(Item, [u8; 4])]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (mut stream, mut payload, mut replies) = (Vec::new(), Vec::new(), Vec::new());
    for (item, mask) in items {
        match item {
            Item::Message(fragments) => {
                for (index, fragment) in fragments.iter().enumerate() {
                    let opcode = if index == 0 { BINARY } else { CONTINUATION };
                    let fin = if index + 1 == fragments.len() { FIN } else { 0 };
                    stream.extend(frame(fin | opcode, *mask, fragment));
                    payload.extend_from_slice(fragment);
                }
            }
            Item::Ping(body) => {
                stream.extend(frame(FIN | PING, *mask, body));
                reply(&mut replies, PONG, body);
            }
            Item::Pong(body) => stream.extend(frame(FIN | PONG, *mask, body)),
        }
    }
    (stream, payload, replies)
}

/// Cuts `bytes` into pieces whose lengths are taken in turn from `lengths`.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*length).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

proptest! {
    #[test]
    fn mqtt_6_0_0_2_a_stream_may_be_split_anywhere(
        items in proptest::collection::vec((item(), any::<[u8; 4]>()), 0..8),
        lengths in proptest::collection::vec(1usize..40, 1..10),
    ) {
        let (stream, payload, replies) = stream_of(&items);
        let expected = Outcome { payload, replies, result: Ok(Decoded { closed: false }) };
        prop_assert_eq!(&whole(&stream), &expected);
        prop_assert_eq!(&run(pieces(&stream, &lengths)), &expected);
    }

    #[test]
    fn any_bytes_give_the_same_in_one_piece_and_in_many(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        lengths in proptest::collection::vec(1usize..9, 1..5),
    ) {
        prop_assert_eq!(whole(&bytes), run(pieces(&bytes, &lengths)));
    }
}

/// Every byte of a stream with every kind of frame, replaced by every value: no panic, the same
/// outcome whole and byte by byte, and nothing grows beyond the input.
#[test]
fn no_mutated_stream_breaks_the_decoder() {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut stream = frame(BINARY, mask, &[1; 9]);
    stream.extend(frame(FIN | PING, mask, b"ping"));
    stream.extend(frame(FIN | CONTINUATION, mask, &[2; 130]));
    stream.extend(frame(FIN | CLOSE, mask, &[0x03, 0xe8]));
    for index in 0..stream.len() {
        for value in 0..=255u8 {
            let mut bytes = stream.clone();
            bytes[index] = value;
            let outcome = whole(&bytes);
            assert!(outcome.payload.len() <= bytes.len());
            assert!(outcome.replies.len() <= bytes.len());
            assert_eq!(run(bytes.chunks(1)), outcome, "byte {index} = {value:#x}");
        }
    }
}
