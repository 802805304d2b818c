//! `ringlane log truncate-tail`: gives up the end of a log by hand, where recovery refuses to.

use super::ToolError;
use super::directory::{Directory, PartitionLog};
use super::walk::{At, End, Stop, judge, walk};
use crate::durable::checkpoint;
use crate::startup::manifest;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::log::format::{index_name, number_of};
use ringlane_transport_uring::StdFiles;
use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const CHECKPOINT_SUFFIX: &str = ".checkpoint";

/// What is to be given up.
struct Cut {
    /// The segment that is cut, and where; `None` if only whole segments go.
    zeroed: Option<(PathBuf, u64)>,
    next: Option<u64>,
    removed: Vec<PathBuf>,
}

/// Cuts the log of a partition before `offset`, or at its first damage.
pub(super) fn run(
    data_dir: &Path,
    partition: u32,
    offset: Option<u64>,
    yes: bool,
) -> Result<(), ToolError> {
    let failed = |error: manifest::ManifestError| ToolError::Failed(error.to_string());
    // Held to the end: no broker starts meanwhile.
    let _lock = manifest::hold(data_dir).map_err(failed)?;
    let directory = Directory::open(data_dir)?;
    let log = directory.partitions(&[partition])?.remove(0);
    let Some(cut) = find(&log, offset)? else {
        return say("nothing to give up: the log has no end before that offset");
    };
    say(&cut.text(partition))?;
    if !yes {
        return say("nothing was changed; add --yes to do it");
    }
    // From the end to the front: after a crash in between the rest is still the end of a log.
    StdFiles.remove(&cut.removed).map_err(|error| ToolError::io("cut", &log.path, &error))?;
    if let Some((path, position)) = &cut.zeroed {
        StdFiles.zero_from(path, *position).map_err(|error| ToolError::io("cut", path, &error))?;
    }
    say("done")
}

fn find(log: &PartitionLog, offset: Option<u64>) -> Result<Option<Cut>, ToolError> {
    let numbers = log.segments()?;
    let Some(&first) = numbers.first() else { return Ok(None) };
    let mut at = At::beginning_of(first);
    let walked = walk(log, &mut at, &mut |_, batch| {
        let is_beyond = offset.is_some_and(|offset| offset < batch.header.next_offset().0);
        Ok(if is_beyond { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let next = at.chain.next_offset.map(|next| next.0);
    match (walked, offset) {
        (Ok(Stop::Told), _) => {}
        (Ok(Stop::End(reason)), None) if matches!(judge(log, &at, reason)?, End::Clean) => {
            return Ok(None);
        }
        (_, Some(offset)) if next.is_none_or(|next| next < offset) => {
            let message = format!(
                "the log cannot be read beyond offset {}; leave --at out to give up what follows",
                next.unwrap_or_default()
            );
            return Err(ToolError::Failed(message));
        }
        // A segment that cannot be opened is given up, too.
        (Ok(Stop::End(_)) | Err(ToolError::Failed(_)), _) => {}
        (Err(error), _) => return Err(error),
    }
    let names =
        StdFiles.list(&log.path).map_err(|error| ToolError::io("list", &log.path, &error))?;
    // A segment without a good batch before the cut says nothing about where to go on.
    let keeps = next.is_some() && log.segment(at.segment).is_ok();
    let path = log.segment_path(at.segment);
    let gone = |&&number: &&u64| at.segment < number || (at.segment == number && !keeps);
    let mut removed: Vec<_> = numbers
        .iter()
        .filter(gone)
        .rev()
        .flat_map(|&number| [log.segment_path(number), log.path.join(index_name(number))])
        .collect();
    removed.push(log.path.join(index_name(at.segment)));
    let is_stale = |name: &&String| {
        number_of(name, CHECKPOINT_SUFFIX)
            .is_some_and(|replay| next.is_none_or(|n| n < known_flushed(log, name, replay)))
    };
    removed.extend(names.iter().filter(is_stale).map(|name| log.path.join(name)));
    removed.retain(|path| path.exists());
    Ok(Some(Cut { zeroed: keeps.then_some((path, at.position)), next, removed }))
}

/// Up to where a checkpoint says that the log was durable: recovery takes a log that ends before it
/// for damaged.
fn known_flushed(log: &PartitionLog, name: &str, replay: u64) -> u64 {
    let file = fs::read(log.path.join(name)).unwrap_or_default();
    checkpoint::place(&log.owner, &file).map_or(replay, |from| replay.max(from.flushed.0))
}

impl Cut {
    fn text(&self, partition: u32) -> String {
        let mut text = match self.next {
            Some(next) => format!("partition {partition}: given up from offset {next}"),
            None => format!("partition {partition}: all records are given up"),
        };
        if let Some((path, position)) = &self.zeroed {
            text.push_str(&format!(", at position {position} of {}", path.display()));
        }
        for path in &self.removed {
            text.push_str(&format!("\n  removed: {}", path.display()));
        }
        text
    }
}

fn say(text: &str) -> Result<(), ToolError> {
    writeln!(io::stdout(), "{text}").map_err(|error| ToolError::output(&error))
}
