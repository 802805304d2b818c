//! Tests of the wire: what goes in comes out, and no bytes are believed.

use super::*;
use proptest::prelude::*;

const PARTITION: PartitionId = PartitionId(3);

fn report() -> Report {
    let starts = [(1, 0), (5, 40)].map(|(epoch, first)| EpochStart { epoch, first: Offset(first) });
    Report {
        log_start: Offset(2),
        next: Offset(50),
        flushed: Offset(48),
        high_watermark: Offset(45),
        damage: Some(Claim { epoch: 5, watermark: Offset(49) }),
        memory_lost: 4,
        epochs: EpochTable::from_starts(starts.into()).expect("they rise"),
    }
}

fn run() -> Run {
    Run { base: Offset(50), records: 2, body_bytes: 101, epoch: 6, previous_epoch: 5 }
}

fn append() -> Append {
    Append {
        run: run(),
        high_watermark: Offset(48),
        quorum_accepted: Offset(49),
        log_start: Offset(1),
    }
}

fn messages() -> Vec<Message> {
    let empty = Run { records: 0, body_bytes: 0, epoch: 5, ..run() };
    vec![
        Message::Fence { counts_memory: false },
        Message::Fence { counts_memory: true },
        Message::Fenced(Box::new(report())),
        Message::Fenced(Box::default()),
        Message::Stale,
        Message::Truncate { to: Offset(44) },
        Message::Append(append()),
        Message::Append(Append { run: empty, ..append() }),
        Message::Ack(Ack { accepted: Offset(52), flushed: Offset(50), credit: 99, is_gap: true }),
        Message::Fetch(Fetch { from: Offset(44), bytes_max: 1 << 20 }),
        Message::Fetched(Fetched { run: run(), next: Offset(60) }),
        Message::CheckpointStart(checkpoint()),
        Message::CheckpointPart(CheckpointPart { position: 512, bytes: 488, crc: 7 }),
        Message::CheckpointTaken { position: 1000 },
        Message::Heartbeat(Heartbeat {
            leader: Some(NodeId(2)),
            hears_leader: true,
            could_lead: false,
        }),
        Message::Heartbeat(Heartbeat { leader: None, hears_leader: false, could_lead: true }),
        Message::TakeOver,
    ]
}

fn checkpoint() -> CheckpointStart {
    CheckpointStart { start: Offset(30), epoch: 1, next: Offset(40), bytes: 1000 }
}

fn encoded(message: Message) -> Vec<u8> {
    let body = message.body_bytes() as usize;
    let mut bytes = vec![0xAA; 3];
    Envelope { partition: PARTITION, epoch: 6, message }.encode(&mut bytes);
    bytes.drain(..3);
    bytes.resize(bytes.len() + body, 0x55);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

#[test]
fn what_is_said_is_heard() {
    for message in messages() {
        let bytes = encoded(message.clone());
        assert_eq!(bytes_of(&bytes, u32::MAX), Ok(Some(bytes.len() as u32)), "{message:?}");
        let (envelope, body) = decode(&bytes).expect("a message");
        assert_eq!(behind_head(&bytes), body.len().next_multiple_of(8));
        assert_eq!(body, vec![0x55; message.body_bytes() as usize]);
        assert_eq!(envelope, Envelope { partition: PARTITION, epoch: 6, message });
    }
}

#[test]
fn every_changed_bit_of_a_head_is_seen() {
    for message in messages() {
        let mut bytes = encoded(message.clone());
        let head = bytes.len() - align(u64::from(message.body_bytes())) as usize;
        assert!(head <= HEAD_BYTES_MAX);
        for bit in 0..head * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes).is_err(), "bit {bit} of {message:?}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{end} bytes of {message:?}");
        }
        bytes.extend([0; 8]);
        assert_eq!(decode(&bytes), Err(WireError::Length));
    }
}

#[test]
fn a_flag_that_a_message_has_not_is_refused() {
    let mut bytes = encoded(Message::Truncate { to: Offset(7) });
    bytes[10] |= 1;
    mend_checksum(&mut bytes).expect("a head");
    assert_eq!(decode(&bytes).err(), Some(WireError::Value));
}

#[test]
fn a_claim_of_a_log_that_is_not_damaged_is_refused() {
    let mut bytes = encoded(Message::Fenced(Box::default()));
    let claimed_epoch = HEADER_BYTES + 32;
    bytes[claimed_epoch] = 1;
    mend_checksum(&mut bytes).expect("a head");
    assert_eq!(decode(&bytes).err(), Some(WireError::Value));
}

#[test]
fn the_longest_report_fits() {
    let starts = (1..=2 * REPORTED_MAX as u64).map(|n| EpochStart { epoch: n, first: Offset(n) });
    let epochs = EpochTable::from_starts(starts.collect()).expect("they rise");
    let long = Report { next: Offset(1000), flushed: Offset(999), epochs, ..Report::default() };
    let bytes = encoded(Message::Fenced(Box::new(long.clone())));
    assert!(bytes.len() <= HEAD_BYTES_MAX);
    let (envelope, _) = decode(&bytes).expect("a message");
    let Message::Fenced(report) = envelope.message else { panic!("a report") };
    assert_eq!(report.epochs.starts(), long.epochs.newest());
}

