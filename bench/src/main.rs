//! The `ringlane-bench` command.
#![forbid(unsafe_code)]

mod cli;
mod suites;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Cli, Command};
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
    let common = cli.command.common();
    if let Some(cpu) = common.cpu {
        pin(cpu)?;
    }
    let report = match &cli.command {
        Command::Pairs(args) => suites::pairs(args),
        Command::FanIn(args) => suites::fan_in(args),
        Command::FanOut(args) => suites::fan_out(args),
        Command::Shared(args) => suites::shared(args),
        Command::Connections(args) => suites::connections(args),
        Command::Takeover(args) => suites::takeover(args),
    }?;
    report.print(common.json, &mut io::stdout().lock()).context("the report")?;
    Ok(report.held())
}

impl Command {
    fn common(&self) -> &cli::CommonArgs {
        match self {
            Self::Pairs(args) | Self::FanIn(args) | Self::FanOut(args) => &args.common,
            Self::Shared(args) => &args.common,
            Self::Connections(args) => &args.common,
            Self::Takeover(args) => &args.common,
        }
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu} is not a CPU number");
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}"))
}
