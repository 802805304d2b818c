//! `churn`: clients that come and go.

use super::round;
use crate::cli::churn::ChurnArgs;
use anyhow::{Result, ensure};
use ringlane_bench::churn::{self, ChurnOptions, ChurnOutcome};
use ringlane_bench::report::Report;

/// How much more memory than after the warm-up is no leak.
const RESIDENT_GROWTH_MAX: f64 = 1.10;
pub(crate) fn run(args: &ChurnArgs) -> Result<Report> {
    ensure!(args.clients > 0, "--clients must be at least 1");
    let options = ChurnOptions {
        connections: args.clients,
        rounds: args.rounds,
        warm_up_rounds: args.warm_up_rounds,
        qos: args.qos,
        prefix: args.common.topic.clone(),
        process: args.common.process(),
        patience: args.common.patience()?.max(std::time::Duration::from_secs(60)),
    };
    let outcome = churn::run(&args.common.target()?, &options)?;
    let mut report = Report::new("churn");
    report.setting("clients", args.clients);
    report.setting("rounds", args.rounds);
    report.figure("connections", outcome.connections);
    report.figure("messages", outcome.messages);
    report.figure("seconds", round(outcome.seconds, 3));
    report.figure("connections_per_second", (outcome.connections as f64 / outcome.seconds).round());
    churn_checks(&mut report, args, &outcome);
    Ok(report)
}

fn churn_checks(report: &mut Report, args: &ChurnArgs, outcome: &ChurnOutcome) {
    let expected = (args.clients * args.rounds) as u64;
    let all = outcome.messages == expected;
    report.check("every client got its message", all, format!("{}", outcome.messages));
    let Some((before, after)) = outcome.compared(args.warm_up_rounds) else { return };
    let resident: Vec<u64> =
        outcome.footprints.iter().map(|footprint| footprint.resident_bytes).collect();
    report.figure("resident_bytes", resident);
    let growth = after.resident_bytes as f64 / before.resident_bytes as f64;
    report.check("memory as before", growth <= RESIDENT_GROWTH_MAX, format!("{growth:.3} times"));
    let (first, last) = (before.descriptors, after.descriptors);
    report.check("no descriptor leaked", last <= first, format!("{first}, then {last}"));
}
