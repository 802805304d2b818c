//! Tests of logs that begin anew, with the power lost in every step.

use super::epoch_table::epoch_table;
use super::recovery::recover;
use super::reset::{LEARNED_NAME, received, received_name, reset};
use super::rig::{OWNER, recovered, setup};
use super::segments::LogSetup;
use super::truncate::truncate;
use super::truncate_tests::{Fate, Interrupted, copy, log, rig};
use crate::batch::Level;
use crate::disk::StartFiles;
use crate::disk::memory::MemoryDisk;
use crate::ids::Offset;
use core::cell::Cell;
use core::time::Duration;

const START: Offset = Offset(1000);
const OLD: &str = "00000000000000000007.checkpoint";

fn begins_anew() -> LogSetup {
    LogSetup { segment_bytes: 1 << 20, secret: [0x77; 16], ..setup(9) }
}

/// A log with a checkpoint of its own, and one that has come.
fn with_received() -> MemoryDisk {
    let (memory, _) = log();
    let directory = begins_anew().directory;
    memory.put(&directory.join(OLD), b"old");
    memory.put(&directory.join(LEARNED_NAME), b"older");
    memory.put(&directory.join(received_name(START)), b"state");
    memory
}

fn put_in_place(files: &mut dyn StartFiles) -> bool {
    let is_old = |name: &str| name.ends_with(".checkpoint");
    reset(files, &begins_anew(), START, 5, &is_old).is_ok()
}

fn is_in_place(memory: &MemoryDisk) {
    let directory = begins_anew().directory;
    assert_eq!(received(memory, &directory).expect("it is readable"), None);
    assert_eq!(memory.content(&directory.join(LEARNED_NAME)).as_deref(), Some(&b"state"[..]));
    assert_eq!(memory.content(&directory.join(OLD)), None);
    let (found, records) = recovered(memory);
    assert_eq!((found.log_start, found.next_offset, records.len()), (START, START, 0));
    let epochs = epoch_table(memory, &directory, &found, None).expect("readable");
    assert_eq!(epochs.table.starts(), []);

    // It takes records of any epoch, and is found again; also when it is given up again to its start.
    let mut rig = rig(memory.clone(), found.log_end(), 3);
    assert_eq!(rig.partition.marks().start, START);
    rig.append(b"more", Level::LocalDisk);
    rig.settle();
    rig.wait(Duration::from_millis(10));
    rig.settle();
    let (found, records) = recovered(memory);
    assert_eq!((found.log_start, found.next_offset), (START, Offset(START.0 + 1)));
    assert_eq!(records, [(START.0, 3, b"more".to_vec())]);
    let mut files = memory.clone();
    let id = super::format::SegmentId([1; 16]);
    truncate(&mut files, &directory, &OWNER, None, START, id).expect("at its beginning");
    let found = recover(&mut files, &directory, &OWNER, None, &mut |_| {}).expect("it is whole");
    assert_eq!((found.log_start, found.next_offset), (START, START));
}

#[test]
fn a_log_begins_anew_behind_a_checkpoint_that_came() {
    let memory = copy(&with_received());
    let directory = begins_anew().directory;
    let (path, start) = received(&memory, &directory).expect("readable").expect("it has come");
    assert_eq!((path, start), (directory.join(received_name(START)), START));
    assert!(put_in_place(&mut memory.clone()));
    is_in_place(&memory);
}

#[test]
fn a_crash_in_any_step_is_gone_on_from() {
    let whole = with_received();
    let directory = begins_anew().directory;
    let mut interrupted = 0;
    for fate in [Fate::Nothing, Fate::All] {
        for left in 1.. {
            let memory = copy(&whole);
            let mut files = Interrupted { files: memory.clone(), left: Cell::new(left), fate };
            if put_in_place(&mut files) {
                break;
            }
            interrupted += 1;
            if received(&memory, &directory).expect("it is readable").is_some() {
                assert!(put_in_place(&mut memory.clone()), "step {left}");
            }
            is_in_place(&memory);
        }
    }
    assert!(interrupted > 10, "{interrupted}");
}

#[test]
fn a_log_that_has_never_been_becomes_one_that_begins_later() {
    let mut memory = MemoryDisk::new();
    let directory = begins_anew().directory;
    memory.make_directory(&directory).expect("a disk in memory");
    memory.put(&directory.join(received_name(START)), b"state");
    assert!(put_in_place(&mut memory));
    is_in_place(&memory);
}
