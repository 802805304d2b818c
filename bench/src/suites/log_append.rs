//! `log-append`: the broker's log by itself, and plain calls of the same size.

use super::round;
use crate::cli::log_append::LogAppendArgs;
use anyhow::Result;
use ringlane_bench::log_append::{self, Options, Outcome, floor};
use ringlane_bench::report::Report;

const MIB: f64 = (1 << 20) as f64;

pub(crate) fn run(args: &LogAppendArgs) -> Result<Report> {
    let options = args.options()?;
    let outcome = log_append::run(&options)?;
    let (bytes, files) = (outcome.round_bytes(), options.partitions);
    let floor = floor::run(&options.directory, files, bytes, options.time / 2)?;
    let mut report = Report::new("log-append");
    settings(&mut report, &options, &outcome);
    figures(&mut report, &options, &outcome);
    report.latency("commit_latency", &outcome.commit_latency);
    report.latency("round_latency", &outcome.round_latency);
    report.latency("floor_round_latency", &floor.round_latency);
    report.latency("floor_fdatasync_latency", &floor.sync_latency);
    let ratio = |quantile| {
        let of_log = outcome.round_latency.value_at_quantile(quantile) as f64;
        of_log / floor.round_latency.value_at_quantile(quantile).max(1) as f64
    };
    report.figure("round_p50_to_floor", round(ratio(0.5), 2));
    report.figure("round_p99_to_floor", round(ratio(0.99), 2));
    let detail = "everything that was accepted is durable at the end";
    report.check("durable", outcome.is_durable, detail);
    Ok(report)
}

fn settings(report: &mut Report, options: &Options, outcome: &Outcome) {
    report.setting("directory", options.directory.display().to_string());
    report.setting("partitions", options.partitions);
    report.setting("payload_bytes", options.payload_bytes);
    report.setting("window", options.window);
    report.setting("level", format!("{:?}", options.level));
    report.setting("files", format!("{:?}", options.backend));
    report.setting("transport", outcome.transport.clone());
    report.setting("threads", options.threads);
    report.setting("segment_bytes", options.segment_bytes);
}

fn figures(report: &mut Report, options: &Options, outcome: &Outcome) {
    let seconds = outcome.time.as_secs_f64();
    let (records, log_bytes) = (outcome.records as f64, outcome.log_bytes as f64);
    let rounds = outcome.round_latency.len() as f64;
    let payload_mib = records * options.payload_bytes as f64 / MIB;
    report.figure("seconds", round(seconds, 2));
    report.figure("messages_per_second", round(records / seconds, 0));
    report.figure("payload_mib_per_second", round(payload_mib / seconds, 2));
    report.figure("log_mib_per_second", round(log_bytes / MIB / seconds, 2));
    report.figure("rounds_per_second", round(rounds / seconds, 1));
    report.figure("bytes_per_round", outcome.round_bytes());
    report.figure(
        "core_cpu_us_per_message",
        round(outcome.core_cpu.as_secs_f64() * 1e6 / records.max(1.0), 3),
    );
    let per_round = outcome.process_cpu.as_secs_f64() * 1e6 / rounds.max(1.0);
    report.figure("process_cpu_us_per_round", round(per_round, 1));
    report.figure("segments", outcome.segments);
}
