//! What the logs say of sessions, put together before a core runs.

use super::checkpoints::{Found, PartitionReplay};
use super::logs::{RecoveredLog, Replay};
use super::manifest::DataDirectory;
use super::{StartError, checkpoints};
use crate::config::{Config, WhenFull};
use crate::durable::NodeState;
use crate::service::Streams;
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::format::{DirectoryId, SEGMENT_HEADER_BYTES};
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::scan::{Chain, LogOwner, Segment, SegmentScan, Step};
use ringlane_dataplane::routing::Placement;
use ringlane_transport_uring::StdFiles;
use std::path::PathBuf;

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
    let node = NodeState::build(states, &ends, placement, &mut is_droppable, &mut read)?;
    for (log, state) in logs.iter_mut().zip(&node.partitions) {
        let owner = LogOwner { directory: id, partition: log.partition };
        checkpoints::write(&log.directory, &owner, &log.log, state, &mut log.replay);
    }
    Ok((logs, node))
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
    for found in &segments[behind.saturating_sub(1)..] {
        let partition = log.partition.0;
        let wrong =
            |path: PathBuf, message: String| StartError::Reread { partition, path, message };
        let owner = LogOwner { directory, partition: log.partition };
        let segment = Segment::open(&StdFiles, &log.directory, found.number, &owner)
            .map_err(|error| wrong(log.directory.clone(), error.to_string()))?;
        let chain = Chain { next_offset: Some(found.base), ..Chain::default() };
        let mut scan = SegmentScan::new(&StdFiles, &segment, SEGMENT_HEADER_BYTES, chain);
        loop {
            match scan.step().map_err(|error| wrong(segment.path.clone(), error.to_string()))? {
                Step::Batch(batch) => {
                    batch
                        .records()
                        .filter(|record| from <= record.head.offset)
                        .for_each(|r| each(&r));
                }
                // Recovery has judged what lies behind the end.
                Step::Last | Step::Blank => break,
                Step::Bad { reason, .. } => {
                    return Err(wrong(segment.path.clone(), reason.to_string()));
                }
            }
        }
    }
    Ok(())
}
