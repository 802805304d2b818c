//! Walking through the batches of a log, from segment to segment, as far as they go.

use super::ToolError;
use super::directory::PartitionLog;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::SEGMENT_HEADER_BYTES;
use ringlane_dataplane::log::scan::{
    BadBatch, Chain, GoodBatch, Segment, SegmentScan, Step, look_behind,
};
use ringlane_transport_uring::StdFiles;
use std::ops::ControlFlow;
use std::path::PathBuf;

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
        if let Some(first) = log.segments()?.first().filter(|&&first| at.segment < first) {
            // The broker has trimmed it meanwhile.
            *at = At::beginning_of(*first);
        }
        let segment = log.segment(at.segment)?;
        if let Some(stop) = walk_segment(&segment, at, on_batch)? {
            return Ok(stop);
        }
        if !log.segments()?.contains(&(at.segment + 1)) {
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

/// What lies at the end of a walk.
#[derive(Debug)]
pub(super) enum End {
    /// Nothing.
    Clean,
    /// What a crash left: the next start cuts it. Bytes of it in the last segment.
    Torn(u64),
    /// Records that were durable cannot be read.
    Damaged(Damage),
}

/// A place that should be good and is not.
#[derive(Debug)]
pub(super) struct Damage {
    pub(super) path: PathBuf,
    pub(super) position: u64,
    pub(super) next: Option<Offset>,
    pub(super) flushed: Offset,
    pub(super) reason: Option<BadBatch>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: damaged at position {}", self.path.display(), self.position)?;
        if let Some(next) = self.next {
            write!(f, ", offset {}", next.0)?;
        }
        match &self.reason {
            Some(reason) => write!(f, ": {reason}")?,
            None => f.write_str(": nothing is there")?,
        }
        write!(f, "; the records below offset {} were durable", self.flushed.0)
    }
}

/// Judges the place where a walk found no good batch, as recovery does.
pub(super) fn judge(
    log: &PartitionLog,
    at: &At,
    reason: Option<BadBatch>,
) -> Result<End, ToolError> {
    let look = |number: u64, position: u64| {
        let segment = log.segment(number)?;
        look_behind(&StdFiles, &segment, position)
            .map_err(|error| ToolError::io("read", &segment.path, &error))
    };
    let rest = look(at.segment, at.position)?;
    let (mut flushed, mut is_used) = (at.chain.watermark.max(rest.watermark), rest.is_used);
    let mut has_later = false;
    for number in log.segments()?.into_iter().filter(|&number| number > at.segment) {
        let later = look(number, SEGMENT_HEADER_BYTES)?;
        flushed = flushed.max(later.watermark);
        has_later |= later.is_used;
    }
    is_used |= has_later;
    let next = at.chain.next_offset;
    let is_damaged = reason == Some(BadBatch::Chain) || next.map_or(is_used, |next| flushed > next);
    Ok(if is_damaged {
        let path = log.segment_path(at.segment);
        End::Damaged(Damage { path, position: at.position, next, flushed, reason })
    } else if is_used {
        End::Torn(rest.end.saturating_sub(at.position))
    } else {
        End::Clean
    })
}
