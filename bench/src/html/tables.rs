//! Tables of the page: ratios, figures, brokers, the machine.

use super::format::{bytes, escape, grouped, short, time_us};
use crate::compare::FLOOR;
use crate::document::{BrokerInfo, CPU_US, Cell, Document, P50_US, P99_US, RATE, Workload};
use crate::environment::Environment;
use crate::statistics::Spread;
use std::fmt::Write;

/// How much slower than the best broker the first one may be for its CPU time to count as won.
const LATENCY_FACTOR_MAX: f64 = 1.25;

/// A figure of the table of a workload: name, head, form.
type Column = (&'static str, &'static str, fn(f64) -> String);

const COLUMNS: [Column; 14] = [
    (RATE, "messages/s", grouped),
    (CPU_US, "broker CPU per message, µs", short),
    ("messages_per_broker_cpu_second", "messages per broker CPU second", grouped),
    (P50_US, "p50", time_us),
    (P99_US, "p99", time_us),
    ("latency_us.p99.9", "p99.9", time_us),
    ("puback_latency_us.p50", "p50 to PUBACK", time_us),
    ("puback_latency_us.p99", "p99 to PUBACK", time_us),
    ("cpu_us_per_message_of_each.leader", "leader's CPU per message, µs", short),
    ("cpu_us_per_message_of_each.follower", "a follower's, µs", short),
    ("follower_cpu_over_leader", "follower ÷ leader", short),
    ("broker_resident_bytes.end", "memory", bytes),
    ("messages_per_receive", "messages per receive", short),
    ("messages_per_send", "messages per send", short),
];

/// CPU time per message of the first broker as a share of each other broker's.
pub(super) fn ratios(document: &Document) -> String {
    let Some((first, others)) = document.brokers.split_first() else { return String::new() };
    let mut text = String::from("<table class=\"ratios\"><thead><tr><th>workload</th>");
    for broker in others {
        let _ = write!(text, "<th>of {}</th>", escape(&broker.name));
    }
    let name = escape(&first.name);
    let _ = write!(text, "<th>as fast, and as soon, as the best?</th></tr></thead><tbody>");
    for (index, workload) in document.workloads.iter().enumerate() {
        let _ = write!(text, "<tr><th><a href=\"#w{index}\">{}</a></th>", escape(&workload.name));
        for broker in others {
            let ratio = workload.ratio(&first.name, &broker.name, CPU_US);
            text.push_str(&ratio_cell(ratio, workload.cell(&broker.name)));
        }
        let (class, verdict) = verdict(workload, &first.name);
        let _ = write!(text, "<td class=\"{class}\">{verdict}</td></tr>");
    }
    let _ = write!(
        text,
        "</tbody></table><p class=\"small\">Broker CPU time per delivered message: {name} ÷ the other, \
         round by round; median, with least and greatest in parentheses. Below 1, {name} needs less. \
         The last column says whether {name} also delivered at least as many messages per second as \
         each other broker (the floor is none), with p50 and p99 at most {LATENCY_FACTOR_MAX} times those of the best: CPU \
         time can be saved by waiting, and then it does not count.</p>"
    );
    text
}

fn ratio_cell(ratio: Option<Spread>, cell: Option<&Cell>) -> String {
    if let Some(ratio) = ratio {
        let class = if ratio.median < 1.0 { "less" } else { "more" };
        let (median, range) = (short(ratio.median), range(&ratio));
        return format!("<td class=\"{class}\"><b>{median}</b>{range}</td>");
    }
    let why = match cell {
        None => "not measured",
        Some(cell) if cell.skipped.is_some() => "not run",
        Some(cell) if !cell.counts() => "✗ does not count",
        Some(_) => "no figure",
    };
    format!("<td class=\"none\">{why}</td>")
}

/// The least and the greatest, if there was more than one round.
fn range(spread: &Spread) -> String {
    if spread.rounds < 2 {
        return String::new();
    }
    format!(" <span class=\"small\">({} to {})</span>", short(spread.min), short(spread.max))
}

/// Whether the first broker kept up with the best of the others.
fn verdict(workload: &Workload, first: &str) -> (&'static str, String) {
    let Some(ours) = workload.cell(first).filter(|cell| cell.counts()) else {
        return ("bad", "✗ its own cell does not count".to_owned());
    };
    let is_peer = |name: &str| name != first && name != FLOOR;
    let others: Vec<&Cell> =
        workload.cells.iter().filter(|cell| cell.counts() && is_peer(&cell.broker)).collect();
    let best = |figure, pick: fn(f64, f64) -> f64| {
        others.iter().filter_map(|cell| cell.median(figure)).reduce(pick)
    };
    let mut behind = Vec::new();
    if let Some((ours, best)) = ours.median(RATE).zip(best(RATE, f64::max))
        && ours < best
    {
        behind.push(format!("messages/s {} of the best", short(ours / best)));
    }
    for name in ["p50", "p99"] {
        let best = others.iter().filter_map(|cell| cell.delay(name)).reduce(f64::min);
        if let Some((ours, best)) = ours.delay(name).zip(best)
            && ours > best * LATENCY_FACTOR_MAX
        {
            behind.push(format!("{name} {} times the best", short(ours / best)));
        }
    }
    match (others.is_empty(), behind.is_empty()) {
        (true, _) => ("none", "nothing to compare with".to_owned()),
        (false, true) => ("good", "✓ yes".to_owned()),
        (false, false) => ("bad", format!("✗ {}", behind.join(", "))),
    }
}

