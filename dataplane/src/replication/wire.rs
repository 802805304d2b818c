//! What nodes say to each other once they know who they are, byte for byte
//! (docs/formats/replication.md).
//!
//! A message is a *head* of at most [`HEAD_BYTES_MAX`] bytes and, in some kinds, a *body* that is sent
//! from where it lies: [`Envelope::encode`] makes the head, and whoever sends puts the padded body
//! behind it. A link cuts messages apart by [`bytes_of`]; [`decode`] believes nothing before it has
//! checked it. The checksum covers the head alone, because the records of a body bring their own
//! and need not be summed once more for each follower.

use super::bytes::{Put, Reader};
use super::epochs::{EpochStart, EpochTable, REPORTED_MAX};
use super::message::{
    Ack, Append, CheckpointPart, CheckpointStart, Claim, Envelope, Fetch, Fetched, Heartbeat,
    Message, Report, Run,
};
use crate::batch::{Arrived, Foreign};
use crate::ids::{NODES_MAX, NodeId, Offset, PartitionId};
use crate::log::format::{ALIGN, BODY_BYTES_MAX, COUNT_MAX, align};
use core::fmt;

/// Bytes of what all messages begin with.
pub const HEADER_BYTES: usize = 24;
/// Bytes of the longest head.
pub const HEAD_BYTES_MAX: usize = 640;
/// Bytes of the longest message.
pub const MESSAGE_BYTES_MAX: u32 = BODY_BYTES_MAX + HEAD_BYTES_MAX as u32;

const CRC_AT: usize = 4;
const KIND_AT: usize = 8;

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// There are more or fewer bytes than it says.
    Length,
    /// The checksum of its head does not fit.
    Checksum,
    /// No kind that is known.
    Kind(u16),
    /// A number in it is impossible.
    Value,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("the message is longer or shorter than it says"),
            Self::Checksum => f.write_str("the checksum of its head does not fit"),
            Self::Kind(kind) => write!(f, "{kind} is no kind of message"),
            Self::Value => f.write_str("a number in it is impossible"),
        }
    }
}

impl core::error::Error for WireError {}

const FENCE: u16 = 1;
const FENCED: u16 = 2;
const STALE: u16 = 3;
const TRUNCATE: u16 = 4;
const APPEND: u16 = 5;
const ACK: u16 = 6;
const FETCH: u16 = 7;
const FETCHED: u16 = 8;
const CHECKPOINT_START: u16 = 9;
const CHECKPOINT_PART: u16 = 10;
const CHECKPOINT_TAKEN: u16 = 11;
const HEARTBEAT: u16 = 12;
const TAKE_OVER: u16 = 13;

/// Of a fence: memory counts. Of an ack: there is a gap. Of a report: the log is damaged. Of a heartbeat: the leader is heard.
const FLAG: u16 = 1;

impl Message {
    fn kind(&self) -> u16 {
        match self {
            Self::Fence { .. } => FENCE,
            Self::Fenced(_) => FENCED,
            Self::Stale => STALE,
            Self::Truncate { .. } => TRUNCATE,
            Self::Append(_) => APPEND,
            Self::Ack(_) => ACK,
            Self::Fetch(_) => FETCH,
            Self::Fetched(_) => FETCHED,
            Self::CheckpointStart(_) => CHECKPOINT_START,
            Self::CheckpointPart(_) => CHECKPOINT_PART,
            Self::CheckpointTaken { .. } => CHECKPOINT_TAKEN,
            Self::Heartbeat(_) => HEARTBEAT,
            Self::TakeOver => TAKE_OVER,
        }
    }

