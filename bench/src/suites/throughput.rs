//! `throughput`: messages in a closed loop.

use super::round;
use crate::cli::flow::FlowArgs;
use crate::cli::throughput::ThroughputCommand;
use anyhow::Result;
use ringlane_bench::flow::{self, FlowOptions, FlowOutcome, FlowPlan, ListenerPlan, PublisherPlan};
use ringlane_bench::report::Report;
use ringlane_mqtt::QoS;

pub(crate) fn run(command: &ThroughputCommand) -> Result<Report> {
    match command {
        ThroughputCommand::Pairs(args) => run_flow("pairs", args, &pairs(args)),
        ThroughputCommand::FanIn(args) => run_flow("fan-in", args, &fan_in(args)),
        ThroughputCommand::FanOut(args) => run_flow("fan-out", args, &fan_out(args)),
        ThroughputCommand::Shared(args) => super::shared::run(args),
    }
}

fn pairs(args: &FlowArgs) -> FlowPlan {
    let (id, topic) = (&args.common.id_prefix, &args.common.topic);
    FlowPlan {
        publishers: publishers(args, args.clients),
        listeners: (0..args.clients)
            .map(|index| ListenerPlan {
                client_id: format!("{id}-sub-{index}"),
                filter: format!("{topic}/{index}"),
                streams: index..index + 1,
            })
            .collect(),
    }
}

fn fan_in(args: &FlowArgs) -> FlowPlan {
    FlowPlan {
        publishers: publishers(args, args.clients),
        listeners: vec![ListenerPlan {
            client_id: format!("{}-sub", args.common.id_prefix),
            filter: format!("{}/#", args.common.topic),
            streams: 0..args.clients,
        }],
    }
}

fn fan_out(args: &FlowArgs) -> FlowPlan {
    let listener = |index| ListenerPlan {
        client_id: format!("{}-sub-{index}", args.common.id_prefix),
        filter: format!("{}/0", args.common.topic),
        streams: 0..1,
    };
    FlowPlan {
        publishers: publishers(args, 1),
        listeners: (0..args.clients).map(listener).collect(),
    }
}

fn publishers(args: &FlowArgs, count: usize) -> Vec<PublisherPlan> {
    (0..count)
        .map(|index| PublisherPlan {
            client_id: format!("{}-pub-{index}", args.common.id_prefix),
            topic: format!("{}/{index}", args.common.topic),
        })
        .collect()
}

fn run_flow(workload: &'static str, args: &FlowArgs, plan: &FlowPlan) -> Result<Report> {
    let options = args.options()?;
    let outcome = flow::run(&args.common.target()?, plan, &options)?;
    let mut report = Report::new(workload);
    report.setting("clients", args.clients);
    report.setting("qos", options.qos as u8);
    report.setting("size", options.payload_bytes);
    report.setting("window", options.window);
    report.setting("batch", options.batch);
    flow_figures(&mut report, &options, &outcome);
    flow_checks(&mut report, &options, &outcome);
    Ok(report)
}

fn flow_figures(report: &mut Report, options: &FlowOptions, outcome: &FlowOutcome) {
    let spent = &outcome.spent;
    let measured = outcome.measured as f64;
    report.figure("messages", outcome.measured);
    report.figure("seconds", round(spent.seconds, 3));
    report.figure("messages_per_second", (measured / spent.seconds).round());
    report.latency("latency", &outcome.latency);
    if let Some(cpu) = spent.cpu_seconds {
        report.figure("broker_cpu_seconds", round(cpu, 3));
        report.figure("broker_cpu_us_per_message", round(cpu * 1e6 / measured, 4));
        report.figure("messages_per_broker_cpu_second", (measured / cpu).round());
    }
    if let Some(calls) = spent.system_calls {
        report.figure("system_calls_per_message", round(calls / measured, 5));
    }
    if outcome.window != options.window {
        report.figure("window_capped_by_receive_maximum", outcome.window);
    }
}

fn flow_checks(report: &mut Report, options: &FlowOptions, outcome: &FlowOutcome) {
    let of = format!("of {} expected deliveries", outcome.expected);
    report.check("messages flowed", outcome.delivered > 0, format!("{}", outcome.delivered));
    report.check("nothing lost", outcome.lost == 0, format!("{} {of}", outcome.lost));
    let duplicated = outcome.duplicated;
    report.check("nothing duplicated", duplicated == 0, format!("{duplicated}"));
    report.check("in order", outcome.reordered == 0, format!("{} late", outcome.reordered));
    report.check("whole", outcome.damaged == 0, format!("{} damaged", outcome.damaged));
    report.check("no connection ended", outcome.ended == 0, format!("{}", outcome.ended));
    report.check("no publish refused", outcome.rejected == 0, format!("{}", outcome.rejected));
    if options.qos != QoS::AtMostOnce {
        let (sent, acknowledged) = (outcome.sent, outcome.acknowledged);
        report.check("all acknowledged", sent == acknowledged, format!("{acknowledged} of {sent}"));
    }
}
