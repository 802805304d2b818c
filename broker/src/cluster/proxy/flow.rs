//! One direction of a pair: bytes from one socket to the other, at most one buffer held.

use std::io;
use tokio::net::TcpStream;

/// Bytes that are read at once, and so what a direction holds when the other side reads slowly. The
/// buffer is on the stack: a pair that is idle has none.
const BUFFER_BYTES: usize = 16 * 1024;

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// So many bytes were read; 0 = only what was held went on.
    Moved(usize),
    /// The source has ended, and everything is delivered.
    Ended,
    /// The source failed.
    SourceFailed,
    /// The other side takes nothing any more; what comes is thrown away from now on.
    SinkFailed,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    /// What was read and is not written yet.
    rest: Vec<u8>,
    written: usize,
    source_ended: bool,
    sink_failed: bool,
    is_over: bool,
}

impl Flow {
    /// A direction in which `first` goes ahead; `source_ended` if nothing follows.
    pub(super) fn new(first: Vec<u8>, source_ended: bool) -> Self {
        Self { rest: first, written: 0, source_ended, sink_failed: false, is_over: false }
    }

    /// Whether the source has ended or failed and everything is delivered.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether everything that was read is delivered.
    pub(super) fn is_delivered(&self) -> bool {
        self.written == self.rest.len() && !self.sink_failed
    }

    /// Waits for something to do, and does it; `seen` gets what was read. May be dropped while it
    /// waits. Waits for ever once the direction is over.
    pub(super) async fn step(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        seen: impl FnMut(&[u8]),
    ) -> Step {
        if self.is_over {
            return std::future::pending().await;
        }
        if self.written < self.rest.len() {
            let ready = sink.writable().await;
            return match ready.and_then(|()| self.write(sink)) {
                Ok(()) => Step::Moved(0),
                Err(_) => self.lose_sink(),
            };
        }
        if self.source_ended {
            return self.end(Step::Ended);
        }
        let ready = source.readable().await;
        match ready.and_then(|()| self.read(source, sink, seen)) {
            Ok(count) => Step::Moved(count),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.end(Step::Ended),
            Err(_) => self.end(Step::SourceFailed),
        }
    }

    /// Reads, and writes what it can at once. 0 = there was nothing.
    fn read(
        &mut self,
        source: &TcpStream,
        sink: &TcpStream,
        mut seen: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut buffer = [0; BUFFER_BYTES];
        let count = match source.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..count];
        seen(bytes);
        if !self.sink_failed {
            // An error shows again when the rest is written.
            let done = sink.try_write(bytes).unwrap_or(0);
            self.rest = bytes[done..].to_vec();
            self.written = 0;
        }
        Ok(count)
    }

    fn write(&mut self, sink: &TcpStream) -> io::Result<()> {
        match sink.try_write(&self.rest[self.written..]) {
            Ok(count) => self.written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.written == self.rest.len() {
            self.rest = Vec::new();
            self.written = 0;
        }
        Ok(())
    }

    fn end(&mut self, how: Step) -> Step {
        self.is_over = true;
        how
    }

    fn lose_sink(&mut self) -> Step {
        self.sink_failed = true;
        self.rest = Vec::new();
        self.written = 0;
        Step::SinkFailed
    }
}
