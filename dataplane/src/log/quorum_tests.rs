//! What is committed, and when, where a majority of the replicas counts.

use super::reader::Next;
use super::rig::Rig;
use super::writer::{LINGER, QuorumMarks};
use crate::batch::{Level, Promise};
use crate::ids::Offset;
use crate::log::record::RecordKind;
use crate::partition::StateParts;

const QUORUM_MEMORY: Promise = Promise { level: Level::Memory, quorum: true };
const QUORUM_DISK: Promise = Promise { level: Level::LocalDisk, quorum: true };

fn note(rig: &mut Rig, accepted: u64, flushed: u64) {
    let marks = QuorumMarks { accepted: Offset(accepted), flushed: Offset(flushed) };
    rig.partition.log_mut().expect("it has one").note_quorum(marks);
    rig.turn();
}

fn replicated() -> Rig {
    let mut rig = Rig::ready();
    note(&mut rig, 0, 0);
    rig
}

#[test]
fn a_majority_in_memory_commits_before_any_disk() {
    let mut rig = replicated();
    rig.append(b"0", QUORUM_MEMORY);
    rig.append(b"1", QUORUM_MEMORY);
    rig.turn();
    rig.wait(LINGER);
    rig.settle();
    assert_eq!(rig.partition.marks().flushed, Offset(2), "this node's disk decides nothing");
    assert_eq!(rig.offsets(), []);
    note(&mut rig, 1, 0);
    assert_eq!(rig.offsets(), [], "they lie in one batch, which goes as a whole");
    note(&mut rig, 2, 0);
    assert_eq!(rig.offsets(), [0, 1]);
    assert_eq!(rig.partition.committed(Level::Memory), Offset(2));
}

#[test]
fn a_majority_on_disk_is_waited_for_and_so_is_this_node() {
    let mut rig = replicated();
    rig.append(b"0", QUORUM_DISK);
    rig.settle();
    let marks = rig.partition.marks();
    assert_eq!((marks.flushed, marks.high_watermark), (Offset(1), Offset(0)));
    note(&mut rig, 1, 0);
    assert_eq!(rig.offsets(), [], "in memory is not on disk");
    note(&mut rig, 1, 1);
    assert_eq!(rig.offsets(), [0]);
    rig.append(b"1", QUORUM_DISK);
    rig.turn();
    note(&mut rig, 2, 2);
    rig.settle();
    assert_eq!(rig.offsets(), [0, 1]);
    assert_eq!(rig.partition.marks().high_watermark, Offset(2));
}

/// What a majority is to have in memory goes to the others at once; the round is gone on with all the same.
#[test]
fn a_round_that_waits_for_more_begins_in_time_whatever_is_queued() {
    let mut rig = replicated();
    let millisecond = core::time::Duration::from_millis(1);
    for rounds in 1..=4 {
        for _ in 0..20 {
            rig.append(b"many", QUORUM_DISK);
        }
        rig.turn();
        // It has begun now, and takes as long.
        (0..3).for_each(|_| rig.wait(millisecond));
        rig.settle();
        note(&mut rig, rounds * 20, rounds * 20);
    }
    rig.append(b"one", QUORUM_DISK);
    rig.append(b"two", QUORUM_MEMORY);
    rig.turn();
    let log = rig.log();
    assert!(log.takes_rounds(), "it waits for the other eighteen");
    assert!(!log.holds(), "and has the others do what they can meanwhile");
    let due = log.next_deadline();
    assert!(rig.now < due && due <= rig.now + millisecond * 3, "{due:?} at {:?}", rig.now);
}

#[test]
fn levels_that_are_mixed_are_committed_in_the_order_of_each() {
    let mut rig = replicated();
    rig.partition.note_lease(true);
    rig.append(b"0", Level::Memory);
    rig.turn();
    assert_eq!(rig.offsets(), [0], "what this node has in memory was all that was promised");
    rig.append(b"1", QUORUM_MEMORY);
    rig.turn();
    rig.append(b"2", Level::Memory);
    rig.append(b"3", Level::LocalDisk);
    rig.turn();
    assert_eq!(rig.offsets(), [0], "a record does not pass the one before it");
    rig.append(b"4", QUORUM_DISK);
    rig.settle();
    note(&mut rig, 2, 0);
    assert_eq!(rig.offsets(), [0, 1, 2, 3]);
    rig.settle();
    note(&mut rig, 5, 4);
    assert_eq!(rig.offsets(), [0, 1, 2, 3]);
    note(&mut rig, 5, 5);
    assert_eq!(rig.offsets(), [0, 1, 2, 3, 4]);
}

