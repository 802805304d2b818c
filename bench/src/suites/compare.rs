//! `compare`, `replicate` and `report`: tables while it runs, files at the end.

use crate::cli::compare::ReportArgs;
use crate::cli::output::OutputArgs;
use crate::output;
use anyhow::{Context, Result};
use ringlane_bench::compare::{self, Options, table};
use ringlane_bench::document::Document;
use std::fs;
use std::io::{self, Write};

/// Compares brokers; says whether every cell counts. Files are written after each workload, so that
/// what has been measured is not lost if the rest is not run.
pub(crate) fn compare(options: &Options, args: &OutputArgs) -> Result<bool> {
    let is_quiet = args.is_json_on_stdout();
    let document = compare::run(options, &mut |document| {
        if let Some(workload) = document.workloads.last().filter(|_| !is_quiet) {
            io::stdout().write_all(table(workload).as_bytes())?;
        }
        output::write_files(document, args)
    })?;
    output::write_stdout(&document, args)?;
    Ok(document.held())
}

/// Draws what was measured before; says whether every cell counts.
pub(crate) fn report(args: &ReportArgs) -> Result<bool> {
    let mut whole = Document::default();
    for path in &args.files {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| name.clone())?;
        let label = path.file_stem().map_or(name.clone(), |stem| stem.to_string_lossy().into());
        whole.merge(Document::parse(&text, &label).with_context(|| name)?);
    }
    if !args.output.is_json_on_stdout() {
        for workload in &whole.workloads {
            io::stdout().write_all(table(workload).as_bytes())?;
        }
    }
    output::write_files(&whole, &args.output)?;
    output::write_stdout(&whole, &args.output)?;
    Ok(whole.held())
}