    fn flags(&self) -> u16 {
        let is_set = match self {
            Self::Fence { counts_memory } => *counts_memory,
            Self::Fenced(report) => report.damage.is_some(),
            Self::Ack(ack) => ack.is_gap,
            Self::Heartbeat(heartbeat) => heartbeat.hears_leader,
            _ => false,
        };
        if is_set { FLAG } else { 0 }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Fence { .. } | Self::Stale | Self::TakeOver => {}
            Self::Fenced(report) => report.put(out),
            Self::Truncate { to } => out.put_u64(to.0),
            Self::Append(append) => append.put(out),
            Self::Ack(ack) => {
                out.put_u64(ack.accepted.0);
                out.put_u64(ack.flushed.0);
                out.put_u64(ack.credit);
            }
            Self::Fetch(fetch) => {
                out.put_u64(fetch.from.0);
                out.put_u32(fetch.bytes_max);
                out.put_u32(0);
            }
            Self::Fetched(fetched) => {
                fetched.run.put(out);
                out.put_u64(fetched.next.0);
            }
            Self::CheckpointStart(start) => {
                out.put_u64(start.start.0);
                out.put_u64(start.epoch);
                out.put_u64(start.next.0);
                out.put_u64(start.bytes);
            }
            Self::CheckpointPart(part) => {
                out.put_u64(part.position);
                out.put_u32(part.bytes);
                out.put_u32(part.crc);
            }
            Self::CheckpointTaken { position } => out.put_u64(*position),
            Self::Heartbeat(heartbeat) => {
                out.put_u16(heartbeat.leader.map_or(0, |node| node.0));
                out.put_u16(u16::from(heartbeat.could_lead));
                out.put(&[0; 4]);
            }
        }
    }

    fn read(kind: u16, flag: bool, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let message = match kind {
            FENCE => Some(Self::Fence { counts_memory: flag }),
            FENCED => Report::read(flag, reader).map(|report| Self::Fenced(Box::new(report))),
            STALE => Some(Self::Stale),
            TRUNCATE => offset(reader).map(|to| Self::Truncate { to }),
            APPEND => Append::read(reader).map(Self::Append),
            ACK => Ack::read(flag, reader).map(Self::Ack),
            FETCH => Fetch::read(reader).map(Self::Fetch),
            FETCHED => Fetched::read(reader).map(Self::Fetched),
            CHECKPOINT_START => CheckpointStart::read(reader).map(Self::CheckpointStart),
            CHECKPOINT_PART => CheckpointPart::read(reader).map(Self::CheckpointPart),
            CHECKPOINT_TAKEN => reader.u64().map(|position| Self::CheckpointTaken { position }),
            HEARTBEAT => Heartbeat::read(flag, reader).map(Self::Heartbeat),
            TAKE_OVER => Some(Self::TakeOver),
            unknown => return Err(WireError::Kind(unknown)),
        };
        message.ok_or(WireError::Value)
    }

    /// Bytes of the head of a kind behind the header; of a report at most.
    fn fixed_bytes(kind: u16) -> usize {
        match kind {
            FENCED => 64 + REPORTED_MAX * 16,
            TRUNCATE | CHECKPOINT_TAKEN | HEARTBEAT => 8,
            APPEND => 56,
            ACK => 24,
            CHECKPOINT_START => 32,
            FETCH | CHECKPOINT_PART => 16,
            FETCHED => 40,
            _ => 0,
        }
    }
}

impl Envelope {
    /// Appends the head to `out`. Its body, padded with zeros to a multiple of 8, follows on the
    /// link.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.put_u32(0);
        out.put_u32(0);
        out.put_u16(self.message.kind());
        out.put_u16(self.message.flags());
        out.put_u32(self.partition.0);
        out.put_u64(self.epoch);
        self.message.put(out);
        let body = align(u64::from(self.message.body_bytes())) as usize;
        let bytes = (out.len() - at + body) as u32;
        out[at..at + CRC_AT].copy_from_slice(&bytes.to_le_bytes());
        let crc = checksum(&out[at..]);
        out[at + CRC_AT..at + KIND_AT].copy_from_slice(&crc.to_le_bytes());
    }
}

/// CRC-32C of a head but the checksum's own bytes.
fn checksum(head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_AT]), &head[KIND_AT..])
}

/// Bytes of the message that begins with `bytes`, as it says itself. `None`: fewer than four are
/// there.
///
/// # Errors
/// [`WireError::Length`]: no message is so long, or longer than `bytes_max`.
pub fn bytes_of(bytes: &[u8], bytes_max: u32) -> Result<Option<u32>, WireError> {
    let Some(bytes) = Reader(bytes).u32() else { return Ok(None) };
    let max = bytes_max.min(MESSAGE_BYTES_MAX);
    if (HEADER_BYTES as u32..=max).contains(&bytes) && bytes.is_multiple_of(8) {
        Ok(Some(bytes))
    } else {
        Err(WireError::Length)
    }
}

/// Bytes of the head of a message that begins with `header`, if its body is records that a log takes as
/// they are. `None`: it is another one, or fewer than [`HEADER_BYTES`] are there.
#[must_use]
pub fn records_head_bytes(header: &[u8]) -> Option<usize> {
    let header = header.first_chunk::<HEADER_BYTES>()?;
    let kind = Reader(&header[KIND_AT..]).u16()?;
    (kind == APPEND).then(|| HEADER_BYTES + Message::fixed_bytes(kind))
}

/// Bytes behind the head of a message, which is all of `bytes`; 0 if it is none.
#[must_use]
pub fn behind_head(bytes: &[u8]) -> usize {
    let kind = bytes.get(KIND_AT..).and_then(|bytes| Reader(bytes).u16());
    let head = kind.and_then(|kind| head_bytes(kind, bytes));
    bytes.len().saturating_sub(head.unwrap_or(bytes.len()))
}

