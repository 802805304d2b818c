//! What `throughput`, `end-to-end` and `publish-ack` have in common: who talks to whom, and the
//! report of a run.

use super::round;
use crate::cli::flow::LoadArgs;
use anyhow::Result;
use ringlane_bench::flow::{
    self, FlowOptions, FlowOutcome, FlowPlan, ListenerPlan, OpenLoop, Pace, PublisherPlan,
};
use ringlane_bench::meter::RoleCpu;
use ringlane_bench::report::Report;
use ringlane_mqtt::QoS;
use serde_json::{Map, Value, json};
use std::ops::Range;

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Pairs,
    FanIn,
    FanOut,
    Shared { publishers: usize },
    PublishersOnly,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::FanIn => "fan-in",
            Self::FanOut => "fan-out",
            Self::Shared { .. } => "shared",
            Self::PublishersOnly => "publish-ack",
        }
    }

    pub(crate) fn plan(self, args: &LoadArgs) -> FlowPlan {
        let topic = &args.common.topic;
        let count = args.clients;
        let listener = |index: usize, filter: String, streams: Range<usize>| ListenerPlan {
            client_id: format!("{}-sub-{index}", args.common.id_prefix),
            filter,
            streams,
        };
        let own = |index| listener(index, format!("{topic}/{index}"), index..index + 1);
        let (publishers, listeners) = match self {
            Self::Pairs => (count, (0..count).map(own).collect()),
            Self::FanIn => (count, vec![listener(0, format!("{topic}/#"), 0..count)]),
            Self::FanOut => {
                (1, (0..count).map(|index| listener(index, format!("{topic}/0"), 0..1)).collect())
            }
            Self::Shared { publishers } => {
                let filter = format!("$share/{}/{topic}/#", args.common.id_prefix);
                let member = |index| listener(index, filter.clone(), 0..publishers);
                (publishers, (0..count).map(member).collect())
            }
            Self::PublishersOnly => (count, Vec::new()),
        };
        let shared = matches!(self, Self::Shared { .. });
        FlowPlan { publishers: publisher_plans(args, publishers), listeners, shared }
    }
}

fn publisher_plans(args: &LoadArgs, count: usize) -> Vec<PublisherPlan> {
    let plan = |index| PublisherPlan {
        client_id: format!("{}-pub-{index}", args.common.id_prefix),
        topic: format!("{}/{index}", args.common.topic),
    };
    (0..count).map(plan).collect()
}

pub(super) fn run(
    shape: Shape,
    args: &LoadArgs,
    plan: &FlowPlan,
    options: &FlowOptions,
) -> Result<Report> {
    let outcome = flow::run(&args.common.target()?, plan, options)?;
    Ok(report(shape, args, options, &outcome))
}

pub(super) fn report(
    shape: Shape,
    args: &LoadArgs,
    options: &FlowOptions,
    outcome: &FlowOutcome,
) -> Report {
    let mut report = Report::new(shape.name());
    report.setting("clients", args.clients);
    if let Shape::Shared { publishers } = shape {
        report.setting("publishers", publishers);
    }
    report.setting("qos", options.qos as u8);
    report.setting("size", options.payload_bytes);
    report.setting("window", options.window);
    report.setting("batch", options.batch);
    if let Pace::Rate(rate) = options.pace {
        report.setting("rate", round(rate, 3));
    }
    figures(&mut report, options, outcome);
    latencies(&mut report, options, outcome);
    broker_figures(&mut report, outcome);
    generator_figures(&mut report, outcome);
    checks(&mut report, options, outcome);
    report
}

fn figures(report: &mut Report, options: &FlowOptions, outcome: &FlowOutcome) {
    let measured = outcome.measured as f64;
    report.figure("messages", outcome.measured);
    report.figure("seconds", round(outcome.spent.seconds, 3));
    report.figure("messages_per_second", (measured / outcome.spent.seconds).round());
    if outcome.window != options.window {
        report.figure("window_capped_by_receive_maximum", outcome.window);
    }
    report.series("messages", outcome.timeline.clone());
}

fn latencies(report: &mut Report, options: &FlowOptions, outcome: &FlowOutcome) {
    if !outcome.latency.is_empty() {
        report.latency("latency", &outcome.latency);
    }
    match options.qos {
        QoS::AtMostOnce => {}
        QoS::AtLeastOnce => report.latency("puback_latency", &outcome.acknowledged_latency),
        QoS::ExactlyOnce => {
            report.latency("pubrec_latency", &outcome.received_latency);
            report.latency("pubcomp_latency", &outcome.acknowledged_latency);
        }
    }
}

