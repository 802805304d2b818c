//! The flags that say where results go.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Clone, Default, Debug)]
pub(crate) struct OutputArgs {
    /// Write everything as JSON to a file; `-`, or no file, is standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<PathBuf>,
    /// Write latency distributions as .hgrm files, which HdrHistogram's plotter reads.
    #[arg(long, value_name = "DIR")]
    pub(crate) hgrm: Option<PathBuf>,
    /// Write a report with charts: one HTML file that needs no network.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

impl OutputArgs {
    /// Whether JSON takes the place of the table on standard output.
    pub(crate) fn is_json_on_stdout(&self) -> bool {
        self.json.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}
