//! Walking through the batches of a log, from segment to segment, as far as they go.

use super::ToolError;
use super::directory::PartitionLog;
use super::place::first_batch;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::SEGMENT_HEADER_BYTES;
use ringlane_dataplane::log::recovery::{RecoverError, ReplayFrom};
use ringlane_dataplane::log::scan::{BadBatch, Chain, GoodBatch, Segment, SegmentScan, Step};
use ringlane_transport_uring::StdFiles;
use std::ops::ControlFlow;

/// Where a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At {
    /// The number of the segment.
    pub(super) segment: u64,
    /// Where in it the next batch begins, or will begin.
    pub(super) position: u64,
    /// What is known of the batches before.
    pub(super) chain: Chain,
}

impl At {
    /// The first batch of a segment, whatever its offset is.
    pub(super) fn beginning_of(segment: u64) -> Self {
        Self { segment, position: SEGMENT_HEADER_BYTES, chain: Chain::default() }
    }

    /// Where replay begins.
    pub(super) fn behind(from: &ReplayFrom) -> Self {
        let chain = Chain { next_offset: Some(from.offset), ..Chain::default() };
        Self { segment: from.segment, position: from.position, chain }
    }
}

/// Why a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// It was told to.
    Told,
    /// No good batch follows; with a reason if there is something else.
    End(Option<BadBatch>),
}

/// Takes a batch and the number of its segment.
pub(super) type OnBatch<'a> =
    dyn FnMut(u64, &GoodBatch<'_>) -> Result<ControlFlow<()>, ToolError> + 'a;

/// Walks on from `at`, and leaves it behind the last batch that `on_batch` did
/// not end at.
pub(super) fn walk(
    log: &PartitionLog,
    at: &mut At,
    on_batch: &mut OnBatch<'_>,
) -> Result<Stop, ToolError> {
    loop {
        if let Some(first) = log.files()?.first().filter(|&&first| at.segment < first) {
            // The broker has trimmed it meanwhile.
            *at = At::beginning_of(*first);
        }
        let segment = log.segment(at.segment)?;
        if let Some(stop) = walk_segment(&segment, at, on_batch)? {
            return Ok(stop);
        }
        if !log.files()?.contains(&(at.segment + 1)) {
            return Ok(Stop::End(None));
        }
        at.segment += 1;
        at.position = SEGMENT_HEADER_BYTES;
    }
}

/// `None`: the segment ends here and the next one follows.
fn walk_segment(
    segment: &Segment,
    at: &mut At,
    on_batch: &mut OnBatch<'_>,
) -> Result<Option<Stop>, ToolError> {
    let mut scan = SegmentScan::new(&StdFiles, segment, at.position, at.chain);
    loop {
        let step = scan.step().map_err(|error| ToolError::io("read", &segment.path, &error))?;
        match step {
            Step::Batch(batch) => {
                if on_batch(at.segment, &batch)?.is_break() {
                    return Ok(Some(Stop::Told));
                }
                at.position = scan.position();
                at.chain = *scan.chain();
            }
            Step::Last => return Ok(None),
            Step::Blank => return Ok(Some(Stop::End(None))),
            Step::Bad { reason, .. } => return Ok(Some(Stop::End(Some(reason)))),
        }
    }
}

/// What a start would say against the place where a walk found no good batch.
pub(super) fn damage(log: &PartitionLog, at: &At) -> Option<RecoverError> {
    let known = at.chain.next_offset.or_else(|| {
        let segment = log.segment(at.segment).ok()?;
        Some(first_batch(&segment).ok()??.base_offset)
    });
    let from = known.map(|offset| ReplayFrom {
        offset,
        segment: at.segment,
        position: at.position,
        flushed: at.chain.watermark,
    });
    log.inspect(from.as_ref(), Offset(0), &mut |_, _| ()).err()
}
