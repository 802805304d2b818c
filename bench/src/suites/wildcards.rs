//! `wildcards`: a publish among very many subscriptions.

use super::round;
use crate::cli::wildcards::WildcardsArgs;
use anyhow::Result;
use ringlane_bench::probe::{Faults, Window};
use ringlane_bench::report::Report;
use ringlane_bench::wildcards::{self, StepFigures, WildcardOptions, WildcardOutcome};
use serde_json::{Map, Value, json};

pub(crate) fn run(args: &WildcardsArgs) -> Result<Report> {
    let options = WildcardOptions {
        prefix: args.probe.common.id_prefix.clone(),
        topic: args.probe.common.topic.clone(),
        exact: args.exact,
        wildcard: args.wildcard,
        steps: args.steps()?,
        holders: args.holders(),
        matching: args.matching.clone(),
        publishers: args.publishers,
        topics: args.topics,
        warm_up: args.probe.warm_up(),
        probe: args.probe.options()?,
    };
    let outcome = wildcards::run(&args.probe.common.target()?, &options)?;
    let mut report = Report::new("wildcards");
    report.setting("exact", options.exact);
    report.setting("wildcard", options.wildcard);
    report.setting("clients", options.holders);
    report.setting("publishers", options.publishers);
    report.setting("topics", options.topics);
    report.setting("window", options.probe.window);
    figures(&mut report, &outcome);
    probe_checks(&mut report, outcome.faults);
    let misdelivered = outcome.misdelivered;
    report.check("nothing to others", misdelivered == 0, format!("{misdelivered}"));
    Ok(report)
}

fn figures(report: &mut Report, outcome: &WildcardOutcome) {
    for step in &outcome.steps {
        report.figure(&format!("at_{:07}", step.subscriptions), step_figures(step));
        for measured in &step.measured {
            let name = format!("at_{:07}_matching_{}", step.subscriptions, measured.matching);
            window_figures(report, &name, &measured.window);
        }
    }
    let (Some(first), Some(last)) = (outcome.steps.first(), outcome.steps.last()) else { return };
    for (before, after) in first.measured.iter().zip(&last.measured) {
        let costs = (before.window.cpu_us_per_message(), after.window.cpu_us_per_message());
        if let (Some(few), Some(many)) = costs {
            let name = format!("cost_growth_matching_{}", before.matching);
            report.figure(&name, round(many / few, 3));
        }
    }
}

fn step_figures(step: &StepFigures) -> Value {
    let mut figures = Map::new();
    let (count, spent) = &step.subscribing;
    figures.insert("subscribed".into(), json!(count));
    figures.insert("per_second".into(), json!((*count as f64 / spent.seconds).round()));
    if let Some(cpu) = spent.cpu_seconds {
        let each = cpu * 1e6 / (*count).max(1) as f64;
        figures.insert("broker_cpu_us_each".into(), json!(round(each, 3)));
    }
    if let Some(bytes) = step.broker_bytes {
        let each = bytes as f64 / step.subscriptions.max(1) as f64;
        figures.insert("broker_bytes_each".into(), json!(round(each, 1)));
    }
    Value::Object(figures)
}

/// The figures and the latency of a window.
pub(super) fn window_figures(report: &mut Report, name: &str, window: &Window) {
    let mut figures = Map::new();
    let per_second = window.messages as f64 / window.spent.seconds;
    figures.insert("messages".into(), json!(window.messages));
    figures.insert("messages_per_second".into(), json!(per_second.round()));
    if let Some(cost) = window.cpu_us_per_message() {
        figures.insert("broker_cpu_us_per_message".into(), json!(round(cost, 4)));
    }
    report.figure(name, Value::Object(figures));
    report.latency(&format!("{name}_latency"), &window.latency);
}

pub(super) fn probe_checks(report: &mut Report, faults: Faults) {
    let Faults { out_of_sequence, damaged } = faults;
    let detail = format!("{out_of_sequence} out of sequence");
    report.check("each once, in order", out_of_sequence == 0, detail);
    report.check("whole", damaged == 0, format!("{damaged} damaged"));
}
