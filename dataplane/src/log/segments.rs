//! The segments of one log: those that are full, the one that is written, and the next one, which is
//! made ahead of use.
//!
//! Making a segment is slow (it is filled with zeros and synced), so it begins when the active
//! one is half full, or has no room for publishes beside what is kept free ([`super::room`]). If there is no room for it, nobody has lost anything yet: the log is *full*
//! until a later attempt succeeds.

use super::format::{self, DirectoryId, SegmentHeader, SegmentId};
use super::index::SegmentIndex;
use super::recovery::ReplayFrom;
use super::room::Claim;
use super::scan::LogOwner;
use super::writer::batch_bytes_max;
use crate::disk::{Disk, DiskCommand, DiskError, DiskEvent, DiskToken, FileId, FileJob};
use crate::ids::{Offset, PartitionId};
use crate::time::Nanos;
use core::hash::Hasher;
use core::time::Duration;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The size of the first segment; each further one is twice as large, up to the configured size,
/// so that a small installation stays small. A configured size below it is that of all.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// How long after a failure the next attempt to make a segment begins.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Segments are at least two of the largest records and this long.
const SLACK_BYTES: u64 = 64 * 1024;

/// What a log needs to know of where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSetup {
    /// The partition.
    pub partition: PartitionId,
    /// Its directory, absolute; it exists.
    pub directory: PathBuf,
    /// The data directory's identity.
    pub directory_id: DirectoryId,
    /// The epoch of this start, durable already. Of a log that replicas hold: that of its last record,
    /// because what a leader sends may be of any epoch from there on.
    pub epoch: u64,
    /// Random, different at each start: the identities of new segments come from it.
    pub secret: [u8; 16],
    /// Bytes of a segment once the log has grown.
    pub segment_bytes: u64,
    /// Bytes of the largest record that will be appended.
    pub record_bytes_max: u64,
    /// What the upper half of each token is that this log gives to the disk.
    pub tag: u32,
}

impl LogSetup {
    fn bytes_min(&self) -> u64 {
        SEGMENT_BYTES_MIN.min(self.segment_bytes).max(2 * self.record_bytes_max + SLACK_BYTES)
    }

    /// Bytes that one batch takes at most.
    fn batch_bytes_max(&self) -> u64 {
        let body_bytes = batch_bytes_max(self.record_bytes_max);
        format::batch_bytes(u32::try_from(body_bytes).unwrap_or(u32::MAX))
    }

    pub(super) fn bytes_after(&self, last: Option<u64>) -> u64 {
        let grown = last.map_or(0, |bytes| bytes.saturating_mul(2));
        format::align(grown.min(self.segment_bytes).max(self.bytes_min()))
    }

    pub(super) fn segment_id(&self, number: u64) -> SegmentId {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        hasher.write(&self.directory_id.0);
        hasher.write(&self.partition.0.to_le_bytes());
        hasher.write(&self.epoch.to_le_bytes());
        hasher.write(&number.to_le_bytes());
        SegmentId(hasher.finish128().as_bytes())
    }

    /// The file of a segment.
    #[must_use]
    pub fn segment_path(&self, number: u64) -> PathBuf {
        self.directory.join(format::segment_name(number))
    }

    /// The index of a segment.
    #[must_use]
    pub fn index_path(&self, number: u64) -> PathBuf {
        self.directory.join(format::index_name(number))
    }
}

/// A segment that nothing is written to any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Its number, which is its name.
    pub number: u64,
    /// Its identity.
    pub id: SegmentId,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset of the first record of the next segment.
    pub end: Offset,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// When its last batch was sealed, or a later time (Unix time, ms).
    pub last_unix_ms: u64,
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The number of the segment.
    pub number: u64,
    /// Its identity.
    pub id: SegmentId,
    /// Offset of its first record.
    pub base: Offset,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// The segment that is written.
#[derive(Clone, Debug)]
pub struct Active {
    /// Its number, which is its name.
    pub number: u64,
    /// Its identity.
    pub id: SegmentId,
    /// Offset of its first record.
    pub base: Offset,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Where the next batch goes.
    pub position: u64,
    /// The checksum of the batch before that one, or of the segment's header.
    pub previous_crc: u32,
    /// When its last batch was sealed, or a later time (Unix time, ms); when it was made, if it has
    /// none.
    pub last_unix_ms: u64,
    /// Where its batches are.
    pub index: SegmentIndex,
}

impl Active {
    /// Whether a batch fits, and a closing one behind it.
    pub(super) fn has_room(&self, body_bytes: u32) -> bool {
        let end = self.position + format::batch_bytes(body_bytes);
        end + format::SEGMENT_RESERVE_BYTES <= self.file_bytes
    }