#[test]
fn without_a_lease_what_one_node_has_waits_for_a_majority() {
    let mut rig = replicated();
    rig.append(b"0", Level::Memory);
    rig.append(b"1", Level::LocalDisk);
    rig.settle();
    assert_eq!(rig.partition.marks().flushed, Offset(2));
    assert_eq!(rig.offsets(), [], "nobody has said that it has one");
    note(&mut rig, 2, 0);
    assert_eq!(rig.offsets(), [0], "a majority has it in memory");
    rig.partition.note_lease(true);
    rig.turn();
    assert_eq!(rig.offsets(), [0, 1], "this node has it on its disk");
    rig.partition.note_lease(false);
    rig.append(b"2", Level::LocalDisk);
    rig.append(b"3", QUORUM_DISK);
    rig.settle();
    assert_eq!(rig.offsets(), [0, 1], "it has run out");
    note(&mut rig, 4, 4);
    assert_eq!(rig.offsets(), [0, 1, 2, 3], "a majority needs none");
}

#[test]
fn a_record_of_state_waits_for_a_majority_where_there_are_replicas() {
    let mut rig = replicated();
    let kind = RecordKind(16);
    let state = StateParts { kind, client_id: "c", topic: "", body: &[1], unix_ms: 0 };
    rig.partition.append_state(&mut rig.pool, &state, Some(0));
    rig.settle();
    assert_eq!(rig.committed.len(), 0);
    note(&mut rig, 1, 1);
    assert_eq!(rig.committed, [(0, Level::LocalDisk, Some(0))]);
}

#[test]
fn a_partition_that_is_led_no_more_says_so_until_its_next_epoch() {
    let mut rig = replicated();
    rig.append(b"0", QUORUM_DISK);
    rig.settle();
    assert!(!rig.partition.is_abandoned());
    assert_eq!(rig.partition.committed(Level::LocalDisk).0, 0, "no majority has it");
    rig.partition.abandon();
    assert!(rig.partition.is_abandoned());
    rig.partition.begin_epoch(&mut rig.pool, 9, 0);
    assert!(!rig.partition.is_abandoned());
}

#[test]
fn nothing_gets_into_the_log_behind_what_a_deposed_leader_let_go_of() {
    let mut rig = replicated();
    rig.append(b"0", QUORUM_DISK);
    rig.settle();
    rig.append(b"1", QUORUM_DISK);
    rig.partition.abandon();
    rig.append(b"2", QUORUM_DISK);
    rig.append(b"3", Level::Memory);
    let state =
        StateParts { kind: RecordKind(16), client_id: "c", topic: "", body: &[1], unix_ms: 0 };
    rig.partition.append_state(&mut rig.pool, &state, Some(4));
    rig.settle();
    let log = rig.partition.log().expect("it has one").marks();
    assert_eq!(log.accepted, Offset(1), "the second was not sealed, and the others follow it");
    note(&mut rig, 1, 1);
    assert_eq!(rig.offsets(), [], "nobody is answered");
    let (end, marks) = (rig.partition.next_offset(), rig.partition.marks());
    assert!(marks.high_watermark < end, "who waits for what was appended waits for ever");
}

#[test]
fn what_a_majority_has_not_flushed_is_not_read() {
    let mut rig = replicated();
    rig.append(b"0", QUORUM_DISK);
    rig.settle();
    rig.append(b"1", QUORUM_DISK);
    rig.settle();
    note(&mut rig, 2, 1);
    rig.read_from(0);
    assert_eq!(read(&mut rig), [b"0"]);
    note(&mut rig, 2, 2);
    assert_eq!(read(&mut rig), [b"1"]);
}

fn read(rig: &mut Rig) -> Vec<Vec<u8>> {
    let mut read = Vec::new();
    for _ in 0..50 {
        let mut reader = rig.reader.take().expect("one that reads");
        while let Next::Record(record) = reader.next_record() {
            read.push(record.payload.to_vec());
        }
        reader.ask(rig.partition.log().expect("it has one"), &mut rig.disk);
        rig.reader = Some(reader);
        rig.turn();
    }
    read
}

#[test]
#[should_panic(expected = "stays so")]
fn the_high_watermark_never_goes_back() {
    let mut rig = replicated();
    rig.append(b"0", QUORUM_DISK);
    rig.settle();
    note(&mut rig, 1, 1);
    note(&mut rig, 1, 0);
}
