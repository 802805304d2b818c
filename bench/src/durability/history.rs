//! The history of a run: one JSON object a line, invoked before it is sent, in the vocabulary of
//! Jepsen (`invoke`, then `ok`, `fail` or `info`).

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

/// Where the history goes; nowhere if it was not asked for.
#[derive(Debug)]
pub(super) struct History {
    file: Option<BufWriter<File>>,
    started: Instant,
    lines: u64,
    failure: Option<std::io::Error>,
}

impl History {
    /// Begins a history.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub(super) fn new(path: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| File::create(path).with_context(|| path.display().to_string());
        let file = path.map(open).transpose()?.map(BufWriter::new);
        Ok(Self { file, started: Instant::now(), lines: 0, failure: None })
    }

    /// Adds a line: who, one of `invoke`, `ok`, `fail` and `info`, what, and its details. The
    /// details are made only if there is a history.
    pub(super) fn add(
        &mut self,
        who: &str,
        kind: &str,
        function: &str,
        details: impl FnOnce() -> Value,
    ) {
        let Some(file) = &mut self.file else { return };
        let mut line = Map::new();
        line.insert("i".into(), json!(self.lines));
        line.insert("t".into(), json!(self.started.elapsed().as_nanos() as u64));
        line.insert("p".into(), json!(who));
        line.insert("type".into(), json!(kind));
        line.insert("f".into(), json!(function));
        if let Value::Object(details) = details() {
            line.extend(details);
        }
        self.lines += 1;
        if let Err(error) = writeln!(file, "{}", Value::Object(line)) {
            self.failure.get_or_insert(error);
        }
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// If any line could not be written.
    pub(super) fn flush(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.flush().context("the history")?;
        self.failure.take().map_or(Ok(()), |error| Err(error).context("the history"))
    }
}