    /// Bytes that batches find in it, before a closing one.
    fn room(&self) -> u64 {
        self.file_bytes.saturating_sub(self.position + format::SEGMENT_RESERVE_BYTES)
    }
}

/// A segment that has no batch yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// Its number, which is its name.
    pub number: u64,
    /// Its identity.
    pub id: SegmentId,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The checksum of its header.
    pub header_crc: u32,
    /// When it was made (Unix time, ms).
    pub made_unix_ms: u64,
}

impl Prepared {
    fn into_active(self, base: Offset) -> Active {
        Active {
            number: self.number,
            id: self.id,
            base,
            file_bytes: self.file_bytes,
            position: format::SEGMENT_HEADER_BYTES,
            previous_crc: self.header_crc,
            last_unix_ms: self.made_unix_ms,
            index: SegmentIndex::new(),
        }
    }
}

/// What is on disk when a log is opened.
#[derive(Clone, Default, Debug)]
pub struct LogEnd {
    /// First offset that is kept.
    pub start: Offset,
    /// Offset that the next record gets.
    pub next: Offset,
    /// The durable watermark that the log holds.
    pub watermark: Offset,
    /// Full segments, oldest first.
    pub sealed: Vec<Sealed>,
    /// The one to go on in.
    pub active: Option<Active>,
    /// The one behind it.
    pub prepared: Option<Prepared>,
    /// Number of the next segment that is made.
    pub next_number: u64,
}

impl LogEnd {
    /// The latest time at which a batch was sealed, or a later one (Unix time, ms); 0 if there is
    /// none.
    pub(super) fn last_unix_ms(&self) -> u64 {
        let sealed = self.sealed.iter().map(|segment| segment.last_unix_ms);
        let active = self.active.iter().map(|segment| segment.last_unix_ms);
        sealed.chain(active).max().unwrap_or(0)
    }
}

#[derive(Debug)]
enum Next {
    Nothing,
    /// It is being made, or opened.
    Coming {
        token: DiskToken,
        file: FileId,
        segment: Prepared,
        /// It was found at the start, and is opened.
        was_found: bool,
    },
    Ready {
        file: FileId,
        segment: Prepared,
    },
    /// The last attempt failed.
    Failed {
        retry_at: Nanos,
    },
}

#[derive(Debug)]
enum Current {
    /// There is none, or it is full.
    Nothing,
    Found(Active),
    Opening {
        token: DiskToken,
        file: FileId,
        segment: Active,
    },
    Open {
        file: FileId,
        segment: Active,
    },
}

/// The segments of a log.
#[derive(Debug)]
pub struct Segments {
    setup: LogSetup,
    start: Offset,
    sealed: VecDeque<Sealed>,
    /// Below the log start offset, and still there until the log itself says so.
    leaving: VecDeque<Sealed>,
    current: Current,
    next: Next,
    next_number: u64,
    /// Bytes of the newest segment.
    last_bytes: Option<u64>,
    found: Option<Prepared>,
    /// Why the last attempt to make the next segment failed, until one succeeds.
    full: Option<DiskError>,
    asked: u32,
    /// Commands that have not ended.
    in_flight: u32,
    /// No file is to stay open.
    is_closing: bool,
    /// Indexes not written and files not removed because of an error; both are only repeated at
    /// the next start.
    failed_jobs: u64,
}

impl Segments {
    pub(super) fn new(setup: LogSetup, end: LogEnd) -> Self {
        let LogEnd { start, sealed, active, prepared, next_number, .. } = end;
        let newest = prepared.as_ref().map(|segment| segment.file_bytes);
        let last_bytes = newest
            .or(active.as_ref().map(|segment| segment.file_bytes))
            .or(sealed.last().map(|segment| segment.file_bytes));
        Self {
            setup,
            start,
            sealed: sealed.into(),
            leaving: VecDeque::new(),
            current: active.map_or(Current::Nothing, Current::Found),
            next: Next::Nothing,
            next_number,
            last_bytes,
            found: prepared,
            full: None,
            asked: 0,
            in_flight: 0,
            is_closing: false,
            failed_jobs: 0,
        }
    }

    /// Whose log it is, and where.
    #[must_use]
    pub fn setup(&self) -> &LogSetup {
        &self.setup
    }

