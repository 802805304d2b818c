//! The workloads of the command line: from flags to a plan, from an outcome to a report. One file
//! per command.

mod churn;
mod compare;
mod connect_storm;
mod end_to_end;
mod floor;
mod flow;
mod idle;
mod ledger;
mod log_append;
mod publish_ack;
mod publishers;
mod retained_storm;
mod search;
mod shared;
mod takeover;
mod throughput;
mod wildcards;

use crate::cli::Command;
use anyhow::Result;
use ringlane_bench::report::Report;

/// What a command leaves.
pub(crate) enum Outcome {
    /// What it measured.
    Measured(Box<Report>),
    /// It has said all itself; whether every check held.
    Done(bool),
}

/// Runs a command.
pub(crate) fn run(command: &Command) -> Result<Outcome> {
    let report = match command {
        Command::Throughput(command) => throughput::run(command)?,
        Command::ConnectStorm(args) => connect_storm::run(args)?,
        Command::IdleConnections(args) => idle::run(args)?,
        Command::RetainedStorm(args) => retained_storm::run(args)?,
        Command::Wildcards(args) => wildcards::run(args)?,
        Command::Publishers(args) => publishers::run(args)?,
        Command::EndToEnd(command) => end_to_end::run(command)?,
        Command::PublishAck(args) => publish_ack::run(args)?,
        Command::Churn(args) => churn::run(args)?,
        Command::Takeover(args) => takeover::run(args)?,
        Command::Ledger(args) => ledger::run(args)?,
        Command::LogAppend(args) => log_append::run(args)?,
        Command::Floor(args) => {
            floor::run(args)?;
            return Ok(Outcome::Done(true));
        }
        Command::Compare(args) => {
            return compare::compare(&args.options()?, &args.output).map(Outcome::Done);
        }
        Command::Replicate(args) => {
            return compare::compare(&args.options()?, &args.output).map(Outcome::Done);
        }
        Command::Report(args) => return compare::report(args).map(Outcome::Done),
    };
    Ok(Outcome::Measured(Box::new(report)))
}

/// Rounds to decimal places.
fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
