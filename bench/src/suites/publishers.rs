//! `publishers`: the same flow from few and from many publishers.

use super::round;
use super::wildcards::{probe_checks, window_figures};
use crate::cli::publishers::PublishersArgs;
use anyhow::{Result, ensure};
use ringlane_bench::publishers::{self, PublisherOptions};
use ringlane_bench::report::Report;

pub(crate) fn run(args: &PublishersArgs) -> Result<Report> {
    ensure!(!args.clients.is_empty(), "--clients is empty");
    let options = PublisherOptions {
        prefix: args.probe.common.id_prefix.clone(),
        topic: args.probe.common.topic.clone(),
        publishers: args.clients.clone(),
        warm_up: args.probe.warm_up(),
        probe: args.probe.options()?,
    };
    let outcome = publishers::run(&args.probe.common.target()?, &options)?;
    let mut report = Report::new("publishers");
    report.setting("window", options.probe.window);
    report.setting("lockstep", options.probe.lockstep);
    if let Some(rate) = options.probe.rate {
        report.setting("rate", rate);
    }
    for (count, window) in &outcome.windows {
        window_figures(&mut report, &format!("from_{count:05}"), window);
    }
    let costs: Vec<f64> =
        outcome.windows.iter().filter_map(|(_, window)| window.cpu_us_per_message()).collect();
    if let (Some(first), Some(last)) = (costs.first(), costs.last()) {
        report.figure("cost_growth", round(last / first, 3));
    }
    probe_checks(&mut report, outcome.faults);
    Ok(report)
}
