//! The `ringlane-bench` command.
#![forbid(unsafe_code)]

mod cli;
mod output;
mod suites;

use anyhow::{Context, Result};
use clap::Parser;
use cli::Cli;
use cli::common::CommonArgs;
use ringlane_bench::environment::Recorder;
use ringlane_bench::progress::Timed;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::process::ExitCode;
use suites::Outcome;

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
    let command = &cli.command;
    if let Some(cpu) = command.cpu() {
        pin(cpu)?;
    }
    let recorder = Recorder::start(command.common().and_then(CommonArgs::process));
    let progress = Timed::start("measuring", command.length());
    let outcome = suites::run(command)?;
    drop(progress);
    let mut report = match outcome {
        Outcome::Measured(report) => report,
        Outcome::Done(held) => return Ok(held),
    };
    let broker = command.common().and_then(|common| common.broker_name.clone());
    let environment = recorder.finish(broker);
    report.warnings.extend(environment.noise.warnings());
    report.environment = Some(environment);
    let output = command.common().map(|common| common.output.clone()).unwrap_or_default();
    output::write_report(&report, &output)?;
    Ok(report.held())
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu} is not a CPU number");
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}"))
}
