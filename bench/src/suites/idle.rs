//! `idle-connections`: what a connection costs that does nothing.

use super::connect_storm::{arrival_checks, arrival_figures};
use super::round;
use crate::cli::idle::IdleArgs;
use anyhow::{Result, ensure};
use ringlane_bench::idle::{self, IdleOptions, IdleOutcome, StepFigures};
use ringlane_bench::kernel_memory::Purpose;
use ringlane_bench::report::Report;
use serde_json::{Map, Value, json};

pub(crate) fn run(args: &IdleArgs) -> Result<Report> {
    let clients = args.arrival.clients;
    ensure!(args.steps.iter().all(|step| *step < clients), "--steps must be below --clients");
    let options = IdleOptions {
        steps: args.steps.iter().copied().chain([clients]).collect(),
        arrival: args.arrival.options()?,
        topic: args.arrival.common.topic.clone(),
        settle: args.settle,
        hold: args.hold,
        sample: args.sample,
        process: args.arrival.common.process(),
    };
    let outcome = idle::run(&args.arrival.common.target()?, &options)?;
    let mut report = Report::new("idle-connections");
    report.setting("clients", clients);
    report.setting("subscribe", args.arrival.subscribe);
    report.setting("keepalive", args.arrival.keepalive);
    arrival_figures(&mut report, &outcome.arrivals);
    figures(&mut report, &outcome);
    arrival_checks(&mut report, clients, &outcome.arrivals);
    checks(&mut report, &outcome);
    Ok(report)
}

fn figures(report: &mut Report, outcome: &IdleOutcome) {
    for step in &outcome.steps {
        report.figure(&format!("at_{:07}", step.connections), step_figures(step));
    }
    if let Some((cpu, seconds)) = outcome.holding
        && seconds > 0.0
    {
        report.figure("broker_cpu_ms_per_second_holding", round(cpu * 1000.0 / seconds, 3));
    }
    report.figure("pings", outcome.pings.0);
    report.figure("sampled", outcome.sampled.0);
}

/// All memory is growth since before the first connection, divided by the connections.
fn step_figures(step: &StepFigures) -> Value {
    let per_connection = |bytes: u64| round(bytes as f64 / step.connections.max(1) as f64, 1);
    let mut figures = Map::new();
    if let Some(bytes) = step.broker_bytes {
        figures.insert("broker_bytes_each".into(), json!(per_connection(bytes)));
        figures.insert("broker_bytes".into(), json!(bytes));
    }
    if let Some(cpu) = step.cpu_seconds {
        figures.insert("broker_cpu_seconds".into(), json!(round(cpu, 3)));
    }
    figures.insert("seconds".into(), json!(round(step.seconds, 3)));
    figures.insert("generator_bytes_each".into(), json!(per_connection(step.own_bytes)));
    figures.insert("kernel_slab_each".into(), json!(per_connection(step.kernel.slab_bytes)));
    for purpose in Purpose::ALL {
        if let Some(bytes) = step.kernel.by_purpose.get(&purpose) {
            figures
                .insert(format!("kernel_{}_each", purpose.name()), json!(per_connection(*bytes)));
        }
    }
    Value::Object(figures)
}

fn checks(report: &mut Report, outcome: &IdleOutcome) {
    report.check("none ended", outcome.ended == 0, format!("{}", outcome.ended));
    let (pings, pongs) = outcome.pings;
    report.check("every ping answered", pings == pongs, format!("{pongs} of {pings}"));
    let (sampled, served) = outcome.sampled;
    let all = sampled == served;
    report.check("every sampled client got its message", all, format!("{served} of {sampled}"));
    let misdelivered = outcome.misdelivered;
    report.check("nobody got another's", misdelivered == 0, format!("{misdelivered}"));
}
