//! Rows as a table: columns as wide as what is in the first rows, so that any number can pass.

use super::CtlError;
use std::io::{self, BufWriter, Stdout, Write};

/// Rows that are looked at for the widths.
const LOOKED_AT: usize = 1000;
/// The widest that a column becomes for all rows.
const WIDTH_MAX: usize = 48;

/// A table on standard output.
#[derive(Debug)]
pub(crate) struct Table {
    out: BufWriter<Stdout>,
    header: &'static [&'static str],
    /// Rows that wait for the widths.
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl Table {
    pub(crate) fn new(header: &'static [&'static str]) -> Self {
        let out = BufWriter::new(io::stdout());
        Self { out, header, waiting: Vec::new(), widths: None }
    }

    /// Adds a row. What came from clients is escaped.
    pub(crate) fn row(&mut self, cells: Vec<String>) -> Result<(), CtlError> {
        if let Some(widths) = &self.widths {
            return write_row(&mut self.out, widths, &cells);
        }
        self.waiting.push(cells);
        if self.waiting.len() >= LOOKED_AT { self.begin() } else { Ok(()) }
    }

    /// Writes what waits. A table without a row has its header all the same.
    pub(crate) fn end(&mut self) -> Result<(), CtlError> {
        if self.widths.is_none() {
            self.begin()?;
        }
        self.out.flush().map_err(|error| output(&error))
    }

    fn begin(&mut self) -> Result<(), CtlError> {
        let widths = (0..self.header.len()).map(|column| {
            let cells = self.waiting.iter().map(|row| row.get(column).map_or(0, |c| width(c)));
            let widest = cells.filter(|width| *width <= WIDTH_MAX).max().unwrap_or(0);
            widest.max(self.header[column].len())
        });
        let widths: Vec<usize> = widths.collect();
        let header: Vec<String> = self.header.iter().map(|name| (*name).to_owned()).collect();
        write_row(&mut self.out, &widths, &header)?;
        for row in core::mem::take(&mut self.waiting) {
            write_row(&mut self.out, &widths, &row)?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

fn write_row(out: &mut impl Write, widths: &[usize], cells: &[String]) -> Result<(), CtlError> {
    let mut line = String::new();
    for (cell, wanted) in cells.iter().zip(widths) {
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', wanted.saturating_sub(width(cell)) + 2));
    }
    writeln!(out, "{}", line.trim_end()).map_err(|error| output(&error))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// An error of the output.
pub(crate) fn output(error: &io::Error) -> CtlError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CtlError::Closed,
        _ => CtlError::Failed(format!("cannot write the output: {error}")),
    }
}