fn broker_figures(report: &mut Report, outcome: &FlowOutcome) {
    let (spent, measured) = (&outcome.spent, outcome.measured as f64);
    if let Some(cpu) = spent.cpu_seconds {
        report.figure("broker_cpu_seconds", round(cpu, 3));
        report.figure("broker_cpu_us_per_message", round(cpu * 1e6 / measured, 4));
        report.figure("messages_per_broker_cpu_second", (measured / cpu).round());
    }
    role_figures(report, &spent.roles, measured);
    if let Some((start, end)) = spent.resident_bytes {
        report.figure("broker_resident_bytes", json!({"start": start, "end": end}));
    }
    if let Some(switches) = spent.switches {
        let (voluntary, involuntary) = (switches.voluntary, switches.involuntary);
        let both = json!({"voluntary": voluntary, "involuntary": involuntary});
        report.figure("broker_context_switches", both);
    }
    if let Some(calls) = spent.system_calls {
        report.figure("system_calls_per_message", round(calls / measured, 5));
    }
}

/// What a process of each role spent on a message, and a follower as a share of the leader.
fn role_figures(report: &mut Report, roles: &[RoleCpu], measured: f64) {
    let each = |role: &RoleCpu| role.seconds * 1e6 / measured / f64::from(role.processes.max(1));
    let by_role: Map<String, Value> =
        roles.iter().map(|role| (role.role.clone(), round(each(role), 4).into())).collect();
    let of = |name: &str| roles.iter().find(|role| role.role == name).map(each);
    if !by_role.is_empty() {
        report.figure("cpu_us_per_message_of_each", by_role);
    }
    if let Some((leader, follower)) = of("leader").zip(of("follower")) {
        report.figure("follower_cpu_over_leader", round(follower / leader, 4));
    }
}

fn generator_figures(report: &mut Report, outcome: &FlowOutcome) {
    let per = |count: u64, calls: u64| round(count as f64 / calls.max(1) as f64, 2);
    let reads = match outcome.listener_traffic.reads {
        0 => outcome.publisher_traffic.reads,
        reads => reads,
    };
    report.figure("messages_per_receive", per(outcome.measured, reads));
    let writes = outcome.publisher_traffic.writes;
    report.figure("messages_per_send", per(outcome.measured_sent, writes));
    report.figure("generator_busy", round(outcome.generator_busy, 3));
    report.figure("steal_seconds", round(outcome.spent.steal_seconds, 2));
    if outcome.is_generator_bound() {
        report.warnings.push(format!(
            "The generator was the bottleneck: its thread was busy for {:.0} % of the time. The \
             broker may be able to do more.",
            outcome.generator_busy * 100.0
        ));
    }
    if let Some(open) = &outcome.open_loop {
        open_loop_figures(report, open);
    }
}

fn open_loop_figures(report: &mut Report, open: &OpenLoop) {
    let micros = |nanos: u64| round(nanos as f64 / 1000.0, 1);
    let (p99, max) = (open.lateness.value_at_quantile(0.99), open.lateness.max());
    let p50 = open.lateness.value_at_quantile(0.5);
    let late = json!({"p50": micros(p50), "p99": micros(p99), "max": micros(max)});
    report.figure("generator_lateness_us", late);
    report.figure("held_back", open.held_back);
}

fn checks(report: &mut Report, options: &FlowOptions, outcome: &FlowOutcome) {
    let of = format!("of {} expected deliveries", outcome.expected);
    if outcome.expected > 0 {
        let delivered = outcome.delivered;
        report.check("messages flowed", delivered > 0, format!("{delivered}"));
        report.check("nothing lost", outcome.lost == 0, format!("{} {of}", outcome.lost));
        let duplicated = outcome.duplicated;
        report.check("nothing duplicated", duplicated == 0, format!("{duplicated}"));
        report.check("in order", outcome.reordered == 0, format!("{} late", outcome.reordered));
        report.check("whole", outcome.damaged == 0, format!("{} damaged", outcome.damaged));
        let downgraded = outcome.downgraded;
        report.check("QoS as asked for", downgraded == 0, format!("{downgraded} with another"));
    }
    report.check("no connection ended", outcome.ended == 0, format!("{}", outcome.ended));
    report.check("no publish refused", outcome.rejected == 0, format!("{}", outcome.rejected));
    if options.qos != QoS::AtMostOnce {
        let (sent, acknowledged) = (outcome.sent, outcome.acknowledged);
        let all = sent > 0 && sent == acknowledged;
        report.check("all acknowledged", all, format!("{acknowledged} of {sent}"));
        let stray = outcome.stray_acknowledgements;
        report.check("each acknowledged once", stray == 0, format!("{stray} too many"));
    }
    if let Some(open) = &outcome.open_loop {
        let unsent = open.unsent;
        report.check("the rate was kept", unsent == 0, format!("{unsent} due and not sent"));
    }
}