#[test]
fn a_length_is_bounded_before_it_is_believed() {
    assert_eq!(bytes_of(&[1, 2, 3], u32::MAX), Ok(None));
    for (bytes, max) in [(23, 1000), (25, 1000), (1008, 1000), (0, 1000), (u32::MAX - 7, u32::MAX)]
    {
        let given = u32::to_le_bytes(bytes);
        assert_eq!(bytes_of(&given, max), Err(WireError::Length), "{bytes} of {max}");
    }
}

#[test]
fn padding_is_zeros() {
    let mut bytes = encoded(Message::Append(append()));
    *bytes.last_mut().expect("padding") = 1;
    assert_eq!(decode(&bytes), Err(WireError::Value));
}

/// Bytes that another may write to, which is what a ring is.
#[derive(Debug)]
struct Elsewhere(Vec<u8>);

impl Foreign for Elsewhere {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn copy_to(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0[at..at + into.len()]);
    }
}

#[test]
fn records_are_read_with_their_body_elsewhere_and_nothing_else_is() {
    for message in messages() {
        let bytes = encoded(message.clone());
        let is_append = matches!(message, Message::Append(_));
        assert!(records_head_bytes(&bytes[..HEADER_BYTES - 1]).is_none());
        let Some(head_bytes) = records_head_bytes(&bytes) else {
            assert!(!is_append, "{message:?}");
            continue;
        };
        let (head, body) = bytes.split_at(head_bytes);
        let body = Elsewhere(body.to_vec());
        let (envelope, arrived) = decode_records(head, &body).expect("records");
        assert_eq!(arrived.len(), message.body_bytes() as usize);
        assert!(is_append && arrived.own().is_none());
        assert_eq!(envelope.message, message);
    }
}

#[test]
fn records_whose_body_is_elsewhere_are_believed_no_more_than_others() {
    let bytes = encoded(Message::Append(append()));
    let (head, body) = bytes.split_at(records_head_bytes(&bytes).expect("records"));
    let mut head = head.to_vec();
    for bit in 0..head.len() * 8 {
        head[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_records(&head, &Elsewhere(body.to_vec())).is_err(), "bit {bit}");
        head[bit / 8] ^= 1 << (bit % 8);
    }
    for body in [&body[..body.len() - 8], &[body, &[0; 8]].concat()] {
        let error = decode_records(&head, &Elsewhere(body.to_vec())).err();
        assert_eq!(error, Some(WireError::Length));
    }
    let mut dirty = body.to_vec();
    *dirty.last_mut().expect("padding") = 1;
    assert_eq!(decode_records(&head, &Elsewhere(dirty)).err(), Some(WireError::Value));
}

#[test]
fn impossible_numbers_are_refused() {
    let ack = Ack { accepted: Offset(1), flushed: Offset(2), ..Ack::default() };
    let late = Run { previous_epoch: 7, ..run() };
    let marks = Append { high_watermark: Offset(50), ..append() };
    let beyond = Report { flushed: Offset(51), ..report() };
    let unknown = Report { epochs: EpochTable::new(), ..report() };
    let refused = [
        Message::Ack(ack),
        Message::Append(Append { run: late, ..append() }),
        Message::Append(Append { run: Run { records: 0, ..run() }, ..append() }),
        Message::Append(marks),
        Message::Truncate { to: Offset(COUNT_MAX + 1) },
        Message::Fenced(Box::new(beyond)),
        Message::Fenced(Box::new(unknown)),
        Message::Fetched(Fetched { run: run(), next: Offset(51) }),
        Message::CheckpointPart(CheckpointPart { position: u64::MAX, bytes: 8, crc: 0 }),
        Message::CheckpointStart(CheckpointStart { next: Offset(29), ..checkpoint() }),
        Message::CheckpointStart(CheckpointStart { start: Offset(0), ..checkpoint() }),
        Message::CheckpointStart(CheckpointStart { bytes: 0, ..checkpoint() }),
        Message::Heartbeat(Heartbeat {
            leader: Some(NodeId(9)),
            hears_leader: false,
            could_lead: false,
        }),
    ];
    for message in refused {
        assert_eq!(decode(&encoded(message.clone())), Err(WireError::Value), "{message:?}");
    }
    let mut epoch = Vec::new();
    let message = Message::Fence { counts_memory: false };
    Envelope { partition: PARTITION, epoch: COUNT_MAX + 1, message }.encode(&mut epoch);
    assert_eq!(decode(&epoch), Err(WireError::Value));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 24..700),
        kind in 0_u16..16,
    ) {
        bytes.truncate(bytes.len() / 8 * 8);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[8..10].copy_from_slice(&kind.to_le_bytes());
        bytes[10..12].copy_from_slice(&[0; 2]);
        prop_assert!(decode(&bytes).is_err());
        // The same with a checksum that fits: whatever is read can be said again.
        if mend_checksum(&mut bytes).is_some() && let Ok((envelope, body)) = decode(&bytes) {
            let mut again = Vec::new();
            envelope.encode(&mut again);
            prop_assert_eq!(&again[..], &bytes[..again.len()]);
            prop_assert_eq!(body.len(), envelope.message.body_bytes() as usize);
        }
    }
}
