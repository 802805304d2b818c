//! The vectors of docs/formats/log.md are what the code writes and reads.

use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::format::{
    BatchHeader, DirectoryId, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, batch_bytes,
};
use ringlane_dataplane::log::index::SegmentIndex;
use ringlane_dataplane::log::record::{
    EXPIRY_NONE, Record, RecordFlags, RecordHead, RecordKind, RecordSeed, Records, decode, encode,
};
use std::collections::BTreeMap;

#[path = "support/vectors.rs"]
mod vectors;

const PAGE: &str = "log.md";
const DIRECTORY: DirectoryId = DirectoryId([0x11; 16]);
const PARTITION: PartitionId = PartitionId(3);
const SEGMENT: SegmentId = SegmentId([0x22; 16]);

fn segment() -> SegmentHeader {
    SegmentHeader {
        partition: PARTITION,
        directory: DIRECTORY,
        segment: SEGMENT,
        number: 7,
        epoch: 5,
        made_unix_ms: 1_700_000_000_000,
        file_bytes: 1 << 20,
    }
}

fn seed() -> RecordSeed {
    RecordSeed::new(&DIRECTORY, PARTITION)
}

fn message() -> Record<'static> {
    Record {
        head: RecordHead {
            offset: Offset(40),
            unix_ms: 1_700_000_000_000,
            epoch: 5,
            kind: RecordKind::PUBLISH,
            flags: RecordFlags::new(2, true).with_memory(),
            packet_id: 0x0102,
            expiry_secs: 3600,
        },
        client_id: "meter-7",
        topic: "site/1/temp",
        properties: &[0x03, 0, 1, b'x'],
        payload: b"21.5",
    }
}

fn state() -> Record<'static> {
    let head = RecordHead {
        offset: Offset(41),
        unix_ms: 1_700_000_000_001,
        epoch: 5,
        kind: RecordKind(21),
        flags: RecordFlags::default(),
        packet_id: 0,
        expiry_secs: EXPIRY_NONE,
    };
    Record { head, client_id: "c1", topic: "a/#", properties: &[], payload: &[1] }
}

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(seed(), record, &mut bytes);
    bytes
}

fn headers(body_bytes: u32) -> [BatchHeader; 2] {
    let batch = BatchHeader {
        body_bytes,
        records: 2,
        base_offset: Offset(40),
        epoch: 5,
        watermark: Offset(38),
        sealed_unix_ms: 1_700_000_000_001,
        previous_crc: SegmentHeader::crc_of(&segment().encode()),
        is_last: false,
        log_start: Offset(9),
    };
    let closing = BatchHeader {
        body_bytes: 0,
        records: 0,
        base_offset: Offset(42),
        watermark: Offset(42),
        sealed_unix_ms: 1_700_000_000_011,
        previous_crc: BatchHeader::crc_of(&batch.encode(&SEGMENT)),
        is_last: true,
        ..batch
    };
    [batch, closing]
}

fn index(headers: &[BatchHeader; 2]) -> SegmentIndex {
    let mut index = SegmentIndex::new();
    index.push(SEGMENT_HEADER_BYTES, &headers[0]);
    index.push(SEGMENT_HEADER_BYTES + batch_bytes(headers[0].body_bytes), &headers[1]);
    index
}

fn written() -> BTreeMap<String, Vec<u8>> {
    let (message, state) = (encoded(&message()), encoded(&state()));
    let headers = headers((message.len() + state.len()) as u32);
    let vectors = [
        ("segment", segment().encode()),
        ("message", message),
        ("state", state),
        ("batch", headers[0].encode(&SEGMENT).to_vec()),
        ("closing", headers[1].encode(&SEGMENT).to_vec()),
        ("index", index(&headers).encode(&SEGMENT)),
    ];
    vectors.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

#[test]
fn what_is_written_is_on_the_page() {
    vectors::check(PAGE, &written());
}

#[test]
fn what_is_on_the_page_is_read() {
    let page = vectors::page(PAGE);
    assert_eq!(SegmentHeader::decode(&page["segment"]), Ok(segment()));
    assert_eq!(decode(seed(), &page["message"]), Ok(message()));
    assert_eq!(decode(seed(), &page["state"]), Ok(state()));
    let body = [page["message"].as_slice(), &page["state"]].concat();
    let [batch, closing] = headers(body.len() as u32);
    assert_eq!(BatchHeader::decode(&page["batch"], &SEGMENT), Ok(batch));
    assert_eq!(BatchHeader::decode(&page["closing"], &SEGMENT), Ok(closing));
    let records: Vec<_> = Records::new(seed(), &body, batch.base_offset, batch.epoch).collect();
    assert_eq!(records, [Ok(message()), Ok(state())]);
    assert_eq!(SegmentIndex::decode(&page["index"], &SEGMENT), Ok(index(&[batch, closing])));
}
