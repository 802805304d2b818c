//! Where records go that were read.

use super::{ToolError, print};
use ringlane_dataplane::log::record::Record;
use std::io::Write;

/// Takes records, batch by batch.
pub(super) trait Sink {
    /// What becomes of a batch until it is known to be durable.
    type Piece: Default;

    /// Adds a record to a piece.
    fn add(&self, piece: &mut Self::Piece, partition: u32, record: &Record<'_>);

    /// Whether nothing was added to a piece.
    fn is_empty(piece: &Self::Piece) -> bool;

    /// Takes a piece.
    fn take(&mut self, piece: Self::Piece) -> Result<(), ToolError>;
}

/// What a record is as a line.
pub(super) type Format = fn(u32, &Record<'_>) -> String;

/// Lines, for people or of JSON.
pub(super) struct Lines<W> {
    pub(super) out: W,
    format: Format,
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W, json: bool) -> Self {
        Self { out, format: if json { print::json } else { print::line } }
    }

    pub(super) fn flush(&mut self) -> Result<(), ToolError> {
        self.out.flush().map_err(|error| ToolError::output(&error))
    }
}

impl<W: Write> Sink for Lines<W> {
    type Piece = String;

    fn add(&self, piece: &mut String, partition: u32, record: &Record<'_>) {
        piece.push_str(&(self.format)(partition, record));
    }

    fn is_empty(piece: &String) -> bool {
        piece.is_empty()
    }

    fn take(&mut self, piece: String) -> Result<(), ToolError> {
        self.out.write_all(piece.as_bytes()).map_err(|error| ToolError::output(&error))
    }
}
