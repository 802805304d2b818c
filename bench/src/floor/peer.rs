//! One connection of the relay: where its packets go, and what the kernel has not taken yet.

use ringlane_mqtt::Version;
use rustix::io::{Errno, retry_on_intr};
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::OwnedFd;

/// Pieces that one write takes at most.
const PIECES_MAX: usize = 64;

/// A connection.
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// What it speaks; `None` before its CONNECT.
    pub(super) version: Option<Version>,
    pub(super) filters: Vec<String>,
    /// The topic of its first PUBLISH.
    pub(super) topic: Option<String>,
    /// Who gets its packets.
    pub(super) outputs: Vec<usize>,
    /// Whose packets it gets.
    pub(super) inputs: Vec<usize>,
    /// Whether it is the only input of each of its outputs.
    pub(super) direct: bool,
    /// There may be more to read; only its outputs keep it from being read.
    pub(super) readable: bool,
    /// The peer will send no more: it is read to the end.
    pub(super) ending: bool,
    /// How many of its outputs are full.
    pub(super) blocked_by: usize,
    /// The beginning of a packet.
    pub(super) partial: Vec<u8>,
    /// What the kernel did not take, from `written` on.
    pending: Vec<u8>,
    written: usize,
    /// Places in the arena to be written at the end of the turn.
    pub(super) segments: Vec<Range<usize>>,
}

impl Peer {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            version: None,
            filters: Vec::new(),
            topic: None,
            outputs: Vec::new(),
            inputs: Vec::new(),
            direct: true,
            readable: false,
            ending: false,
            blocked_by: 0,
            partial: Vec::new(),
            pending: Vec::new(),
            written: 0,
            segments: Vec::new(),
        }
    }

    /// Adds a place in the arena to what goes out at the end of the turn.
    pub(super) fn add_segment(&mut self, place: Range<usize>) {
        match self.segments.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => self.segments.push(place),
        }
    }

    /// Writes bytes, or keeps what the kernel does not take. Says whether the output became full.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        let was_full = self.is_full();
        let taken = if was_full { 0 } else { self.offer(bytes) };
        self.pending.extend_from_slice(&bytes[taken..]);
        !was_full && self.is_full()
    }

    /// Whether the kernel did not take all that was written.
    pub(super) fn is_full(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes the segments of this turn. Says whether the output became full.
    pub(super) fn write_segments(&mut self, arena: &[u8]) -> bool {
        let mut segments = std::mem::take(&mut self.segments);
        let was_full = self.is_full();
        match &segments[..] {
            [one] => {
                self.write(&arena[one.clone()]);
            }
            many => many.chunks(PIECES_MAX).for_each(|pieces| self.write_pieces(arena, pieces)),
        }
        segments.clear();
        self.segments = segments;
        !was_full && self.is_full()
    }

    fn write_pieces(&mut self, arena: &[u8], pieces: &[Range<usize>]) {
        let mut taken = if self.is_full() { 0 } else { self.offer_pieces(arena, pieces) };
        for piece in pieces {
            let skipped = taken.min(piece.len());
            taken -= skipped;
            self.pending.extend_from_slice(&arena[piece.start + skipped..piece.end]);
        }
    }

    /// Writes what was kept. Says whether the output has room again.
    pub(super) fn write_pending(&mut self) -> bool {
        if !self.is_full() {
            return false;
        }
        self.written += self.offer(&self.pending[self.written..]);
        let done = self.written == self.pending.len();
        if done {
            self.pending.clear();
            self.written = 0;
        }
        done
    }

    /// Gives bytes to the kernel; returns how many it took.
    fn offer(&self, bytes: &[u8]) -> usize {
        let result = retry_on_intr(|| rustix::io::write(&self.socket, bytes));
        taken(result, bytes.len())
    }

    fn offer_pieces(&self, arena: &[u8], pieces: &[Range<usize>]) -> usize {
        let mut vector = [IoSlice::new(&[]); PIECES_MAX];
        for (slice, piece) in vector.iter_mut().zip(pieces) {
            *slice = IoSlice::new(&arena[piece.clone()]);
        }
        let result = retry_on_intr(|| rustix::io::writev(&self.socket, &vector[..pieces.len()]));
        taken(result, pieces.iter().map(Range::len).sum())
    }
}

/// What a write took. On an error it is everything: the connection is over, which the reading side
/// finds out as well.
fn taken(result: Result<usize, Errno>, all: usize) -> usize {
    match result {
        Ok(bytes) => bytes,
        Err(Errno::AGAIN) => 0,
        Err(_) => all,
    }
}
