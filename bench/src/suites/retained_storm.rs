//! `retained-storm`: many retained messages to many subscribers.

use super::round;
use crate::cli::retained_storm::RetainedStormArgs;
use anyhow::Result;
use ringlane_bench::meter::Spent;
use ringlane_bench::report::Report;
use ringlane_bench::retained_storm;

pub(crate) fn run(args: &RetainedStormArgs) -> Result<Report> {
    let options = args.options()?;
    let outcome = retained_storm::run(&args.common.target()?, &options)?;
    let mut report = Report::new("retained-storm");
    report.setting("messages", options.messages);
    report.setting("topics", options.topics);
    report.setting("subscribers", options.subscribers);
    report.setting("qos", options.qos as u8);
    report.setting("size", options.payload_bytes);
    phase(&mut report, "stored", options.messages, &outcome.storing);
    phase(&mut report, "delivered", outcome.delivered, &outcome.handing_out);
    report.latency("subscribe_to_first", &outcome.first);
    report.latency("subscribe_to_last", &outcome.last);
    let rejected = outcome.rejected;
    report.check("no publish refused", rejected == 0, format!("{rejected}"));
    let expected = options.topics * options.subscribers as u64;
    let detail = format!("{} of {expected} missing", outcome.missing);
    report.check("every subscriber got everything", outcome.missing == 0, detail);
    let wrong = outcome.wrong;
    report.check("once, whole, retained, the latest", wrong == 0, format!("{wrong} were not"));
    Ok(report)
}

fn phase(report: &mut Report, name: &str, count: u64, spent: &Spent) {
    report.figure(name, count);
    report.figure(&format!("{name}_seconds"), round(spent.seconds, 3));
    report.figure(&format!("{name}_per_second"), (count as f64 / spent.seconds).round());
    if let Some(cpu) = spent.cpu_seconds {
        let each = cpu * 1e6 / count.max(1) as f64;
        report.figure(&format!("{name}_broker_cpu_us_each"), round(each, 3));
    }
}
