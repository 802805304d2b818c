//! The workloads of the command line: from flags to a plan, from an outcome to a report.

use crate::cli::{self, ConnectionsArgs, FlowArgs, SharedArgs, TakeoverArgs};
use anyhow::{Result, ensure};
use ringlane_bench::connections::{self, ChurnOptions, ChurnOutcome};
use ringlane_bench::flow::{self, FlowOptions, FlowOutcome, FlowPlan, ListenerPlan, PublisherPlan};
use ringlane_bench::report::Report;
use ringlane_bench::shared::{self, SharedOptions};
use ringlane_bench::takeover::{self, TakeoverOptions};
use ringlane_mqtt::QoS;

/// How much more memory than after the warm-up is no leak.
const RESIDENT_GROWTH_MAX: f64 = 1.10;
/// What an active member of a shared group must get of the mean.
const FAIRNESS_MIN: f64 = 0.9;

pub(crate) fn pairs(args: &FlowArgs) -> Result<Report> {
    let (id, topic) = (&args.common.id_prefix, &args.common.topic);
    let plan = FlowPlan {
        publishers: publishers(args, args.clients),
        listeners: (0..args.clients)
            .map(|index| ListenerPlan {
                client_id: format!("{id}-sub-{index}"),
                filter: format!("{topic}/{index}"),
                streams: index..index + 1,
            })
            .collect(),
    };
    run_flow("pairs", args, &plan)
}

pub(crate) fn fan_in(args: &FlowArgs) -> Result<Report> {
    let plan = FlowPlan {
        publishers: publishers(args, args.clients),
        listeners: vec![ListenerPlan {
            client_id: format!("{}-sub", args.common.id_prefix),
            filter: format!("{}/#", args.common.topic),
            streams: 0..args.clients,
        }],
    };
    run_flow("fan-in", args, &plan)
}

pub(crate) fn fan_out(args: &FlowArgs) -> Result<Report> {
    let listener = |index| ListenerPlan {
        client_id: format!("{}-sub-{index}", args.common.id_prefix),
        filter: format!("{}/0", args.common.topic),
        streams: 0..1,
    };
    let plan = FlowPlan {
        publishers: publishers(args, 1),
        listeners: (0..args.clients).map(listener).collect(),
    };
    run_flow("fan-out", args, &plan)
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

pub(crate) fn shared(args: &SharedArgs) -> Result<Report> {
    cli::check_size(args.size)?;
    let names = |role: &str, count: usize| -> Vec<String> {
        (0..count).map(|index| format!("{}-{role}-{index}", args.common.id_prefix)).collect()
    };
    let options = SharedOptions {
        members: names("member", args.clients),
        publishers: names("pub", args.publishers),
        group: args.common.id_prefix.clone(),
        topic: args.common.topic.clone(),
        qos: args.qos,
        payload_bytes: args.size,
        messages: args.messages,
        window: args.window,
        receive_maximum: args.receive_maximum,
        stalled: args.stalled,
        stall: args.stall(),
        killed: args.killed,
        patience: args.common.patience()?,
    };
    let outcome = shared::run(&args.common.target()?, &options)?;
    let mut report = Report::new("shared");
    report.setting("members", args.clients);
    report.setting("publishers", args.publishers);
    report.setting("qos", args.qos as u8);
    report.setting("stalled", args.stalled);
    report.setting("killed", args.killed);
    report.figure("sent", outcome.sent);
    report.figure("per_member", outcome.per_member.clone());
    report.figure("fairness", round(outcome.fairness, 4));
    report.figure("duplicated", outcome.duplicated);
    let stays = args.killed == 0 && args.stalled == 0;
    if stays || args.qos != QoS::AtMostOnce {
        report.check("nothing lost", outcome.lost == 0, format!("{}", outcome.lost));
    }
    if stays || args.qos != QoS::AtLeastOnce {
        let duplicated = outcome.duplicated;
        report.check("nothing duplicated", duplicated == 0, format!("{duplicated}"));
    }
    let is_fair = outcome.fairness >= FAIRNESS_MIN;
    report.check("fair among active members", is_fair, format!("{:.3}", outcome.fairness));
    report.check("whole", outcome.damaged == 0, format!("{} damaged", outcome.damaged));
    report.check("no connection ended", outcome.ended == 0, format!("{}", outcome.ended));
    Ok(report)
}

pub(crate) fn connections(args: &ConnectionsArgs) -> Result<Report> {
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
    let outcome = connections::run(&args.common.target()?, &options)?;
    let mut report = Report::new("connections");
    report.setting("clients", args.clients);
    report.setting("rounds", args.rounds);
    report.figure("connections", outcome.connections);
    report.figure("messages", outcome.messages);
    report.figure("seconds", round(outcome.seconds, 3));
    report.figure("connections_per_second", (outcome.connections as f64 / outcome.seconds).round());
    churn_checks(&mut report, args, &outcome);
    Ok(report)
}

fn churn_checks(report: &mut Report, args: &ConnectionsArgs, outcome: &ChurnOutcome) {
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

pub(crate) fn takeover(args: &TakeoverArgs) -> Result<Report> {
    let id = &args.common.id_prefix;
    let names = |role: &str, count: usize| -> Vec<String> {
        (0..count).map(|index| format!("{id}-{role}-{index}")).collect()
    };
    let options = TakeoverOptions {
        client_id: format!("{id}-contended"),
        rounds: args.rounds,
        sockets: args.sockets,
        publishers: names("pub", args.publishers),
        bystanders: names("sub", args.clients),
        topic: args.common.topic.clone(),
        window: args.window,
        patience: args.common.patience()?,
    };
    let outcome = takeover::run(&args.common.target()?, &options)?;
    let mut report = Report::new("takeover");
    report.setting("rounds", args.rounds);
    report.setting("sockets", args.sockets);
    report.figure("connections", outcome.connections);
    report.figure("sent", outcome.sent);
    report.figure("redelivered", outcome.redelivered);
    report.latency("takeover", &outcome.latency);
    let checks = [
        ("no CONNECT refused", outcome.refused),
        ("session present each time", outcome.forgotten),
        ("told with 0x8E", outcome.untold),
        ("nothing lost", outcome.lost),
        ("in order", outcome.reordered),
        ("nothing repeated after its acknowledgement", outcome.repeated),
        ("bystanders lost nothing", outcome.bystander_faults),
    ];
    let rounds = outcome.rounds;
    report.check("one survivor in each round", rounds == args.rounds, format!("{rounds} rounds"));
    for (name, count) in checks {
        report.check(name, count == 0, format!("{count}"));
    }
    Ok(report)
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
