//! A shared-subscription group under load.

use super::round;
use crate::cli::common::check_size;
use crate::cli::shared::SharedArgs;
use anyhow::Result;
use ringlane_bench::report::Report;
use ringlane_bench::shared::{self, SharedOptions};
use ringlane_mqtt::QoS;

/// What an active member of a shared group must get of the mean.
const FAIRNESS_MIN: f64 = 0.9;

pub(crate) fn run(args: &SharedArgs) -> Result<Report> {
    check_size(args.size)?;
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
