//! Reading and writing the bodies of state records: little-endian numbers, and strings behind
//! their length. A read beyond the end is `None`, never a panic.

use ringlane_dataplane::log::format::COUNT_MAX;

/// Reads a body from its front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number that something has been counted to: nothing overflows that goes on from there.
    pub(super) fn count(&mut self) -> Option<u64> {
        self.u64().filter(|count| *count <= COUNT_MAX)
    }

    /// A string behind its length in 2 bytes.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.u16()?;
        core::str::from_utf8(self.take(usize::from(length))?).ok()
    }

    /// Bytes behind their length in 4 bytes.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// A list behind its length in 4 bytes, of entries of at least `entry_bytes_min` bytes: a
    /// length that the rest cannot hold is refused before anything is reserved for it.
    pub(super) fn list<T>(
        &mut self,
        entry_bytes_min: usize,
        mut entry: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.u32()? as usize;
        if count > self.0.len() / entry_bytes_min {
            return None;
        }
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(entry(self)?);
        }
        Some(list)
    }

    /// Whether everything was read.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a body at the end of a buffer.
#[derive(Debug)]
pub(super) struct Output<'a>(pub(super) &'a mut Vec<u8>);

impl Output<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// # Panics
    /// If it is longer than 65,535 bytes: MQTT has no such string.
    pub(super) fn text(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).expect("MQTT strings are shorter"));
        self.0.extend_from_slice(text.as_bytes());
    }

    /// # Panics
    /// If there are 4 GiB or more: MQTT has no such packet.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("MQTT packets are shorter"));
        self.0.extend_from_slice(bytes);
    }

    /// # Panics
    /// If the list has 2^32 entries or more.
    pub(super) fn list<T>(
        &mut self,
        list: impl ExactSizeIterator<Item = T>,
        mut entry: impl FnMut(&mut Self, T),
    ) {
        self.u32(u32::try_from(list.len()).expect("lists of state records are shorter"));
        for item in list {
            entry(self, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_behind_the_end() {
        let mut bytes = Vec::new();
        let mut out = Output(&mut bytes);
        out.u8(1);
        out.text("é");
        out.list([7_u64, 8].into_iter(), |out, n| out.u64(n));
        out.bytes(b"xyz");
        let mut input = Input(&bytes);
        assert_eq!(input.u8(), Some(1));
        assert_eq!(input.text(), Some("é"));
        assert_eq!(input.list(8, |input| input.u64()), Some(vec![7, 8]));
        assert_eq!(input.bytes(), Some(&b"xyz"[..]));
        assert!(input.is_empty());
        assert_eq!(input.u16(), None);
        assert_eq!(Input(&[0xff; 8]).list(8, |input| input.u64()), None);
        assert_eq!(Input(&COUNT_MAX.to_le_bytes()).count(), Some(COUNT_MAX));
        assert_eq!(Input(&(COUNT_MAX + 1).to_le_bytes()).count(), None);
    }
}
