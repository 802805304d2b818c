//! Where results go: JSON, `.hgrm` files, an HTML page.

use crate::cli::output::OutputArgs;
use anyhow::{Context, Result};
use ringlane_bench::document::Document;
use ringlane_bench::report::Report;
use ringlane_bench::{hgrm, html};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Prints one run, and writes its files.
pub(crate) fn write_report(report: &Report, args: &OutputArgs) -> Result<()> {
    report.print(args.is_json_on_stdout(), &mut io::stdout().lock()).context("the report")?;
    if let Some(path) = json_file(args) {
        save(path, &report.to_json().to_string())?;
    }
    if let Some(directory) = &args.hgrm {
        for (name, histogram) in report.histograms() {
            let name = format!("{}-{name}", report.workload);
            hgrm::save(histogram, directory, &name).with_context(|| place(directory))?;
        }
    }
    if let Some(path) = &args.html {
        save(path, &html::page(&Document::of_report(report, "the broker")?))?;
    }
    Ok(())
}

/// Writes the files of a comparison.
pub(crate) fn write_files(document: &Document, args: &OutputArgs) -> Result<()> {
    if let Some(path) = json_file(args) {
        save(path, &document.to_json()?.to_string())?;
    }
    if let Some(directory) = &args.hgrm {
        write_hgrm(document, directory)?;
    }
    if let Some(path) = &args.html {
        save(path, &html::page(document))?;
    }
    Ok(())
}

/// Prints the JSON of a comparison if it was asked for.
pub(crate) fn write_stdout(document: &Document, args: &OutputArgs) -> Result<()> {
    if args.is_json_on_stdout() {
        writeln!(io::stdout(), "{}", document.to_json()?)?;
    }
    Ok(())
}

fn write_hgrm(document: &Document, directory: &Path) -> Result<()> {
    for workload in &document.workloads {
        for cell in &workload.cells {
            for name in cell.histograms.keys() {
                let Some(histogram) = cell.histogram(name) else { continue };
                let file = format!("{}-{}-{name}", workload.name, cell.broker);
                hgrm::save(&histogram, directory, &file).with_context(|| place(directory))?;
            }
        }
    }
    Ok(())
}

fn json_file(args: &OutputArgs) -> Option<&Path> {
    args.json.as_deref().filter(|_| !args.is_json_on_stdout())
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| place(path))
}

fn place(path: &Path) -> String {
    path.display().to_string()
}