/// As [`decode`], of a message whose head was copied and whose body is left where it has come to. It takes those of
/// [`records_head_bytes`] alone.
///
/// # Errors
/// As [`decode`].
pub fn decode_records<'a>(
    head: &[u8],
    body: &'a dyn Foreign,
) -> Result<(Envelope, Arrived<'a>), WireError> {
    let bytes = bytes_of(head, u32::MAX)?.map(|bytes| bytes as usize);
    if bytes != Some(head.len() + body.len()) || records_head_bytes(head) != Some(head.len()) {
        return Err(WireError::Length);
    }
    let envelope = read_head(head)?;
    let body_bytes = envelope.message.body_bytes();
    if align(u64::from(body_bytes)) != body.len() as u64 {
        return Err(WireError::Length);
    }
    let mut padding = [0; ALIGN as usize];
    let padding = &mut padding[..body.len() - body_bytes as usize];
    body.copy_to(body_bytes as usize, padding);
    if padding.iter().any(|&byte| byte != 0) {
        return Err(WireError::Value);
    }
    Ok((envelope, Arrived::Foreign(body, body_bytes as usize)))
}

/// Reads a message, which is all of `bytes`, and the body behind its head. The body has the length
/// that the head says, and its padding is zeros; what is in it is checked by whoever takes it.
///
/// # Errors
/// [`WireError`]: it is none. Whoever sent it is broken or no node, and the link is to be closed.
pub fn decode(bytes: &[u8]) -> Result<(Envelope, &[u8]), WireError> {
    if bytes_of(bytes, u32::MAX)?.map(|bytes| bytes as usize) != Some(bytes.len()) {
        return Err(WireError::Length);
    }
    let kind = Reader(&bytes[KIND_AT..]).u16().ok_or(WireError::Length)?;
    let head_bytes = head_bytes(kind, bytes).ok_or(WireError::Length)?;
    let (head, body) = bytes.split_at_checked(head_bytes).ok_or(WireError::Length)?;
    let envelope = read_head(head)?;
    let body = unpadded(body, envelope.message.body_bytes())?;
    Ok((envelope, body))
}

/// Reads a head, which is all of `head`: as long as its kind says.
fn read_head(head: &[u8]) -> Result<Envelope, WireError> {
    let mut reader = Reader(&head[CRC_AT..]);
    let header = |reader: &mut Reader<'_>| {
        Some((reader.u32()?, reader.u16()?, reader.u16()?, reader.u32()?, reader.u64()?))
    };
    let (crc, kind, flags, partition, epoch) = header(&mut reader).ok_or(WireError::Length)?;
    if checksum(head) != crc {
        return Err(WireError::Checksum);
    }
    let message = Message::read(kind, flags & FLAG != 0, &mut reader)?;
    // Also the one flag where the message has none.
    if flags != message.flags() || epoch > COUNT_MAX {
        return Err(WireError::Value);
    }
    Ok(Envelope { partition: PartitionId(partition), epoch, message })
}

/// Puts the right checksum into a message, whatever else it is; for tests and fuzzers that look
/// behind it. `None`: it is shorter than its head.
#[doc(hidden)]
pub fn mend_checksum(bytes: &mut [u8]) -> Option<()> {
    let kind = Reader(bytes.get(KIND_AT..)?).u16()?;
    let head_bytes = head_bytes(kind, bytes)?;
    let crc = checksum(bytes.get(..head_bytes)?);
    bytes[CRC_AT..KIND_AT].copy_from_slice(&crc.to_le_bytes());
    Some(())
}

/// Bytes of the head of a message that is all of `bytes`. All but a report have a fixed one.
fn head_bytes(kind: u16, bytes: &[u8]) -> Option<usize> {
    let fixed = HEADER_BYTES + Message::fixed_bytes(kind);
    if kind != FENCED {
        return Some(fixed);
    }
    (bytes.len() <= fixed).then_some(bytes.len())
}

fn unpadded(body: &[u8], body_bytes: u32) -> Result<&[u8], WireError> {
    if align(u64::from(body_bytes)) != body.len() as u64 {
        return Err(WireError::Length);
    }
    let (body, padding) = body.split_at(body_bytes as usize);
    if padding.iter().all(|&byte| byte == 0) { Ok(body) } else { Err(WireError::Value) }
}

/// An offset, or an epoch, within its bound.
fn count(reader: &mut Reader<'_>) -> Option<u64> {
    reader.u64().filter(|&count| count <= COUNT_MAX)
}

fn offset(reader: &mut Reader<'_>) -> Option<Offset> {
    count(reader).map(Offset)
}

