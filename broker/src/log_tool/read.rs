//! Reading records, and printing them.

use super::ToolError;
use super::directory::{Directory, PartitionLog};
use super::place::begin;
use super::select::{From, Selection};
use super::sink::{Lines, Sink};
use super::walk::{At, Stop, damage, walk};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::log::scan::GoodBatch;
use ringlane_transport_uring::StdFiles;
use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::time::Duration;

/// How often `--follow` looks for more.
const POLL: Duration = Duration::from_millis(200);
/// `--follow` looks for damage at every so many polls: it reads what lies behind.
const POLLS_PER_JUDGEMENT: u32 = 25;

/// `ringlane log read`.
pub(super) fn print(
    directory: &Directory,
    selection: &Selection,
    json: bool,
    follow: bool,
) -> Result<(), ToolError> {
    let mut lines = Lines::new(BufWriter::new(io::stdout().lock()), json);
    let mut readers = readers(directory, selection)?;
    let mut result = Ok(());
    for reader in &mut readers {
        result = worse(result, reader.read_all(&mut lines, &mut |_| ())?);
    }
    lines.flush()?;
    if follow && result.is_ok() {
        return self::follow(&mut readers, &mut lines);
    }
    result
}

/// Goes on as the broker appends.
fn follow<W: Write>(
    readers: &mut [Reader<'_, Lines<W>>],
    lines: &mut Lines<W>,
) -> Result<(), ToolError> {
    for poll in 1.. {
        std::thread::sleep(POLL);
        for reader in &mut *readers {
            let before = reader.at;
            let stop = reader.pass(lines, &mut |_| ())?;
            let is_stuck = before == reader.at && matches!(stop, Stop::End(Some(_)));
            if is_stuck && poll % POLLS_PER_JUDGEMENT == 0 {
                reader.judge(stop)?;
            }
        }
        lines.flush()?;
    }
    Ok(())
}

pub(super) fn worse(
    one: Result<(), ToolError>,
    two: Result<(), ToolError>,
) -> Result<(), ToolError> {
    if one.is_err() { one } else { two }
}

pub(super) fn readers<'a, S: Sink>(
    directory: &Directory,
    selection: &'a Selection,
) -> Result<Vec<Reader<'a, S>>, ToolError> {
    let logs = directory.partitions(&selection.partition)?;
    logs.into_iter().map(|log| Reader::new(log, directory.in_use, selection)).collect()
}

/// Reads the records of one partition that are wanted.
pub(super) struct Reader<'a, S: Sink> {
    log: PartitionLog,
    selection: &'a Selection,
    at: Option<At>,
    /// Bytes from where it begins, at most.
    pub(super) bytes_left: u64,
    /// A broker appends: batches wait in `held` until a later one says that they are durable.
    in_use: bool,
    held: VecDeque<(u64, S::Piece)>,
    /// What was asked for has begun.
    begun: bool,
    /// It has ended.
    ended: bool,
}

impl<'a, S: Sink> Reader<'a, S> {
    fn new(log: PartitionLog, in_use: bool, selection: &'a Selection) -> Result<Self, ToolError> {
        let at = begin(&log, selection.from)?;
        let mut bytes_left = 0;
        for number in log.segments()? {
            if at.is_some_and(|at| at.segment <= number) {
                // One that was trimmed meanwhile has nothing to read.
                bytes_left += StdFiles.len(&log.segment_path(number)).unwrap_or_default();
            }
        }
        let (held, begun, ended) = (VecDeque::new(), selection.from == From::Earliest, false);
        Ok(Self { log, selection, at, bytes_left, in_use, held, begun, ended })
    }

    /// Writes all that is there. The inner result is damage that was met.
    pub(super) fn read_all(
        &mut self,
        sink: &mut S,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<Result<(), ToolError>, ToolError> {
        let stop = self.pass(sink, on_bytes)?;
        self.begun |= self.selection.from == From::Latest;
        match self.judge(stop) {
            Ok(true) => self.read_all(sink, on_bytes),
            Ok(false) => Ok(Ok(())),
            Err(ToolError::Damaged) => Ok(Err(ToolError::Damaged)),
            Err(other) => Err(other),
        }
    }

    /// One walk to the end of what is there now.
    fn pass(&mut self, sink: &mut S, on_bytes: &mut dyn FnMut(u64)) -> Result<Stop, ToolError> {
        if self.at.is_none() {
            self.at = begin(&self.log, self.selection.from)?;
        }
        let Some(mut at) = self.at else { return Ok(Stop::End(None)) };
        let (log, mut bytes) = (self.log.clone(), 0);
        let stop = walk(&log, &mut at, &mut |_, batch| {
            bytes += batch.header.bytes();
            on_bytes(bytes);
            self.take(batch, sink)
        });
        self.at = Some(at);
        stop
    }

    fn take(&mut self, batch: &GoodBatch<'_>, sink: &mut S) -> Result<ControlFlow<()>, ToolError> {
        let durable = batch.header.watermark.0;
        while let Some((_, piece)) = self.held.pop_front_if(|(end, _)| *end <= durable) {
            sink.take(piece)?;
        }
        let piece = self.piece(batch, sink);
        if !self.in_use {
            sink.take(piece)?;
        } else if !S::is_empty(&piece) {
            self.held.push_back((batch.header.next_offset().0, piece));
        }
        let is_done = self.ended && self.held.is_empty();
        Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn piece(&mut self, batch: &GoodBatch<'_>, sink: &S) -> S::Piece {
        let mut piece = S::Piece::default();
        for record in batch.records() {
            self.begun |= match self.selection.from {
                From::Earliest => true,
                From::Latest => false,
                From::Offset(offset) => offset <= record.head.offset.0,
                From::Time(unix_ms) => unix_ms <= record.head.unix_ms,
            };
            self.ended |= self.begun && self.selection.to.is_some_and(|to| to.is_before(&record));
            if self.begun && !self.ended && self.selection.takes(&record) {
                sink.add(&mut piece, self.log.number(), &record);
            }
        }
        piece
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
