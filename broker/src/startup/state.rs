//! What the logs say of sessions, put together before a core runs.

use super::checkpoints::{Found, PartitionReplay};
use super::logs::{RecoveredLog, Replay};
use super::manifest::DataDirectory;
use super::{StartError, checkpoints};
use crate::config::{Config, WhenFull};
use crate::delivery::PostedFilters;
use crate::durable::{NodeState, PartitionState, posted_filters};
use crate::replicated::control_mail::Given;
use crate::service::Streams;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::format::{
    DirectoryId, SEGMENT_HEADER_BYTES, SEGMENT_SUFFIX, number_of, segment_name,
};
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::scan::{Chain, LogOwner, Segment, SegmentError, SegmentScan, Step};
use ringlane_dataplane::routing::Placement;
use ringlane_transport_uring::StdFiles;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

impl Replay for PartitionReplay {
    fn from(&self) -> Option<ReplayFrom> {
        self.recovery.replay_from()
    }

    fn on_record(&mut self, record: &Record<'_>) {
        self.recovery.on_record(record);
    }
}

/// A log that is not read as a whole any more, with its checkpoints.
type OpenLog = RecoveredLog<Found>;

/// Puts the state of the node together, from the logs of all of its partitions in rising order.
///
/// # Errors
/// A record that this release cannot read, a log without its beginning and without a checkpoint,
/// or a file that cannot be read again.
pub(super) fn build(
    data: &DataDirectory,
    placement: &Placement,
    recovered: Vec<RecoveredLog<PartitionReplay>>,
    config: &Config,
) -> Result<(Vec<OpenLog>, NodeState), StartError> {
    let (mut logs, mut states) = (Vec::new(), Vec::new());
    for RecoveredLog { partition, directory, log, replay } in recovered {
        let PartitionReplay { recovery, found } = replay;
        if recovery.replay_from().is_none() && log.log_start.0 > 0 {
            let begins = log.log_start.0;
            return Err(StartError::NoCheckpoint { partition: partition.0, directory, begins });
        }
        let state = recovery.finish().map_err(|(offset, error)| StartError::State {
            partition: partition.0,
            offset,
            message: error.to_string(),
        })?;
        states.push(state);
        logs.push(RecoveredLog { partition, directory, log, replay: found });
    }
    let ends: Vec<Offset> = logs.iter().map(|log| log.log.next_offset).collect();
    let id = DirectoryId(data.manifest.id);
    let mut read = |partition: PartitionId, from, each: &mut dyn FnMut(&Record<'_>)| {
        read_from(id, &logs[partition.0 as usize], from, each)
    };
    let mut streams = Streams::new(config);
    let mut is_droppable = |topic: &str| streams.of(topic).when_full == WhenFull::DropOldest;
    let posted = posted_filters(&states, placement);
    let node = NodeState::build((states, posted), &ends, placement, &mut is_droppable, &mut read)?;
    for (log, state) in logs.iter_mut().zip(&node.partitions) {
        let owner = LogOwner { directory: id, partition: log.partition };
        checkpoints::write(&log.directory, &owner, &log.log, state, &mut log.replay);
    }
    Ok((logs, node))
}

/// Puts the state of a node together that is to lead: of the states that its partitions have given, in
/// rising order. Logs are on the disk up to where these go.
///
/// # Errors
/// A log cannot be read.
pub(crate) fn take_over(
    id: DirectoryId,
    directories: &[PathBuf],
    placement: &Placement,
    given: Vec<Given>,
    config: &Config,
) -> Result<NodeState, StartError> {
    let ends: Vec<Offset> = given.iter().map(|given| given.start).collect();
    let given = put_together(given, placement);
    let mut read = |partition: PartitionId, from, each: &mut dyn FnMut(&Record<'_>)| {
        let index = partition.0 as usize;
        let log = LogFiles { id, partition, directory: &directories[index] };
        log.read(from, ends[index], each)
    };
    let mut streams = Streams::new(config);
    let mut is_droppable = |topic: &str| streams.of(topic).when_full == WhenFull::DropOldest;
    NodeState::build(given, &ends, placement, &mut is_droppable, &mut read)
}

/// The states of all partitions, and the filters of all cores that records are posted for.
pub(crate) fn put_together(
    given: Vec<Given>,
    placement: &Placement,
) -> (Vec<PartitionState>, Vec<PostedFilters>) {
    let mut posted: Vec<_> = (0..placement.cores).map(|_| PostedFilters::default()).collect();
    let states = (0..).map(PartitionId).zip(given).map(|(partition, given)| {
        if let Some(of_core) = given.posted {
            posted[placement.owner(partition).index()] = *of_core;
        }
        *given.state
    });
    (states.collect(), posted)
}