/// The figures of a workload, a broker per line.
pub(super) fn figures(workload: &Workload) -> String {
    let known = |name: &str| workload.cells.iter().any(|cell| cell.spread(name).is_some());
    let columns: Vec<_> = COLUMNS.into_iter().filter(|(name, _, _)| known(name)).collect();
    let mut text = String::from("<table><thead><tr><th>broker</th>");
    for (_, head, _) in &columns {
        let _ = write!(text, "<th>{head}</th>");
    }
    text.push_str("<th>lost, doubled, late</th></tr></thead><tbody>");
    for (style, cell) in workload.cells.iter().enumerate() {
        let broker = escape(&cell.broker);
        let _ = write!(text, "<tr><th><i class=\"key k{style}\"></i>{broker}</th>");
        if let Some(why) = &cell.skipped {
            let why = escape(why);
            let _ = write!(
                text,
                "<td class=\"none\" colspan=\"{}\">not run: {why}</td></tr>",
                columns.len() + 1
            );
            continue;
        }
        for (name, _, form) in &columns {
            text.push_str(&figure_cell(cell.spread(name), *form));
        }
        let (class, checks) =
            if cell.counts() { ("good", "✓ none") } else { ("bad", "✗ see below") };
        let _ = write!(text, "<td class=\"{class}\">{checks}</td></tr>");
    }
    text.push_str("</tbody></table>");
    text
}

fn figure_cell(spread: Option<Spread>, form: fn(f64) -> String) -> String {
    let Some(spread) = spread else { return "<td class=\"none\">–</td>".to_owned() };
    let (min, max) = (form(spread.min), form(spread.max));
    format!("<td title=\"{min} to {max}\">{}</td>", form(spread.median))
}

/// Every figure of every broker, for those who want to know more.
pub(super) fn all_figures(workload: &Workload) -> String {
    let mut names: Vec<&str> = workload.cells.iter().flat_map(Cell::figure_names).collect();
    names.sort_unstable();
    names.dedup();
    let mut text =
        String::from("<details><summary>All figures</summary><table><thead><tr><th>figure</th>");
    for cell in &workload.cells {
        let _ = write!(text, "<th>{}</th>", escape(&cell.broker));
    }
    text.push_str("</tr></thead><tbody>");
    for name in names {
        let _ = write!(text, "<tr><th>{}</th>", escape(name));
        for cell in &workload.cells {
            let Some(spread) = cell.spread(name) else {
                text.push_str("<td class=\"none\">–</td>");
                continue;
            };
            let _ = write!(text, "<td>{}{}</td>", short(spread.median), range(&spread));
        }
        text.push_str("</tr>");
    }
    text.push_str("</tbody></table></details>");
    text
}

/// How each broker was run.
pub(super) fn brokers(brokers: &[BrokerInfo]) -> String {
    let mut text = String::new();
    for broker in brokers {
        let (name, version) = (escape(&broker.name), escape(&broker.version));
        let _ = write!(text, "<h3>{name} <span class=\"small\">{version}</span></h3>");
        for note in &broker.notes {
            let _ = write!(text, "<p>{}</p>", escape(note));
        }
        let _ = write!(text, "<pre>{}</pre>", escape(&broker.command));
        for (file, content) in &broker.files {
            let (file, content) = (escape(file), escape(content.trim()));
            let _ =
                write!(text, "<details><summary>{file}</summary><pre>{content}</pre></details>");
        }
    }
    text
}

/// The machine, and what else went on.
pub(super) fn environment(environment: &Environment) -> String {
    let host = &environment.host;
    let load: Vec<String> = host.load_average.iter().map(|value| format!("{value:.2}")).collect();
    let limit = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| grouped(n as f64));
    let (soft, hard) = host.descriptors_max;
    let rows = [
        ("time", environment.time.clone()),
        ("tool", environment.tool.clone()),
        ("system", host.system.clone()),
        ("kernel", host.kernel.clone()),
        ("processor", format!("{} ({} CPUs online)", host.cpu, host.cpus)),
        ("frequency", host.mhz.map_or("unknown".to_owned(), |mhz| format!("{mhz:.0} MHz"))),
        ("frequency governor", host.governor.clone()),
        ("memory", bytes(host.memory_bytes as f64)),
        ("virtualisation", host.virtualisation.clone()),
        ("load average (1, 5, 15 min)", load.join(", ")),
        ("CPU time taken by the hypervisor", format!("{:.2} %", environment.noise.steal * 100.0)),
        ("descriptors (soft, hard limit)", format!("{}, {}", limit(soft), limit(hard))),
    ];
    let mut text = String::from("<table class=\"plain\"><tbody>");
    for (name, value) in rows {
        let _ = write!(text, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    text.push_str("</tbody></table>");
    text
}
