//! The vectors of docs/formats/replication.md are what the code writes and reads.

use ringlane_dataplane::ids::{CoreId, NodeId, Offset, PartitionId};
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::record::checksum;
use ringlane_dataplane::replication::epochs::{EpochStart, EpochTable};
use ringlane_dataplane::replication::hello::{DirectoryTag, Hello, RdmaEnd, Transports};
use ringlane_dataplane::replication::message::{
    Ack, Append, CheckpointPart, CheckpointStart, Claim, Envelope, Fetch, Fetched, Heartbeat,
    Message, Report, Run,
};
use ringlane_dataplane::replication::wire;
use std::collections::BTreeMap;

#[path = "support/vectors.rs"]
mod vectors;

const PAGE: &str = "replication.md";

fn hello() -> Hello {
    Hello {
        cluster: DirectoryId([0x11; 16]),
        from: NodeId(2),
        to: NodeId(1),
        from_core: CoreId(3),
        to_core: CoreId(0),
        cores: 4,
        partitions: 16,
        message_bytes_max: 1 << 20,
        transports: Transports::TCP.with(Transports::RDMA),
        directory: DirectoryTag([0x44; 6]),
        rdma: RdmaEnd {
            queue_pair: 0x00AB_CDEF,
            packet_sequence: 0x0012_3456,
            gid: [0x33; 16],
            path_mtu: 1024,
            ring_key: 77,
            ring_address: 0x7000_0000_0000,
            ring_bytes: 1 << 21,
        },
    }
}

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

fn messages() -> Vec<(&'static str, Message)> {
    let run = Run { base: Offset(50), records: 2, body_bytes: 5, epoch: 6, previous_epoch: 5 };
    let (high_watermark, quorum_accepted, log_start) = (Offset(48), Offset(49), Offset(1));
    let append = Append { run, high_watermark, quorum_accepted, log_start };
    let ack = Ack { accepted: Offset(52), flushed: Offset(50), credit: 4096, is_gap: true };
    vec![
        ("fence", Message::Fence { counts_memory: false }),
        ("fence_memory", Message::Fence { counts_memory: true }),
        ("fenced", Message::Fenced(Box::new(report()))),
        ("stale", Message::Stale),
        ("truncate", Message::Truncate { to: Offset(44) }),
        ("append", Message::Append(append)),
        ("ack", Message::Ack(ack)),
        ("fetch", Message::Fetch(Fetch { from: Offset(44), bytes_max: 1 << 20 })),
        ("fetched", Message::Fetched(Fetched { run, next: Offset(60) })),
        (
            "checkpoint_start",
            Message::CheckpointStart(CheckpointStart {
                start: Offset(30),
                epoch: 1,
                next: Offset(40),
                bytes: 517,
            }),
        ),
        (
            "checkpoint_part",
            Message::CheckpointPart(CheckpointPart {
                position: 512,
                bytes: 5,
                crc: checksum(&[0x55; 5]),
            }),
        ),
        ("checkpoint_taken", Message::CheckpointTaken { position: 517 }),
        (
            "heartbeat",
            Message::Heartbeat(Heartbeat {
                leader: Some(NodeId(2)),
                hears_leader: true,
                could_lead: true,
            }),
        ),
        ("take_over", Message::TakeOver),
    ]
}

fn envelope(message: Message) -> Envelope {
    Envelope { partition: PartitionId(3), epoch: 6, message }
}

fn written() -> BTreeMap<String, Vec<u8>> {
    let mut vectors = BTreeMap::from([("hello".to_owned(), hello().encode().to_vec())]);
    for (name, message) in messages() {
        let body = vec![0x55; message.body_bytes() as usize];
        let mut bytes = Vec::new();
        envelope(message).encode(&mut bytes);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        vectors.insert(name.to_owned(), bytes);
    }
    vectors
}

#[test]
fn what_is_written_is_on_the_page() {
    vectors::check(PAGE, &written());
}

#[test]
fn what_is_on_the_page_is_read() {
    let page = vectors::page(PAGE);
    assert_eq!(Hello::decode(&page["hello"]), Ok(hello()));
    for (name, message) in messages() {
        let body = vec![0x55; message.body_bytes() as usize];
        assert_eq!(wire::decode(&page[name]), Ok((envelope(message), &body[..])), "{name}");
    }
}
