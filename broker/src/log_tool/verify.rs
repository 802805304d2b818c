//! `ringlane log verify`: every batch, every record, every index.

use super::ToolError;
use super::directory::{Directory, PartitionLog};
use super::place::read_index;
use super::progress::Progress;
use super::walk::{At, End, Stop, judge, walk};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::index_name;
use ringlane_transport_uring::StdFiles;
use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

/// Batches of one segment: base offset by position.
type Batches = HashMap<u64, Offset>;

#[derive(Default)]
struct Report {
    records: u64,
    batches: u64,
    first: Option<u64>,
    next: u64,
    epoch: u64,
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

fn check(log: &PartitionLog, in_use: bool) -> Result<Report, ToolError> {
    let mut report = Report::default();
    let numbers = log.segments()?;
    let Some(&first) = numbers.first() else { return Ok(report) };
    let files = numbers.iter().map(|&number| StdFiles.len(&log.segment_path(number)));
    let total = files.map(Result::unwrap_or_default).sum();
    let mut progress = Progress::new(format!("partition {}", log.number()), total);
    let mut walked = Walked { at: At::beginning_of(first), bytes: 0, batches: HashMap::new() };
    loop {
        let stop = match walked.on(log, &mut report, &mut progress) {
            Ok(stop) => stop,
            Err(ToolError::Failed(message)) => {
                report.damages.push(message);
                Stop::End(None)
            }
            Err(other) => return Err(other),
        };
        let before = walked.at;
        if is_good_end(log, &before, stop, in_use, &mut report)? {
            break;
        }
        // Go on with the next segment: whatever else is damaged is worth knowing.
        let Some(&next) = numbers.iter().find(|&&number| before.segment < number) else { break };
        walked.at = At::beginning_of(next);
    }
    Ok(report)
}

/// Judges where the walk ended, and reports it.
fn is_good_end(
    log: &PartitionLog,
    at: &At,
    stop: Stop,
    in_use: bool,
    report: &mut Report,
) -> Result<bool, ToolError> {
    let Stop::End(reason) = stop else { return Ok(true) };
    match judge(log, at, reason) {
        Ok(End::Clean) => Ok(true),
        Ok(End::Torn(_)) if in_use => Ok(true),
        Ok(End::Torn(bytes)) => {
            report.notes.push(format!(
                "torn tail of {bytes} bytes at position {} of segment {}: the next start cuts it",
                at.position, at.segment
            ));
            Ok(true)
        }
        Ok(End::Damaged(damage)) => {
            report.damages.push(damage.to_string());
            Ok(false)
        }
        Err(ToolError::Failed(message)) => {
            if !report.damages.contains(&message) {
                report.damages.push(message);
            }
            Ok(false)
        }
        Err(other) => Err(other),
    }
}

/// A walk that notes what the indexes must say.
struct Walked {
    at: At,
    bytes: u64,
    batches: HashMap<u64, Batches>,
}

impl Walked {
    fn on(
        &mut self,
        log: &PartitionLog,
        report: &mut Report,
        progress: &mut Progress,
    ) -> Result<Stop, ToolError> {
        let (bytes, batches) = (&mut self.bytes, &mut self.batches);
        let stop = walk(log, &mut self.at, &mut |number, batch| {
            *bytes += batch.header.bytes();
            progress.at(*bytes);
            if !batches.contains_key(&number) {
                check_indexes(log, batches, report);
            }
            batches.entry(number).or_default().insert(batch.position, batch.header.base_offset);
            report.first.get_or_insert(batch.header.base_offset.0);
            report.records += u64::from(batch.header.records);
            report.batches += 1;
            (report.next, report.epoch) = (batch.header.next_offset().0, batch.header.epoch);
            Ok(ControlFlow::Continue(()))
        });
        check_indexes(log, batches, report);
        stop
    }
}

/// Checks the indexes of the segments that were read, and forgets the segments.
fn check_indexes(log: &PartitionLog, batches: &mut HashMap<u64, Batches>, report: &mut Report) {
    for (number, batches) in batches.drain() {
        let path = log.path.join(index_name(number));
        let Ok(segment) = log.segment(number) else { continue };
        if !path.exists() {
            continue;
        }
        let is_right = read_index(log, &segment).is_some_and(|index| {
            let mut entries = index.entries().iter();
            entries.all(|entry| batches.get(&entry.position) == Some(&entry.offset))
        });
        if !is_right {
            report
                .notes
                .push(format!("{}: wrong index; remove it, it is never needed", path.display()));
        }
    }
}