/// Reads a recovered log from an offset on.
fn read_from(
    directory: DirectoryId,
    log: &OpenLog,
    from: Offset,
    each: &mut dyn FnMut(&Record<'_>),
) -> Result<(), StartError> {
    let segments = &log.log.segments;
    let behind = segments.partition_point(|segment| segment.base <= from);
    let files = LogFiles { id: directory, partition: log.partition, directory: &log.directory };
    for found in &segments[behind.saturating_sub(1)..] {
        let chain = Chain { next_offset: Some(found.base), ..Chain::default() };
        // Recovery has judged what lies behind the end.
        files.read_segment(found.number, chain, from..log.log.next_offset, each)?;
    }
    Ok(())
}

/// The files of a log.
struct LogFiles<'a> {
    id: DirectoryId,
    partition: PartitionId,
    directory: &'a Path,
}

impl LogFiles<'_> {
    /// Reads a log beside its writer, from an offset up to another one that is on the disk.
    fn read(
        &self,
        from: Offset,
        end: Offset,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<(), StartError> {
        let mut next = from;
        for number in self.segments_behind(from)? {
            if end <= next {
                break;
            }
            let read = self.read_segment(number, Chain::default(), from..end, each)?;
            next = next.max(read);
        }
        if next < end {
            let message = format!("it ends at offset {}, and not at {}", next.0, end.0);
            return Err(self.wrong(self.directory.to_owned(), message));
        }
        Ok(())
    }

    /// The segments from the one on that has an offset, or the first.
    fn segments_behind(&self, from: Offset) -> Result<Vec<u64>, StartError> {
        let names = StdFiles.list(self.directory);
        let names = names.map_err(|error| self.failed(self.directory.to_owned(), &error))?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| number_of(name, SEGMENT_SUFFIX)).collect();
        numbers.sort_unstable();
        for index in (0..numbers.len()).rev() {
            if self.base(numbers[index])?.is_some_and(|base| base <= from) {
                return Ok(numbers.split_off(index));
            }
        }
        Ok(numbers)
    }

    /// The offset of the first record of a segment; `None` if it has none yet.
    fn base(&self, number: u64) -> Result<Option<Offset>, StartError> {
        let segment = self.open(number)?;
        let mut scan =
            SegmentScan::new(&StdFiles, &segment, SEGMENT_HEADER_BYTES, Chain::default());
        let step = scan.step().map_err(|error| self.failed(segment.path.clone(), &error));
        Ok(match step? {
            Step::Batch(batch) => Some(batch.header.base_offset),
            Step::Last | Step::Blank | Step::Bad { .. } => None,
        })
    }

    fn open(&self, number: u64) -> Result<Segment, StartError> {
        let owner = LogOwner { directory: self.id, partition: self.partition };
        let opened = Segment::open(&StdFiles, self.directory, number, &owner);
        opened.map_err(|error| {
            let path = self.directory.join(segment_name(number));
            match error {
                SegmentError::Io(error) => self.failed(path, &error),
                error => self.wrong(path, error.to_string()),
            }
        })
    }

    /// Hands out the records of a segment that are in a range; how far it was read.
    fn read_segment(
        &self,
        number: u64,
        chain: Chain,
        range: Range<Offset>,
        each: &mut dyn FnMut(&Record<'_>),
    ) -> Result<Offset, StartError> {
        let segment = self.open(number)?;
        let mut scan = SegmentScan::new(&StdFiles, &segment, SEGMENT_HEADER_BYTES, chain);
        let mut next = range.start;
        loop {
            let step = scan.step();
            match step.map_err(|error| self.failed(segment.path.clone(), &error))? {
                Step::Batch(batch) => {
                    let wanted = batch.records().filter(|r| range.contains(&r.head.offset));
                    wanted.for_each(|record| each(&record));
                    next = next.max(batch.header.next_offset());
                    if range.end <= next {
                        return Ok(next);
                    }
                }
                Step::Last | Step::Blank => return Ok(next),
                Step::Bad { reason, .. } => {
                    return Err(self.wrong(segment.path.clone(), reason.to_string()));
                }
            }
        }
    }

    fn wrong(&self, path: PathBuf, message: String) -> StartError {
        StartError::Reread { partition: self.partition.0, path, message, errno: None }
    }

    fn failed(&self, path: PathBuf, error: &io::Error) -> StartError {
        let (message, errno) = (error.to_string(), error.raw_os_error());
        StartError::Reread { partition: self.partition.0, path, message, errno }
    }
}
