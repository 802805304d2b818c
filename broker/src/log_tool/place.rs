//! Where reading begins: the segment, and in it the batch that its index names.

use super::ToolError;
use super::directory::PartitionLog;
use super::select::From;
use super::walk::At;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::{
    BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, index_name,
};
use ringlane_dataplane::log::index::SegmentIndex;
use ringlane_dataplane::log::scan::{Chain, Segment};
use ringlane_transport_uring::StdFiles;

/// A place from which everything that is wanted follows; `None` if there is no segment.
pub(super) fn begin(log: &PartitionLog, from: From) -> Result<Option<At>, ToolError> {
    let numbers = log.segments()?;
    let Some(&first) = numbers.first() else { return Ok(None) };
    let mut at = At::beginning_of(first);
    if from == From::Earliest {
        return Ok(Some(at));
    }
    for &number in &numbers {
        let segment = log.segment(number)?;
        if !may_begin_in(&segment, from)? {
            break;
        }
        at = At::beginning_of(number);
        let entry = read_index(log, &segment).and_then(|index| match from {
            From::Offset(offset) => index.find(Offset(offset)),
            From::Time(unix_ms) => index.find_time(unix_ms),
            From::Latest | From::Earliest => index.entries().last().copied(),
        });
        if let Some(entry) = entry {
            let next_offset = Some(entry.offset);
            at.position = entry.position;
            at.chain = Chain { next_offset, ..Chain::default() };
        }
    }
    Ok(Some(at))
}

/// Whether all that lies in earlier segments is before the place that is wanted.
fn may_begin_in(segment: &Segment, from: From) -> Result<bool, ToolError> {
    let Some(header) = first_batch(segment)? else { return Ok(false) };
    Ok(match from {
        From::Earliest => false,
        From::Latest => true,
        From::Offset(offset) => header.base_offset.0 <= offset,
        From::Time(unix_ms) => header.sealed_unix_ms < unix_ms,
    })
}

/// The first batch's header; `None` if there is none.
pub(super) fn first_batch(segment: &Segment) -> Result<Option<BatchHeader>, ToolError> {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let count = StdFiles
        .read_at(&segment.path, SEGMENT_HEADER_BYTES, &mut bytes)
        .map_err(|error| ToolError::io("read", &segment.path, &error))?;
    Ok(BatchHeader::decode(&bytes[..count], &segment.header.segment).ok())
}

/// The index of a segment, if there is a good one.
pub(super) fn read_index(log: &PartitionLog, segment: &Segment) -> Option<SegmentIndex> {
    let path = log.path.join(index_name(segment.header.number));
    let bytes = std::fs::read(path).ok()?;
    SegmentIndex::decode(&bytes, &segment.header.segment).ok()
}
