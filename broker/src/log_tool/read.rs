//! Printing and exporting records.

use super::directory::{Directory, PartitionLog};
use super::place::begin;
use super::progress::Progress;
use super::select::{From, Selection};
use super::walk::{At, Stop, damage, walk};
use super::{ToolError, print};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::scan::GoodBatch;
use ringlane_transport_uring::StdFiles;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// How often `--follow` looks for more.
const POLL: Duration = Duration::from_millis(200);
/// `--follow` looks for damage at every so many polls: it reads what lies behind.
const POLLS_PER_JUDGEMENT: u32 = 25;

type Format = fn(u32, &Record<'_>) -> String;

/// `ringlane log read`.
pub(super) fn print(
    directory: &Directory,
    selection: &Selection,
    json: bool,
    follow: bool,
) -> Result<(), ToolError> {
    let format: Format = if json { print::json } else { print::line };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut readers = readers(directory, selection, format)?;
    let mut result = Ok(());
    for reader in &mut readers {
        result = worse(result, reader.read_all(&mut out, &mut |_| ())?);
    }
    out.flush().map_err(|error| ToolError::output(&error))?;
    if follow && result.is_ok() {
        return self::follow(&mut readers, &mut out);
    }
    result
}

/// `ringlane log export`.
pub(super) fn export(
    directory: &Directory,
    selection: &Selection,
    path: Option<&Path>,
) -> Result<(), ToolError> {
    let Some(path) = path else { return print(directory, selection, true, false) };
    let file = File::create_new(path).map_err(|error| ToolError::io("make", path, &error))?;
    let mut out = BufWriter::new(&file);
    let mut readers = readers(directory, selection, print::json)?;
    let total = readers.iter().map(|reader| reader.bytes_left).sum();
    let (mut progress, mut before) = (Progress::new("exporting".to_owned(), total), 0);
    let mut result = Ok(());
    for reader in &mut readers {
        let ended = reader.read_all(&mut out, &mut |done| progress.at(before + done))?;
        result = worse(result, ended);
        before += reader.bytes_left;
    }
    out.flush().map_err(|error| ToolError::io("write", path, &error))?;
    drop(out);
    file.sync_all().map_err(|error| ToolError::io("sync", path, &error))?;
    result
}

/// Goes on as the broker appends.
fn follow(readers: &mut [Reader<'_>], out: &mut dyn Write) -> Result<(), ToolError> {
    for poll in 1.. {
        std::thread::sleep(POLL);
        for reader in &mut *readers {
            let before = reader.at;
            let stop = reader.pass(out, &mut |_| ())?;
            let is_stuck = before == reader.at && matches!(stop, Stop::End(Some(_)));
            if is_stuck && poll % POLLS_PER_JUDGEMENT == 0 {
                reader.judge(stop)?;
            }
        }
        out.flush().map_err(|error| ToolError::output(&error))?;
    }
    Ok(())
}

fn worse(one: Result<(), ToolError>, two: Result<(), ToolError>) -> Result<(), ToolError> {
    if one.is_err() { one } else { two }
}

fn readers<'a>(
    directory: &Directory,
    selection: &'a Selection,
    format: Format,
) -> Result<Vec<Reader<'a>>, ToolError> {
    let logs = directory.partitions(&selection.partition)?;
    logs.into_iter().map(|log| Reader::new(log, directory.in_use, selection, format)).collect()
}

/// Reads the records of one partition that are wanted.
struct Reader<'a> {
    log: PartitionLog,
    selection: &'a Selection,
    format: Format,
    at: Option<At>,
    /// Bytes from where it begins, at most.
    bytes_left: u64,
    /// A broker appends: batches wait in `held` until a later one says that they are durable.
    in_use: bool,
    held: VecDeque<(u64, String)>,
    /// What was asked for has begun.
    begun: bool,
    /// It has ended.
    ended: bool,
}

impl<'a> Reader<'a> {
    fn new(
        log: PartitionLog,
        in_use: bool,
        selection: &'a Selection,
        format: Format,
    ) -> Result<Self, ToolError> {
        let at = begin(&log, selection.from)?;
        let mut bytes_left = 0;
        for number in log.segments()? {
            if at.is_some_and(|at| at.segment <= number) {
                // One that was trimmed meanwhile has nothing to read.
                bytes_left += StdFiles.len(&log.segment_path(number)).unwrap_or_default();
            }
        }
        let (held, begun, ended) = (VecDeque::new(), selection.from == From::Earliest, false);
        Ok(Self { log, selection, format, at, bytes_left, in_use, held, begun, ended })
    }

    /// Writes all that is there. The inner result is damage that was met.
    fn read_all(
        &mut self,
        out: &mut dyn Write,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<Result<(), ToolError>, ToolError> {
        let stop = self.pass(out, on_bytes)?;
        self.begun |= self.selection.from == From::Latest;
        match self.judge(stop) {
            Ok(true) => self.read_all(out, on_bytes),
            Ok(false) => Ok(Ok(())),
            Err(ToolError::Damaged) => Ok(Err(ToolError::Damaged)),
            Err(other) => Err(other),
        }
    }

    /// One walk to the end of what is there now.
    fn pass(
        &mut self,
        out: &mut dyn Write,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<Stop, ToolError> {
        if self.at.is_none() {
            self.at = begin(&self.log, self.selection.from)?;
        }
        let Some(mut at) = self.at else { return Ok(Stop::End(None)) };
        let (log, mut bytes) = (self.log.clone(), 0);
        let stop = walk(&log, &mut at, &mut |_, batch| {
            bytes += batch.header.bytes();
            on_bytes(bytes);
            self.take(batch, out)
        });
        self.at = Some(at);
        stop
    }

    fn take(
        &mut self,
        batch: &GoodBatch<'_>,
        out: &mut dyn Write,
    ) -> Result<ControlFlow<()>, ToolError> {
        let durable = batch.header.watermark.0;
        while let Some((_, text)) = self.held.pop_front_if(|(end, _)| *end <= durable) {
            out.write_all(text.as_bytes()).map_err(|error| ToolError::output(&error))?;
        }
        let text = self.format(batch);
        if !self.in_use {
            out.write_all(text.as_bytes()).map_err(|error| ToolError::output(&error))?;
        } else if !text.is_empty() {
            self.held.push_back((batch.header.next_offset().0, text));
        }
        let is_done = self.ended && self.held.is_empty();
        Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn format(&mut self, batch: &GoodBatch<'_>) -> String {
        let mut text = String::new();
        for record in batch.records() {
            self.begun |= match self.selection.from {
                From::Earliest => true,
                From::Latest => false,
                From::Offset(offset) => offset <= record.head.offset.0,
                From::Time(unix_ms) => unix_ms <= record.head.unix_ms,
            };
            self.ended |= self.begun && self.selection.to.is_some_and(|to| to.is_before(&record));
            if self.begun && !self.ended && self.selection.takes(&record) {
                text.push_str(&(self.format)(self.log.number(), &record));
            }
        }
        text
    }

    /// Whether there is more after all: a broker has appended meanwhile. Damage is reported.
    fn judge(&mut self, stop: Stop) -> Result<bool, ToolError> {
        let (Stop::End(_), Some(at)) = (stop, self.at) else { return Ok(false) };
        let Some(damage) = damage(&self.log, &at) else { return Ok(false) };
        let mut again = at;
        if walk(&self.log, &mut again, &mut |_, _| Ok(ControlFlow::Break(())))? == Stop::Told {
            return Ok(true);
        }
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(io::stderr(), "{damage}");
        Err(ToolError::Damaged)
    }
}
