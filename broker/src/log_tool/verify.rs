//! `ringlane log verify`: every batch, every record, every index.

use super::ToolError;
use super::directory::{Directory, PartitionLog};
use super::place::read_index;
use super::progress::Progress;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::{
    SEGMENT_HEADER_BYTES, SEGMENT_SUFFIX, index_name, number_of,
};
use ringlane_dataplane::log::recovery::{Damage, RecoverError, ReplayFrom};
use ringlane_dataplane::log::scan::{Chain, GoodBatch, SegmentScan, Step};
use ringlane_transport_uring::StdFiles;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

/// Batches of one segment: base offset by position.
type Batches = HashMap<u64, Offset>;

#[derive(Default)]
struct Report {
    records: u64,
    batches: u64,
    first: Option<u64>,
    next: u64,
    epoch: u64,
    /// Number of the last segment that a batch was read of.
    last: Option<u64>,
    damages: Vec<String>,
    notes: Vec<String>,
}

/// Checks the partitions and says what each holds.
pub(super) fn run(directory: &Directory, wanted: &[u32]) -> Result<(), ToolError> {
    let mut is_damaged = false;
    for log in directory.partitions(wanted)? {
        let report = check(&log, directory.in_use)?;
        is_damaged |= !report.damages.is_empty();
        let mut out = io::stdout().lock();
        out.write_all(report.text(log.number()).as_bytes())
            .map_err(|error| ToolError::output(&error))?;
    }
    if is_damaged { Err(ToolError::Damaged) } else { Ok(()) }
}

impl Report {
    fn text(&self, partition: u32) -> String {
        let Self { records, batches, first, next, epoch, .. } = self;
        let state = if self.damages.is_empty() { "ok" } else { "DAMAGED" };
        let mut text = match first {
            Some(first) => format!(
                "partition {partition}: {state}, {records} records in {batches} batches, \
                 offsets {first} to {next}, epoch {epoch}\n"
            ),
            None => format!("partition {partition}: {state}, no records\n"),
        };
        for line in self.damages.iter().chain(&self.notes) {
            text.push_str(&format!("  {line}\n"));
        }
        text
    }
}

/// How often a log is looked at again that changes meanwhile.
const LOOKS_MAX: u32 = 8;

fn check(log: &PartitionLog, in_use: bool) -> Result<Report, ToolError> {
    for _ in 1..LOOKS_MAX {
        match look(log, in_use)? {
            // A broker has trimmed it, or has written where it was looked at.
            (_, Some(error)) if in_use && !is_there_still(log, &error) => {}
            (report, error) => return finish(log, report, error),
        }
    }
    let (report, error) = look(log, in_use)?;
    finish(log, report, error)
}

/// One look, and what a start would say against the log.
fn look(log: &PartitionLog, in_use: bool) -> Result<(Report, Option<RecoverError>), ToolError> {
    let files = log.segments()?.into_iter().map(|number| StdFiles.len(&log.segment_path(number)));
    let total = files.map(Result::unwrap_or_default).sum();
    let flushed = log.replay_from()?.map_or(Offset(0), |from| from.flushed);
    let mut look = Look::new(log, Progress::new(format!("partition {}", log.number()), total));
    let found = log.inspect(None, flushed, &mut |number, batch| look.take(number, batch));
    let mut report = look.end();
    match found {
        Ok(found) => {
            let torn = found.and_then(|found| found.torn()).filter(|_| !in_use);
            report.notes.extend(torn.map(|torn| {
                format!(
                    "torn tail of {} bytes at position {} of {}: the next start cuts it",
                    torn.bytes,
                    torn.position,
                    torn.path.display()
                )
            }));
            Ok((report, None))
        }
        Err(error) => Ok((report, Some(error))),
    }
}

