//! `connect-storm`: what a CONNECT costs.

use super::round;
use crate::cli::connect_storm::ConnectStormArgs;
use anyhow::Result;
use ringlane_bench::arrivals::ArrivalFigures;
use ringlane_bench::connect_storm::{self, StormOptions};
use ringlane_bench::report::Report;

pub(crate) fn run(args: &ConnectStormArgs) -> Result<Report> {
    let options = StormOptions {
        clients: args.arrival.clients,
        arrival: args.arrival.options()?,
        keep: args.keep,
        meter: args.arrival.common.meter(),
    };
    let outcome = connect_storm::run(&args.arrival.common.target()?, &options)?;
    let mut report = Report::new("connect-storm");
    report.setting("clients", options.clients);
    report.setting("pending", options.arrival.pending_max);
    report.setting("subscribe", args.arrival.subscribe);
    if let Some(rate) = options.arrival.rate {
        report.setting("connrate", rate);
        let late_us = outcome.arrivals.late_ns_max as f64 / 1000.0;
        report.figure("generator_late_us_max", round(late_us, 1));
    }
    arrival_figures(&mut report, &outcome.arrivals);
    let standing = outcome.arrivals.standing as f64;
    report.figure("seconds", round(outcome.spent.seconds, 3));
    report.figure("connections_per_second", (standing / outcome.spent.seconds).round());
    if let Some(cpu) = outcome.spent.cpu_seconds {
        report.figure("broker_cpu_seconds", round(cpu, 3));
        report.figure("broker_cpu_us_per_connection", round(cpu * 1e6 / standing, 2));
    }
    if let Some(calls) = outcome.spent.system_calls {
        report.figure("system_calls_per_connection", round(calls / standing, 3));
    }
    arrival_checks(&mut report, options.clients, &outcome.arrivals);
    report.check("none ended", outcome.ended == 0, format!("{}", outcome.ended));
    Ok(report)
}

/// Latencies, and what failed why.
pub(super) fn arrival_figures(report: &mut Report, arrivals: &ArrivalFigures) {
    report.figure("connections", arrivals.standing);
    report.latency("tcp_connect", &arrivals.tcp);
    report.latency("connect_to_connack", &arrivals.connect);
    report.latency("tcp_connect_to_connack", &arrivals.whole);
    if !arrivals.failures.is_empty() {
        let causes = serde_json::to_value(&arrivals.failures).unwrap_or_default();
        report.figure("failures", causes);
    }
}

pub(super) fn arrival_checks(report: &mut Report, clients: u64, arrivals: &ArrivalFigures) {
    let all = arrivals.standing == clients;
    let (standing, failed) = (arrivals.standing, arrivals.failed());
    let causes: Vec<&str> = arrivals.failures.keys().map(String::as_str).take(3).collect();
    let detail = format!("{standing} of {clients}, {failed} failed {}", causes.join("; "));
    report.check("every client connected", all, detail.trim_end());
}
