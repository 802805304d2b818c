//! Every kind of record comes back as it went in, as the document says, and nothing else is read.

use super::*;
use ringlane_dataplane::log::format::COUNT_MAX;

fn place(partition: u32, epoch: u64, offset: u64) -> Place {
    Place { partition, epoch, offset }
}

fn will() -> WillBody<'static> {
    WillBody {
        topic: "w/t",
        payload: b"gone",
        properties: &[1, 1],
        qos: 1,
        retain: true,
        delay_secs: 5,
        message_expiry_secs: Some(60),
    }
}

/// One record of each kind, in the order of the kinds.
pub(crate) fn samples() -> Vec<StateRecord<'static>> {
    let mut samples = first_samples();
    samples.extend(later_samples());
    samples
}

fn options() -> SubscriptionOptions {
    SubscriptionOptions { qos: 2, no_local: true, retain_as_published: false, id: 9 }
}

fn replay() -> ReplayBody {
    let position = Position { partition: 2, epoch: 7, next: 103 };
    ReplayBody { options: options(), positions: vec![position] }
}

fn later_samples() -> Vec<StateRecord<'static>> {
    let client_id = "c1";
    vec![
        StateRecord::SentBeside {
            client_id,
            name: "a/+",
            packet_id: 258,
            what: Beside::Replay,
            sent: SentBody {
                posting: 0,
                place: place(2, 7, 102),
                retain: false,
                subscription_ids: vec![9],
            },
        },
        StateRecord::ReplayBegin { client_id, name: "$replay/-15m/a/+", replay: replay() },
        StateRecord::ReplayDelivered { client_id, name: "$replay/-15m/a/+", done: vec![(2, 104)] },
        StateRecord::DeliveredRanges { client_id, ranges: vec![(44, 46), (50, 51)] },
        StateRecord::GroupKept { client_id, group: 7, places: vec![place(2, 7, 102)] },
        StateRecord::GroupHeld { client_id, held: vec![(7, place(2, 7, 102))] },
    ]
}

fn first_samples() -> Vec<StateRecord<'static>> {
    let client_id = "c1";
    let range =
        PostingRange { place: place(2, 7, 100), first: 41, count: 3, bytes: 250, droppable: true };
    let options = options();
    let sent = SentBody {
        posting: 43,
        place: place(2, 7, 102),
        retain: false,
        subscription_ids: vec![9, 10],
    };
    let retained = RetainedBody {
        place: place(1, 7, 5),
        memory: false,
        publisher: 0x0102_0304_0506_0708,
        accepted_ms: 1_700_000_000_000,
        expiry_secs: None,
        qos: 1,
        properties: &[],
        payload: b"on",
    };
    vec![
        StateRecord::SessionOpen { client_id, clean: true, expiry_secs: 300, will: Some(will()) },
        StateRecord::SessionClosed {
            client_id,
            since_ms: 1_700_000_000_000,
            expiry_secs: 300,
            will_gone: true,
        },
        StateRecord::SessionEnd { client_id },
        StateRecord::WillGone { client_id },
        StateRecord::Subscribe { client_id, filter: "a/+", options, since: 40 },
        StateRecord::Unsubscribe { client_id, filter: "a/+" },
        StateRecord::Postings {
            next: 44,
            cursors: vec![Cursor { partition: 2, memory: true, epoch: 7, next: 103 }],
            filters: vec![FilterPostings { filter: "a/+", ranges: vec![range] }],
        },
        StateRecord::Positions { positions: vec![("c1", 42)] },
        StateRecord::Sent { client_id, packet_id: 258, sent },
        StateRecord::Received { client_id, packet_id: 258 },
        StateRecord::Completed { client_id, packet_id: 258 },
        StateRecord::Release { client_id, packet_id: 3 },
        StateRecord::Retained { topic: "a/b", retained },
        StateRecord::Incoming { client_id, packet_ids: vec![1, 258] },
        StateRecord::Delivered { client_id, postings: vec![44] },
        StateRecord::Epochs { epochs: vec![(7, 0)] },
        StateRecord::PostingsPart {
            filters: vec![FilterPostings { filter: "a/+", ranges: vec![range] }],
        },
        StateRecord::Replay { client_id, name: "$replay/-15m/a/+", replay: replay() },
        StateRecord::ReplayEnd { client_id, name: "$replay/-15m/a/+" },
        StateRecord::RetainedCursors {
            cursors: vec![Cursor { partition: 2, memory: false, epoch: 7, next: 6 }],
        },
    ]
}

