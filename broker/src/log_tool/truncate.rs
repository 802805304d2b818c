//! `ringlane log truncate-tail`: gives up the end of a log by hand, where recovery refuses to.

use super::ToolError;
use super::directory::{Directory, PartitionLog};
use super::place::first_batch;
use super::select::unix_ms_now;
use super::walk::{At, Stop, walk};
use crate::durable::{PartitionState, checkpoint};
use crate::startup::manifest;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::{
    BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, index_name, number_of,
};
use ringlane_dataplane::log::recovery::{RecoverError, ReplayFrom};
use ringlane_transport_uring::StdFiles;
use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is to be given up.
struct Cut {
    /// The segment that is cut, and where; `None` if only whole segments go.
    zeroed: Option<(PathBuf, u64)>,
    /// Goes where the cut is.
    closing: Option<[u8; BATCH_HEADER_BYTES]>,
    next: Option<u64>,
    removed: Vec<PathBuf>,
    /// A checkpoint of nothing that is needed then.
    forgotten: Option<ReplayFrom>,
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
    let Some(cut) = find(&log, directory.count(), offset)? else {
        return say("nothing to give up: a start opens this log");
    };
    say(&cut.text(partition))?;
    if !yes {
        return say("nothing was changed; add --yes to do it");
    }
    if let Some(from) = &cut.forgotten {
        let nothing = checkpoint::encode(&log.owner, from, &PartitionState::new(directory.count()));
        let path = log.path.join(checkpoint::file_name(from));
        StdFiles.replace(&path, &nothing).map_err(|error| ToolError::io("write", &path, &error))?;
    }
    // From the end to the front: after a crash in between the rest is still the end of a log.
    StdFiles.remove(&cut.removed).map_err(|error| ToolError::io("cut", &log.path, &error))?;
    if let Some((path, position)) = &cut.zeroed {
        StdFiles.zero_from(path, *position).map_err(|error| ToolError::io("cut", path, &error))?;
        if let Some(closing) = &cut.closing {
            write_at(path, *position, closing)
                .map_err(|error| ToolError::io("cut", path, &error))?;
        }
    }
    say("done")
}

fn find(
    log: &PartitionLog,
    partitions: u32,
    offset: Option<u64>,
) -> Result<Option<Cut>, ToolError> {
    let cut = find_cut(log, offset)?;
    let removed = cut.as_ref().map_or(&[][..], |cut| &cut.removed);
    let forgotten = forgotten(log, partitions, removed)?;
    let nothing =
        || Cut { zeroed: None, closing: None, next: None, removed: Vec::new(), forgotten: None };
    let cut = cut.or_else(|| forgotten.is_some().then(nothing));
    Ok(cut.map(|cut| Cut { forgotten, ..cut }))
}

/// Where a log begins that was trimmed, if no checkpoint is left that says what came before.
fn forgotten(
    log: &PartitionLog,
    partitions: u32,
    removed: &[PathBuf],
) -> Result<Option<ReplayFrom>, ToolError> {
    let first = log.segments()?.first().copied();
    let Some(segment) = first.filter(|first| !removed.contains(&log.segment_path(*first))) else {
        return Ok(None);
    };
    let base = first_batch(&log.segment(segment)?)?.map_or(Offset(0), |header| header.base_offset);
    let names =
        StdFiles.list(&log.path).map_err(|error| ToolError::io("list", &log.path, &error))?;
    let is_usable = |name: &String| {
        let path = log.path.join(name);
        number_of(name, checkpoint::SUFFIX).is_some()
            && !removed.contains(&path)
            && fs::read(&path)
                .is_ok_and(|file| checkpoint::decode(&log.owner, partitions, &file).is_ok())
    };
    let is_forgotten = base.0 > 0 && !names.iter().any(is_usable);
    let position = SEGMENT_HEADER_BYTES;
    let from = ReplayFrom { offset: base, segment, position, flushed: base };
    Ok(is_forgotten.then_some(from))
}

fn find_cut(log: &PartitionLog, offset: Option<u64>) -> Result<Option<Cut>, ToolError> {
    let numbers = log.files()?;
    let at = match offset {
        Some(_) if numbers.is_empty() => None,
        Some(offset) => Some(end_before(log, &numbers, offset)?),
        None => first_damage(log, &numbers)?,
    };
    let Some(at) = at else { return Ok(None) };
    let next = at.chain.next_offset.map(|next| next.0);
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
        number_of(name, checkpoint::SUFFIX)
            .is_some_and(|replay| next.is_none_or(|n| n < known_flushed(log, name, replay)))
    };
    removed.extend(names.iter().filter(is_stale).map(|name| log.path.join(name)));
    removed.retain(|path| path.exists());
    let closing = if keeps { closing_batch(log, &at)? } else { None };
    Ok(Some(Cut {
        zeroed: keeps.then_some((path, at.position)),
        closing,
        next,
        removed,
        forgotten: None,
    }))
}

