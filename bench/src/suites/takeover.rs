//! `takeover`: one client identifier, several sockets.

use crate::cli::takeover::TakeoverArgs;
use anyhow::Result;
use ringlane_bench::report::Report;
use ringlane_bench::takeover::{self, TakeoverOptions};

pub(crate) fn run(args: &TakeoverArgs) -> Result<Report> {
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