fn decode<'a>(
    record: &StateRecord<'a>,
    body: &'a [u8],
) -> Result<StateRecord<'a>, StateRecordError> {
    StateRecord::decode(record.kind() as u8, record.client_id(), record.topic(), body)
}

#[test]
fn every_kind_comes_back_and_no_part_of_it_does() {
    let samples = samples();
    let kinds: Vec<Kind> = samples.iter().map(StateRecord::kind).collect();
    assert_eq!(kinds, Kind::ALL);
    for record in &samples {
        let mut body = Vec::new();
        record.encode(&mut body);
        assert_eq!(decode(record, &body).as_ref(), Ok(record));
        for length in 0..body.len() {
            assert!(decode(record, &body[..length]).is_err(), "{record:?} cut to {length}");
        }
        body.push(0);
        assert!(decode(record, &body).is_err(), "{record:?} and one byte more");
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let mut random = 1_u64;
    for record in samples() {
        let mut body = Vec::new();
        record.encode(&mut body);
        for _ in 0..2_000 {
            let mut bytes = body.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let index = (random >> 40) as usize % bytes.len();
                bytes[index] = (random >> 32) as u8;
            }
            if let Ok(changed) = decode(&record, &bytes) {
                let mut again = Vec::new();
                changed.encode(&mut again);
                assert_eq!(again, bytes, "there is one form of each record");
            }
        }
    }
}

/// Every number that state goes on counting from.
#[test]
fn numbers_that_nobody_has_counted_to_are_refused() {
    let (over, client_id) = (COUNT_MAX + 1, "c1");
    let place = |epoch, offset| Place { partition: 7, epoch, offset };
    let sent = |posting, place| {
        let sent = SentBody { posting, place, retain: false, subscription_ids: Vec::new() };
        StateRecord::Sent { client_id, packet_id: 1, sent }
    };
    let postings = |next, cursors| StateRecord::Postings { next, cursors, filters: Vec::new() };
    let cursor = |epoch, next| Cursor { partition: 7, memory: true, epoch, next };
    let part = |first, offset, count| {
        let ranges = vec![PostingRange {
            place: place(1, offset),
            first,
            count,
            bytes: 9,
            droppable: false,
        }];
        StateRecord::PostingsPart { filters: vec![FilterPostings { filter: "a", ranges }] }
    };
    let good = [
        postings(COUNT_MAX, vec![cursor(COUNT_MAX, COUNT_MAX)]),
        part(COUNT_MAX - 2, COUNT_MAX - 2, 2),
        sent(COUNT_MAX, place(COUNT_MAX, COUNT_MAX)),
    ];
    let bad = [
        postings(over, Vec::new()),
        postings(u64::MAX, Vec::new()),
        postings(1, vec![cursor(over, 1)]),
        postings(1, vec![cursor(1, over)]),
        part(COUNT_MAX - 1, 1, 2),
        part(1, u64::MAX, 1),
        sent(over, place(1, 1)),
        sent(1, place(over, 1)),
        sent(1, place(1, over)),
        StateRecord::Positions { positions: vec![("c1", over)] },
        StateRecord::Delivered { client_id, postings: vec![1, over] },
        StateRecord::Epochs { epochs: vec![(over, 0)] },
    ];
    for (record, is_good) in good.iter().map(|r| (r, true)).chain(bad.iter().map(|r| (r, false))) {
        let mut body = Vec::new();
        record.encode(&mut body);
        assert_eq!(decode(record, &body).is_ok(), is_good, "{record:?}");
    }
}

#[test]
fn what_a_later_release_wrote_is_named() {
    let unknown = |kind, version| Err(StateRecordError::Unknown { kind, version });
    assert_eq!(StateRecord::decode(18, "c", "", &[2]), unknown(18, 2));
    assert_eq!(StateRecord::decode(200, "c", "", &[1]), unknown(200, 1));
}

/// The vectors of the document: lines of kind, client identifier, topic and body in hex.
#[test]
fn the_document_has_these_bytes() {
    let document = include_str!("../../../docs/formats/state.md");
    let vectors = document.split("```vectors\n").nth(1).and_then(|rest| rest.split("```").next());
    let expected: Vec<String> = samples()
        .iter()
        .map(|record| {
            let mut body = Vec::new();
            record.encode(&mut body);
            let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
            format!(
                "{} \"{}\" \"{}\" {hex}",
                record.kind() as u8,
                record.client_id(),
                record.topic()
            )
        })
        .collect();
    assert_eq!(vectors.unwrap_or_default().trim(), expected.join("\n"));
}