    /// The directory that they are in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.setup.directory
    }

    /// Whose they are.
    #[must_use]
    pub fn owner(&self) -> LogOwner {
        LogOwner { directory: self.setup.directory_id, partition: self.setup.partition }
    }

    /// Bytes that were handed to the disk behind a place where replay may begin.
    #[must_use]
    pub fn bytes_behind(&self, from: &ReplayFrom) -> u64 {
        let behind = self.sealed.iter().rev().take_while(|sealed| from.segment <= sealed.number);
        let sealed: u64 = behind.map(|sealed| sealed.file_bytes).sum();
        let newest = self.newest().filter(|active| from.segment <= active.number);
        let begun = if sealed > 0 || newest.is_some() { from.position } else { 0 };
        (sealed + newest.map_or(0, |active| active.position)).saturating_sub(begun)
    }

    /// A token that no other command of this log has had of late.
    pub(super) fn token(&mut self) -> DiskToken {
        self.asked = self.asked.wrapping_add(1);
        self.in_flight += 1;
        DiskToken(u64::from(self.setup.tag) << 32 | u64::from(self.asked))
    }

    /// First offset that is kept.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The full segments, oldest first.
    #[must_use]
    pub fn sealed(&self) -> &VecDeque<Sealed> {
        &self.sealed
    }

    /// The segment that is written, as far as it is open.
    #[must_use]
    pub fn active(&self) -> Option<(FileId, &Active)> {
        match &self.current {
            Current::Open { file, segment } => Some((*file, segment)),
            Current::Nothing | Current::Found(_) | Current::Opening { .. } => None,
        }
    }

    /// The segment that is written, open or not.
    #[must_use]
    pub fn newest(&self) -> Option<&Active> {
        match &self.current {
            Current::Open { segment, .. }
            | Current::Opening { segment, .. }
            | Current::Found(segment) => Some(segment),
            Current::Nothing => None,
        }
    }

    pub(super) fn active_mut(&mut self) -> Option<&mut Active> {
        match &mut self.current {
            Current::Open { segment, .. } => Some(segment),
            Current::Nothing | Current::Found(_) | Current::Opening { .. } => None,
        }
    }

    /// The segment that a record is in. The offset is one between the log start offset and the
    /// flushed mark.
    #[must_use]
    pub fn find(&self, offset: Offset) -> Option<Place> {
        let before = self.sealed.partition_point(|segment| segment.end <= offset);
        let place = match self.sealed.get(before) {
            Some(Sealed { number, id, base, file_bytes, .. }) => {
                Place { number: *number, id: *id, base: *base, file_bytes: *file_bytes }
            }
            None => {
                let Active { number, id, base, file_bytes, .. } = self.newest()?;
                Place { number: *number, id: *id, base: *base, file_bytes: *file_bytes }
            }
        };
        (place.base <= offset).then_some(place)
    }

    /// The index of a segment that is being written; that of a full one is in its file.
    #[must_use]
    pub fn index_of(&self, number: u64) -> Option<&SegmentIndex> {
        self.newest().filter(|active| active.number == number).map(|active| &active.index)
    }

    /// The offset behind the records of a full segment.
    #[must_use]
    pub fn end_of(&self, number: u64) -> Option<Offset> {
        self.sealed.iter().find(|sealed| sealed.number == number).map(|sealed| sealed.end)
    }

    /// Bytes that batches surely find in the segments that are there.
    pub(super) fn room(&self) -> u64 {
        let room = self.newest().map_or(0, Active::room);
        match &self.next {
            Next::Ready { segment, .. } => {
                // A batch that does not fit leaves the end of the first one empty.
                let left_empty = self.setup.batch_bytes_max();
                let next = segment.file_bytes - format::SEGMENT_HEADER_BYTES;
                room.saturating_sub(left_empty) + next - format::SEGMENT_RESERVE_BYTES
            }
            Next::Nothing | Next::Coming { .. } | Next::Failed { .. } => room,
        }
    }

    /// What has to be free for a claim.
    pub(super) fn room_for(&self, claim: Claim) -> u64 {
        self.setup.room_for(claim, self.last_bytes.unwrap_or(0))
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let sealed = self.leaving.iter().chain(&self.sealed);
        let sealed: u64 = sealed.map(|segment| segment.file_bytes).sum();
        let next = match &self.next {
            Next::Ready { segment, .. } => segment.file_bytes,
            Next::Nothing | Next::Coming { .. } | Next::Failed { .. } => 0,
        };
        sealed + self.newest().map_or(0, |segment| segment.file_bytes) + next
    }

    /// How many segments there are with records.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sealed.len() + usize::from(self.newest().is_some())
    }

    /// Indexes that were not written and files that were not removed, because of an error.
    #[must_use]
    pub fn failed_jobs(&self) -> u64 {
        self.failed_jobs
    }

    /// The number of the segment behind the newest one with batches.
    pub(super) fn next_number(&self) -> u64 {
        match &self.next {
            Next::Ready { segment, .. } | Next::Coming { segment, .. } => segment.number,
            Next::Nothing | Next::Failed { .. } => {
                self.found.as_ref().map_or(self.next_number, |found| found.number)
            }
        }
    }

    /// Why there is no room for the next segment, from the first attempt that failed until one
    /// succeeds.
    #[must_use]
    pub fn full(&self) -> Option<DiskError> {
        self.full
    }

    /// When something is due without an event.
    pub(super) fn next_deadline(&self) -> Nanos {
        match &self.next {
            Next::Failed { retry_at, .. } => *retry_at,
            Next::Nothing | Next::Coming { .. } | Next::Ready { .. } => Nanos::NEVER,
        }
    }

    /// Asks the disk for what is wanted. `next` is the offset of the first record that goes into a
    /// new segment, and `queued_bytes` are on their way into this one.
    pub(super) fn end_turn(
        &mut self,
        now: Nanos,
        unix_ms: u64,
        (next, queued_bytes): (Offset, u64),
        disk: &mut Disk,
    ) {
        self.open_found(disk);
        self.make_next(now, unix_ms, queued_bytes, disk);
        if matches!(self.current, Current::Nothing) && matches!(self.next, Next::Ready { .. }) {
            let ready = core::mem::replace(&mut self.next, Next::Nothing);
            if let Next::Ready { file, segment } = ready {
                self.current = Current::Open { file, segment: segment.into_active(next) };
            }
        }
    }

    fn open_found(&mut self, disk: &mut Disk) {
        let Current::Found(_) = &self.current else { return };
        let (token, file) = (self.token(), disk.open_id());
        let found = core::mem::replace(&mut self.current, Current::Nothing);
        if let Current::Found(segment) = found {
            let path = self.setup.segment_path(segment.number);
            disk.push(DiskCommand::Job { token, job: FileJob::Open { file, path } });
            self.current = Current::Opening { token, file, segment };
        }
    }

    fn wants_next(&self, now: Nanos, queued_bytes: u64) -> bool {
        let free = match &self.next {
            Next::Nothing => true,
            Next::Failed { retry_at, .. } => *retry_at <= now,
            Next::Coming { .. } | Next::Ready { .. } => false,
        };
        let is_used = |active: &Active| {
            let needed = self.room_for(Claim::Publish);
            let position = active.position + queued_bytes;
            position * 2 >= active.file_bytes || active.room() < needed + queued_bytes
        };
        let used = self.newest().is_none_or(is_used);
        free && (used || self.found.is_some())
    }

    fn make_next(&mut self, now: Nanos, unix_ms: u64, queued_bytes: u64, disk: &mut Disk) {
        if !self.wants_next(now, queued_bytes) {
            return;
        }
        let (token, file) = (self.token(), disk.open_id());
        if let Some(segment) = self.found.take() {
            let path = self.setup.segment_path(segment.number);
            disk.push(DiskCommand::Job { token, job: FileJob::Open { file, path } });
            self.next = Next::Coming { token, file, segment, was_found: true };
            return;
        }
        let header = self.header(unix_ms);
        let (encoded, path) = (header.encode(), self.setup.segment_path(header.number));
        let segment = Prepared {
            number: header.number,
            id: header.segment,
            file_bytes: header.file_bytes,
            header_crc: SegmentHeader::crc_of(&encoded),
            made_unix_ms: unix_ms,
        };
        let job = FileJob::Create { file, path, header: encoded, bytes: header.file_bytes };
        disk.push(DiskCommand::Job { token, job });
        self.next = Next::Coming { token, file, segment, was_found: false };
    }

    fn header(&self, unix_ms: u64) -> SegmentHeader {
        let number = self.next_number;
        SegmentHeader {
            partition: self.setup.partition,
            directory: self.setup.directory_id,
            segment: self.setup.segment_id(number),
            number,
            epoch: self.setup.epoch,
            made_unix_ms: unix_ms,
            file_bytes: self.setup.bytes_after(self.last_bytes),
        }
    }

    /// A command of this log has ended that was no part of a round. An error is one that ends the
    /// log: the segment to go on in cannot be opened.
    pub(super) fn on_disk(
        &mut self,
        now: Nanos,
        event: &DiskEvent,
        disk: &mut Disk,
    ) -> Result<(), (u64, DiskError)> {
        if self.is_closing {
            self.let_go(event, disk);
            return Ok(());
        }
        let error = event.result.as_ref().err().copied();
        match (&mut self.current, &mut self.next) {
            (Current::Opening { token, segment, .. }, _) if *token == event.token => {
                if let Some(error) = error {
                    return Err((segment.number, error));
                }
                let opening = core::mem::replace(&mut self.current, Current::Nothing);
                if let Current::Opening { file, segment, .. } = opening {
                    self.current = Current::Open { file, segment };
                }
            }
            (_, Next::Coming { token, .. }) if *token == event.token => {
                self.on_next(now, error, disk);
            }
            _ => self.failed_jobs += u64::from(error.is_some()),
        }
        Ok(())
    }

    fn on_next(&mut self, now: Nanos, error: Option<DiskError>, disk: &mut Disk) {
        let coming = core::mem::replace(&mut self.next, Next::Nothing);
        let Next::Coming { file, segment, was_found, .. } = coming else { return };
        if let Some(error) = error {
            self.close(file, disk);
            // No number is left out: one that is there is tried again.
            self.found = was_found.then_some(segment);
            self.full = Some(error);
            self.next = Next::Failed { retry_at: now + RETRY_AFTER };
            return;
        }
        self.full = None;
        self.next_number = self.next_number.max(segment.number + 1);
        self.last_bytes = Some(segment.file_bytes);
        self.next = Next::Ready { file, segment };
    }

    fn close(&mut self, file: FileId, disk: &mut Disk) {
        let token = self.token();
        disk.push(DiskCommand::Job { token, job: FileJob::Close { file } });
    }

    /// A command that [`Segments::token`] was taken for has ended.
    pub(super) fn on_ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Lets go of all files, those that are still being opened included. Nothing is asked for any more.
    /// Whether nothing is open and nothing under way.
    pub(super) fn close_all(&mut self, disk: &mut Disk) -> bool {
        self.is_closing = true;
        if let Current::Open { file, .. } = self.current {
            self.current = Current::Nothing;
            self.close(file, disk);
        }
        if let Next::Ready { file, .. } = self.next {
            self.next = Next::Nothing;
            self.close(file, disk);
        }
        self.in_flight == 0
    }

    /// What was asked for before everything was to be closed has ended.
    fn let_go(&mut self, event: &DiskEvent, disk: &mut Disk) {
        match (&self.current, &self.next) {
            (Current::Opening { token, file, .. }, _) if *token == event.token => {
                let file = *file;
                self.current = Current::Nothing;
                self.close(file, disk);
            }
            (_, Next::Coming { token, file, .. }) if *token == event.token => {
                let file = *file;
                self.next = Next::Nothing;
                self.close(file, disk);
            }
            _ => self.failed_jobs += u64::from(event.result.is_err()),
        }
    }

    /// The active segment has had its last batch, and that is durable; `end` is the offset behind
    /// its records.
    pub(super) fn seal(&mut self, end: Offset, disk: &mut Disk) {
        let current = core::mem::replace(&mut self.current, Current::Nothing);
        let Current::Open { file, segment } = current else {
            unreachable!("only what is open is written to the end")
        };
        let (token, path) = (self.token(), self.setup.index_path(segment.number));
        let content = segment.index.encode(&segment.id);
        disk.push(DiskCommand::Job { token, job: FileJob::Replace { path, content } });
        self.close(file, disk);
        let Active { number, id, base, file_bytes, last_unix_ms, .. } = segment;
        self.sealed.push_back(Sealed { number, id, base, end, file_bytes, last_unix_ms });
    }

    /// Gives up the segments that have no record at or above `below`: the log start offset goes on.
    /// The newest with a record below `flushed` stays, so that recovery finds where offsets go on.
    /// Whether there were any.
    pub(super) fn trim(&mut self, below: Offset, flushed: Offset) -> bool {
        let newest_has_records = self.newest().is_some_and(|active| active.base < flushed);
        let kept = usize::from(!newest_has_records);
        let before = self.start;
        while kept < self.sealed.len()
            && let Some(segment) = self.sealed.pop_front_if(|segment| segment.end <= below)
        {
            self.start = segment.end;
            self.leaving.push_back(segment);
        }
        before < self.start
    }

    /// Removes the segments that were given up below `said`: a log start offset that a durable batch
    /// names. Earlier, recovery could not tell them from segments that were lost.
    pub(super) fn remove_below(&mut self, said: Offset, disk: &mut Disk) {
        let mut paths = Vec::new();
        while let Some(segment) = self.leaving.pop_front_if(|segment| segment.end <= said) {
            // The index first: nobody would look for one without a segment after a crash.
            paths.push(self.setup.index_path(segment.number));
            paths.push(self.setup.segment_path(segment.number));
        }
        if !paths.is_empty() {
            let token = self.token();
            disk.push(DiskCommand::Job { token, job: FileJob::Remove { paths } });
        }
    }
}