/// What was cut may have been all that named the log start offset of a log that was trimmed: a closing batch
/// names it again.
fn closing_batch(
    log: &PartitionLog,
    at: &At,
) -> Result<Option<[u8; BATCH_HEADER_BYTES]>, ToolError> {
    let Some(&first) = log.segments()?.first() else { return Ok(None) };
    let base = first_batch(&log.segment(first)?)?.map_or(Offset(0), |header| header.base_offset);
    let segment = log.segment(at.segment)?;
    let room = segment.header.file_bytes.saturating_sub(at.position) / BATCH_HEADER_BYTES as u64;
    let (Some(next), Some(previous_crc)) = (at.chain.next_offset, at.chain.previous_crc) else {
        return Ok(None);
    };
    if room == 0 || base <= at.chain.log_start || next < base {
        return Ok(None);
    }
    let header = BatchHeader {
        body_bytes: 0,
        records: 0,
        base_offset: next,
        epoch: at.chain.epoch,
        // The cut is made durable, and all before it with it.
        watermark: next,
        sealed_unix_ms: unix_ms_now(),
        previous_crc,
        is_last: room == 1,
        log_start: base,
    };
    Ok(Some(header.encode(&segment.header.segment)))
}

fn write_at(path: &Path, position: u64, bytes: &[u8]) -> io::Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    file.write_all_at(bytes, position)?;
    file.sync_all()
}

/// The end of the last batch that has nothing at or behind `offset`.
fn end_before(log: &PartitionLog, numbers: &[u64], offset: u64) -> Result<At, ToolError> {
    let mut at = At::beginning_of(numbers.first().copied().unwrap_or_default());
    let walked = walk(log, &mut at, &mut |_, batch| {
        let is_beyond = offset < batch.header.next_offset().0;
        Ok(if is_beyond { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    let next = at.chain.next_offset.map_or(0, |next| next.0);
    match walked {
        Ok(Stop::Told) => Ok(at),
        Ok(Stop::End(_)) | Err(ToolError::Failed(_)) if next < offset => {
            Err(ToolError::Failed(format!(
                "the log cannot be read beyond offset {next}; leave --at out to give up what follows"
            )))
        }
        Ok(Stop::End(_)) | Err(ToolError::Failed(_)) => Ok(at),
        Err(error) => Err(error),
    }
}

/// The place that keeps a start from opening the log; `None` if it opens it, and cuts a torn tail itself.
fn first_damage(log: &PartitionLog, numbers: &[u64]) -> Result<Option<At>, ToolError> {
    let from = log.replay_from()?;
    let Err(error) = log.inspect(from.as_ref(), Offset(0), &mut |_, _| ()) else { return Ok(None) };
    let damage = match &error {
        RecoverError::Damaged(damage) => Some(damage),
        // The beginning is missing: giving up the end would not help.
        RecoverError::Missing { .. } if numbers == log.segments()? && !numbers.is_empty() => {
            return Err(ToolError::Failed(error.to_string()));
        }
        RecoverError::Segment { .. } | RecoverError::Missing { .. } | RecoverError::Io { .. } => {
            None
        }
    };
    let place = damage.and_then(|damage| Some((damage.segment()?, damage.position)));
    // Behind the replay offset, what lies before it may be damaged as well, and is not needed.
    let begin = from.filter(|from| {
        let segment = log.segment(from.segment);
        Some((from.segment, from.position)) <= place
            && damage.is_some_and(|damage| damage.flushed.is_some())
            && segment.is_ok_and(|segment| from.position < segment.header.file_bytes)
    });
    let first = At::beginning_of(numbers.first().copied().unwrap_or_default());
    let mut at = begin.map_or(first, |from| At::behind(&from));
    let walked = walk(log, &mut at, &mut |number, batch| {
        let is_there = place.is_some_and(|place| place <= (number, batch.position));
        Ok(if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    match walked {
        // A segment that cannot be opened is given up, too.
        Ok(Stop::Told | Stop::End(_)) | Err(ToolError::Failed(_)) => Ok(Some(at)),
        Err(error) => Err(error),
    }
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
            None if self.removed.is_empty() => {
                format!("partition {partition}: all records are kept")
            }
            None => format!("partition {partition}: all records are given up"),
        };
        if let Some((path, position)) = &self.zeroed {
            text.push_str(&format!(", at position {position} of {}", path.display()));
        }
        for path in &self.removed {
            text.push_str(&format!("\n  removed: {}", path.display()));
        }
        if let Some(from) = &self.forgotten {
            text.push_str(&format!(
                "\n  no checkpoint can be used: what was known before offset {}, where the log \
                 begins since it was trimmed, is given up as well: sessions and retained messages",
                from.offset.0
            ));
        }
        text
    }
}

fn say(text: &str) -> Result<(), ToolError> {
    writeln!(io::stdout(), "{text}").map_err(|error| ToolError::output(&error))
}
