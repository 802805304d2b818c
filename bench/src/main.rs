//! The `ringlane-bench` command.
#![forbid(unsafe_code)]

mod cli;
mod suites;

use anyhow::{Context, Result};
use clap::Parser;
use cli::Cli;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            use io::Write;
            // Nothing is left to do if even that fails.
            let _ = writeln!(io::stderr(), "ringlane-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    if let Some(cpu) = cli.command.cpu() {
        pin(cpu)?;
    }
    let Some(report) = suites::run(&cli.command)? else { return Ok(true) };
    let json = cli.command.common().is_some_and(|common| common.json);
    report.print(json, &mut io::stdout().lock()).context("the report")?;
    Ok(report.held())
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu} is not a CPU number");
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}"))
}
