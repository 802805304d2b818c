//! `throughput --search`: the highest rate of an open loop that keeps a bound.

use super::flow::{self, Shape};
use super::round;
use crate::cli::flow::FlowArgs;
use anyhow::{Context, Result};
use ringlane_bench::flow::{FlowOptions, FlowOutcome};
use ringlane_bench::report::Report;
use ringlane_bench::search::highest_rate;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) fn run(shape: Shape, args: &FlowArgs) -> Result<Report> {
    let plan = shape.plan(&args.load);
    let target = args.load.common.target()?;
    let bound = args.search.p99;
    let mut trials: Vec<Value> = Vec::new();
    let mut held: Option<(FlowOptions, FlowOutcome)> = None;
    let mut generator_failed_at = None;
    let found = highest_rate(&args.search.options()?, &mut |rate| {
        let options = args.trial(rate)?;
        let outcome = ringlane_bench::flow::run(&target, &plan, &options)?;
        let holds = keeps(&outcome, bound);
        trials.push(trial(rate, &outcome, holds));
        if holds {
            held = Some((options, outcome));
        } else if is_generators_fault(&outcome, bound) {
            generator_failed_at = Some(rate);
        }
        Ok(holds)
    })?;
    let rate = found.context("no rate keeps the bound, however low")?;
    // The last trial that held is the last confirmation of the rate that was found.
    let (options, outcome) = held.context("no trial held")?;
    let mut report = flow::report(shape, &args.load, &options, &outcome);
    report.setting("p99_bound_us", round(bound.as_secs_f64() * 1e6, 1));
    report.figure("highest_rate", rate.round());
    report.figure("trials", trials);
    if let Some(at) = generator_failed_at {
        report.warnings.push(format!(
            "At {at:.0} messages/s the generator itself could not keep the schedule: the broker \
             may be able to do more."
        ));
    }
    Ok(report)
}

/// Whether everything arrived, and in time.
fn keeps(outcome: &FlowOutcome, bound: Duration) -> bool {
    outcome.is_perfect() && p99(outcome) <= bound
}

fn p99(outcome: &FlowOutcome) -> Duration {
    Duration::from_nanos(outcome.latency.value_at_quantile(0.99))
}

/// Whether the generator was late by so much that the bound had no chance.
fn is_generators_fault(outcome: &FlowOutcome, bound: Duration) -> bool {
    let late = |open: &ringlane_bench::flow::OpenLoop| {
        Duration::from_nanos(open.lateness.value_at_quantile(0.99)) > bound / 2
    };
    outcome.is_generator_bound() || outcome.open_loop.as_ref().is_some_and(late)
}

fn trial(rate: f64, outcome: &FlowOutcome, holds: bool) -> Value {
    json!({
        "rate": rate.round(),
        "p99_us": round(p99(outcome).as_secs_f64() * 1e6, 1),
        "lost": outcome.lost,
        "perfect": outcome.is_perfect(),
        "holds": holds,
    })
}
