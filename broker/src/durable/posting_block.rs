//! Ranges of postings, packed: what one takes behind the last one of the same log is little.

use super::postings::{Amount, Place, PostingRange};

/// Ranges in one block: finding a posting unpacks one block at most beside those that are read.
pub(super) const RANGES_PER_BLOCK: usize = 128;

/// Ranges by rising posting number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PostingBlock {
    /// The first posting number, and the first one behind the block.
    first: u64,
    pub(super) end: u64,
    /// All that ever was in the list up to the end of the block.
    pub(super) after: Amount,
    data: Box<[u8]>,
}

/// Where a log goes on behind the last range of it.
type Next = Place;

impl PostingBlock {
    pub(super) fn pack(ranges: &[PostingRange], before: Amount) -> Self {
        let (mut data, mut logs) = (Vec::new(), Vec::new());
        let first = ranges.first().map_or(0, |range| range.first);
        let (mut end, mut after) = (first, before);
        for range in ranges {
            pack_range(&mut data, &mut logs, range);
            put(&mut data, range.first - end);
            end = range.end();
            after = after.with(range);
        }
        Self { first, end, after, data: data.into() }
    }

    /// The ranges.
    pub(super) fn ranges(&self) -> impl Iterator<Item = PostingRange> {
        let (mut data, mut logs, mut end) = (&*self.data, Vec::new(), self.first);
        core::iter::from_fn(move || {
            if data.is_empty() {
                return None;
            }
            let range = unpack_range(&mut data, &mut logs)?;
            let first = end + take(&mut data)?;
            end = first + u64::from(range.count);
            Some(PostingRange { first, ..range })
        })
    }

    #[cfg(test)]
    pub(super) fn data_bytes(&self) -> usize {
        self.data.len()
    }
}

/// All of a range but its posting number. Its first byte has which of the block's logs it is of,
/// above two flags: droppable, and more than one record.
fn pack_range(data: &mut Vec<u8>, logs: &mut Vec<Next>, range: &PostingRange) {
    let Place { partition, epoch, offset } = range.place;
    let known = logs.iter().position(|log| (log.partition, log.epoch) == (partition, epoch));
    let log = known.unwrap_or(logs.len());
    let many = range.count > 1;
    put(data, (log as u64) << 2 | u64::from(range.droppable) << 1 | u64::from(many));
    match known {
        Some(log) => put(data, zigzag(offset.wrapping_sub(logs[log].offset) as i64)),
        None => {
            [u64::from(partition), epoch, offset].into_iter().for_each(|value| put(data, value));
            logs.push(range.place);
        }
    }
    if many {
        put(data, u64::from(range.count));
    }
    put(data, range.bytes);
    logs[log].offset = offset + u64::from(range.count);
}

fn unpack_range(data: &mut &[u8], logs: &mut Vec<Next>) -> Option<PostingRange> {
    let head = take(data)?;
    let (log, droppable, many) = ((head >> 2) as usize, head & 2 != 0, head & 1 != 0);
    if log < logs.len() {
        let offset = &mut logs[log].offset;
        *offset = offset.wrapping_add(unzigzag(take(data)?) as u64);
    } else {
        let partition = u32::try_from(take(data)?).ok()?;
        logs.push(Place { partition, epoch: take(data)?, offset: take(data)? });
    }
    let next = logs.get_mut(log)?;
    let place = *next;
    let count = if many { u32::try_from(take(data)?).ok()? } else { 1 };
    let bytes = take(data)?;
    next.offset += u64::from(count);
    Some(PostingRange { place, first: 0, count, bytes, droppable })
}

/// A number in bytes of 7 bits, the lowest first.
fn put(data: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        data.push(value as u8 | 0x80);
        value >>= 7;
    }
    data.push(value as u8);
}

fn take(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Small numbers of either sign become small ones.
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_come_back() {
        let mut data = Vec::new();
        let values = [0, 1, 0x7f, 0x80, 300, 1 << 35, u64::MAX];
        values.into_iter().for_each(|value| put(&mut data, value));
        let mut rest = &data[..];
        assert_eq!(values.map(|_| take(&mut rest)), values.map(Some));
        assert_eq!(take(&mut rest), None);
        for value in [0, 1, -1, 63, -64, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!((zigzag(-1), zigzag(1)), (1, 2));
    }
}
