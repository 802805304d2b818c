//! `ledger`: what was acknowledged must be there after every fault.

use crate::cli::ledger::LedgerArgs;
use anyhow::Result;
use ringlane_bench::compare::Recipe;
use ringlane_bench::durability::{self, Check, Fault, Host, Options, Outcome};
use ringlane_bench::report::Report;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;

pub(crate) fn run(args: &LedgerArgs) -> Result<Report> {
    let (name, recipe) = args.recipe()?;
    let options = args.options(&recipe)?;
    // Said before anything can go wrong: with it a run is repeated.
    writeln!(io::stderr(), "ringlane-bench ledger: seed {}", options.seed)?;
    let room = args.room();
    let (version, outcome) = match args.cluster {
        _ if !args.at.is_empty() => {
            (String::new(), durability::run(&options, &mut args.outside_host(&options)))
        }
        Some(nodes) => hold_cluster(args, &options, &name, &recipe, nodes)?,
        None => hold(args, &options, &name, recipe)?,
    };
    // What cannot be removed is in a directory for temporary files.
    let _ = fs::remove_dir(&room);
    let outcome = outcome?;
    let mut report = Report::new("ledger");
    if args.at.is_empty() {
        report.setting("broker", name);
        report.setting("version", version);
    } else {
        report.setting("at", addresses(&args.at));
    }
    report.setting("fault", options.fault.name());
    if let Some(nodes) = args.cluster {
        report.setting("nodes", nodes);
    }
    report.setting("cycles", options.cycles);
    report.setting("seed", options.seed);
    report.setting("mqtt", options.version.level());
    fill(&mut report, &outcome, options.cycles);
    Ok(report)
}

/// Runs the ledger against one broker; gives its version.
fn hold(
    args: &LedgerArgs,
    options: &Options,
    name: &str,
    recipe: Recipe,
) -> Result<(String, Result<Outcome>)> {
    let mut host = args.host(name, recipe, args.room())?;
    let version = host.version();
    if args.settle {
        host.start()?;
        host.strike(Fault::Term)?;
        host.settle()?;
    }
    let outcome = durability::run(options, &mut host);
    if args.keep_directory && has_failed(&outcome) {
        writeln!(io::stderr(), "the broker's directory is {}", host.keep_directory().display())?;
    }
    Ok((version, outcome))
}

/// The same against a cluster.
fn hold_cluster(
    args: &LedgerArgs,
    options: &Options,
    name: &str,
    recipe: &Recipe,
    nodes: u16,
) -> Result<(String, Result<Outcome>)> {
    let mut host = args.cluster_host(name, recipe, args.room(), nodes)?;
    let version = host.version();
    let outcome = durability::run(options, &mut host);
    if args.keep_directory && has_failed(&outcome) {
        writeln!(
            io::stderr(),
            "the nodes' directories are in {}",
            host.keep_directory().display()
        )?;
    }
    Ok((version, outcome))
}

fn addresses(at: &[SocketAddr]) -> String {
    at.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn has_failed(outcome: &Result<Outcome>) -> bool {
    outcome.as_ref().is_ok_and(|outcome| outcome.findings.total() > 0)
}

fn fill(report: &mut Report, outcome: &Outcome, cycles: u32) {
    report.figure("acknowledged", outcome.acknowledged);
    report.figure("deliveries_owed", outcome.owed);
    report.figure("deliveries", outcome.deliveries);
    report.figure("repeats_allowed", outcome.repeats);
    if outcome.tripped > 0 {
        report.figure("failpoints_met", outcome.tripped);
    }
    report.figure("seconds", super::round(outcome.length.as_secs_f64(), 1));
    if !outcome.restarts.is_empty() {
        report.latency("restart", &outcome.restarts);
    }
    for check in Check::ALL {
        let count = outcome.findings.count(check);
        let first = outcome.findings.texts(check).first().map(|text| format!("; first: {text}"));
        let detail = format!("{count}{}", first.unwrap_or_default());
        report.check(check.name(), count == 0, detail);
    }
    let ran = outcome.cycles;
    report.check("every cycle ran", ran == cycles, format!("{ran} of {cycles}"));
}