/// In place of the claim of a log that is not damaged.
const NO_CLAIM: Claim = Claim { epoch: 0, watermark: Offset(0) };

impl Report {
    fn put(&self, out: &mut Vec<u8>) {
        let claim = self.damage.unwrap_or(NO_CLAIM);
        out.put_u64(self.log_start.0);
        out.put_u64(self.next.0);
        out.put_u64(self.flushed.0);
        out.put_u64(self.high_watermark.0);
        out.put_u64(claim.epoch);
        out.put_u64(claim.watermark.0);
        out.put_u64(self.memory_lost);
        out.put_u32(self.epochs.newest().len() as u32);
        out.put_u32(0);
        for start in self.epochs.newest() {
            out.put_u64(start.epoch);
            out.put_u64(start.first.0);
        }
    }

    fn read(is_damaged: bool, reader: &mut Reader<'_>) -> Option<Self> {
        let (log_start, next) = (offset(reader)?, offset(reader)?);
        let (flushed, high_watermark) = (offset(reader)?, offset(reader)?);
        let claim = Claim { epoch: count(reader)?, watermark: offset(reader)? };
        let memory_lost = count(reader)?;
        let entries = reader.u32().filter(|&entries| entries <= REPORTED_MAX as u32)?;
        reader.zeros(4)?;
        let mut starts = Vec::with_capacity(entries as usize);
        for _ in 0..entries {
            starts.push(EpochStart { epoch: count(reader)?, first: offset(reader)? });
        }
        let epochs = EpochTable::from_starts(starts)?;
        if !is_damaged && claim != NO_CLAIM {
            return None;
        }
        let damage = is_damaged.then_some(claim);
        let report = Self { log_start, next, flushed, high_watermark, damage, memory_lost, epochs };
        (reader.0.is_empty() && report.is_possible()).then_some(report)
    }
}

impl Run {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.base.0);
        out.put_u32(self.records);
        out.put_u32(self.body_bytes);
        out.put_u64(self.epoch);
        out.put_u64(self.previous_epoch);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let run = Self {
            base: offset(reader)?,
            records: reader.u32()?,
            body_bytes: reader.u32()?,
            epoch: reader.u64()?,
            previous_epoch: reader.u64()?,
        };
        run.is_possible().then_some(run)
    }
}

impl Append {
    fn put(&self, out: &mut Vec<u8>) {
        self.run.put(out);
        out.put_u64(self.high_watermark.0);
        out.put_u64(self.quorum_accepted.0);
        out.put_u64(self.log_start.0);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let append = Self {
            run: Run::read(reader)?,
            high_watermark: offset(reader)?,
            quorum_accepted: offset(reader)?,
            log_start: offset(reader)?,
        };
        (append.high_watermark <= append.quorum_accepted).then_some(append)
    }
}

impl Ack {
    fn read(is_gap: bool, reader: &mut Reader<'_>) -> Option<Self> {
        let (accepted, flushed) = (offset(reader)?, offset(reader)?);
        let ack = Self { accepted, flushed, credit: reader.u64()?, is_gap };
        (ack.flushed <= ack.accepted).then_some(ack)
    }
}

impl Fetch {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let fetch = Self { from: offset(reader)?, bytes_max: reader.u32()? };
        reader.zeros(4)?;
        Some(fetch)
    }
}

impl Fetched {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let fetched = Self { run: Run::read(reader)?, next: offset(reader)? };
        (fetched.run.records == 0 || fetched.run.end() <= fetched.next).then_some(fetched)
    }
}

impl CheckpointStart {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (start, epoch) = (offset(reader)?, count(reader)?);
        let checkpoint = Self { start, epoch, next: offset(reader)?, bytes: reader.u64()? };
        let is_possible = start <= checkpoint.next && (start.0 > 0 || epoch == 0);
        (is_possible && checkpoint.bytes > 0).then_some(checkpoint)
    }
}

impl CheckpointPart {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let part = Self { position: reader.u64()?, bytes: reader.u32()?, crc: reader.u32()? };
        let is_possible = (1..=BODY_BYTES_MAX).contains(&part.bytes);
        (is_possible && part.position.checked_add(u64::from(part.bytes)).is_some()).then_some(part)
    }
}

impl Heartbeat {
    fn read(hears_leader: bool, reader: &mut Reader<'_>) -> Option<Self> {
        let leader = reader.u16().filter(|&leader| leader <= NODES_MAX as u16)?;
        let could_lead = reader.u16().filter(|&flag| flag <= 1)? == 1;
        reader.zeros(4)?;
        let leader = (leader != 0).then_some(NodeId(leader));
        Some(Self { leader, hears_leader, could_lead })
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