/// Whether what was found is there when it is looked at again.
fn is_there_still(log: &PartitionLog, error: &RecoverError) -> bool {
    match error {
        RecoverError::Damaged(damage) => {
            let Some(segment) = damage.segment().filter(|_| damage.flushed.is_some()) else {
                return true;
            };
            let Damage { position, next, .. } = *damage;
            let from = ReplayFrom { offset: next, segment, position, flushed: next };
            let again = log.inspect(Some(&from), Offset(0), &mut |_, _| ());
            matches!(again, Err(RecoverError::Damaged(again))
                if (&again.path, again.position) == (&damage.path, position))
        }
        RecoverError::Segment { path, .. } | RecoverError::Io { path, .. } => path.exists(),
        RecoverError::Missing { .. } => true,
    }
}

fn number_of_path(path: &Path) -> Option<u64> {
    number_of(path.file_name()?.to_str()?, SEGMENT_SUFFIX)
}

/// Whatever else is damaged behind the place that a start names is worth knowing.
fn finish(
    log: &PartitionLog,
    mut report: Report,
    error: Option<RecoverError>,
) -> Result<Report, ToolError> {
    let Some(error) = error else { return Ok(report) };
    report.damages.push(error.to_string());
    let named = match &error {
        RecoverError::Damaged(damage) => damage.segment(),
        RecoverError::Segment { path, .. } => number_of_path(path),
        RecoverError::Missing { .. } | RecoverError::Io { .. } => None,
    };
    let behind = report.last.max(named);
    for number in log.files()?.into_iter().filter(|number| behind < Some(*number)) {
        if let Err(line) = check_segment(log, number) {
            report.damages.push(line);
        }
    }
    Ok(report)
}

/// Reads one segment by itself.
fn check_segment(log: &PartitionLog, number: u64) -> Result<(), String> {
    let segment = log.segment(number).map_err(|error| error.to_string())?;
    let mut scan = SegmentScan::new(&StdFiles, &segment, SEGMENT_HEADER_BYTES, Chain::default());
    let place = |position: u64, what: &dyn std::fmt::Display| {
        format!("{}: damaged at position {position}: {what}", segment.path.display())
    };
    loop {
        let position = scan.position();
        match scan.step() {
            Ok(Step::Batch(_)) => {}
            Ok(Step::Last | Step::Blank) => return Ok(()),
            Ok(Step::Bad { reason, .. }) => return Err(place(position, &reason)),
            Err(error) => return Err(place(position, &error)),
        }
    }
}

/// Counts, and notes what the indexes must say.
struct Look<'a> {
    log: &'a PartitionLog,
    report: Report,
    progress: Progress,
    bytes: u64,
    /// Batches of the segment that is read.
    batches: Batches,
}

impl<'a> Look<'a> {
    fn new(log: &'a PartitionLog, progress: Progress) -> Self {
        Self { log, report: Report::default(), progress, bytes: 0, batches: HashMap::new() }
    }

    fn take(&mut self, number: u64, batch: &GoodBatch<'_>) {
        if self.report.last != Some(number) {
            self.check_index();
            self.report.last = Some(number);
        }
        let header = &batch.header;
        self.bytes += header.bytes();
        self.progress.at(self.bytes);
        self.batches.insert(batch.position, header.base_offset);
        let report = &mut self.report;
        report.first.get_or_insert(header.base_offset.0);
        report.records += u64::from(header.records);
        report.batches += 1;
        (report.next, report.epoch) = (header.next_offset().0, header.epoch);
    }

    fn end(mut self) -> Report {
        self.check_index();
        self.report
    }

    /// Checks the index of the segment that was read, and forgets the segment.
    fn check_index(&mut self) {
        let batches = core::mem::take(&mut self.batches);
        let Some(number) = self.report.last else { return };
        let path = self.log.path.join(index_name(number));
        let Ok(segment) = self.log.segment(number) else { return };
        if !path.exists() {
            return;
        }
        let is_right = read_index(self.log, &segment).is_some_and(|index| {
            let mut entries = index.entries().iter();
            entries.all(|entry| batches.get(&entry.position) == Some(&entry.offset))
        });
        if !is_right {
            let note = format!("{}: wrong index; remove it, it is never needed", path.display());
            self.report.notes.push(note);
        }
    }
}
