//! The `ringlane-bench` command.
#![forbid(unsafe_code)]

mod cli;
mod output;
mod suites;

use anyhow::{Context, Result};
use clap::Parser;
use cli::common::CommonArgs;
use cli::{Cli, Command};
use ringlane_bench::broker_version::ask;
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
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Exit code when nothing could be measured: that is no verdict on the broker.
const COULD_NOT_RUN: u8 = 2;

fn run(cli: &Cli) -> Result<bool> {
    let command = &cli.command;
    if let Some(cpu) = command.cpu() {
        pin(cpu)?;
    }
    let broker = command.common().map(CommonArgs::processes).unwrap_or_default();
    let recorder = Recorder::start(broker.into_iter().map(|watched| watched.process).collect());
    let progress = Timed::start("measuring", command.length());
    let outcome = suites::run(command)?;
    drop(progress);
    let mut report = match outcome {
        Outcome::Measured(report) => report,
        Outcome::Done(held) => return Ok(held),
    };
    let environment = recorder.finish(broker_name(command));
    report.warnings.extend(environment.noise.warnings());
    report.environment = Some(environment);
    output::write_report(&report, &command.output())?;
    Ok(report.held())
}

/// What the flags call the broker, or it calls itself; it is asked only for a file.
fn broker_name(command: &Command) -> Option<String> {
    let common = command.common()?;
    let asked = || {
        let is_stored = common.output.json.is_some() || common.output.html.is_some();
        common.target().ok().filter(|_| is_stored).and_then(|target| ask(target.address))
    };
    common.broker_name.clone().or_else(asked)
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu} is not a CPU number");
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}"))
}
