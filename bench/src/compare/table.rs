//! A workload as a table for a terminal.

use crate::document::{CPU_US, Cell, RATE, Workload};
use crate::html::format::{grouped, short};
use crate::statistics::Spread;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The medians of each broker, and the first one's CPU time as a share of theirs.
#[must_use]
pub fn table(workload: &Workload) -> String {
    let first = workload.cells.first().map(|cell| cell.broker.as_str()).unwrap_or_default();
    let mut text = format!("\n{}    ({})\n", workload.name, workload.arguments.join(" "));
    // Writing into a string does not fail.
    let _ = writeln!(
        text,
        "  {:<16} {:>11} {:>10} {:>10} {:>9} {:>9} {:>9}  {first}'s CPU / its CPU",
        "broker", "msg/s", "CPU us/msg", "msg/CPU s", "p50 us", "p99 us", "p99.9 us"
    );
    for cell in &workload.cells {
        text.push_str(&row(workload, cell, first));
    }
    for cell in &workload.cells {
        text.push_str(&by_role(cell));
    }
    for (broker, remark) in remarks(workload) {
        let _ = writeln!(text, "  {broker}: {remark}");
    }
    text
}

fn row(workload: &Workload, cell: &Cell, first: &str) -> String {
    if let Some(why) = &cell.skipped {
        return format!("  {:<16} not run: {why}\n", cell.broker);
    }
    let figure = |name: &str| cell.median(name).map_or("-".to_owned(), short);
    let delay = |quantile| cell.delay(quantile).map_or("-".to_owned(), short);
    let whole = |name: &str| cell.median(name).map_or("-".to_owned(), grouped);
    let ratio = match workload.ratio(first, &cell.broker, CPU_US) {
        _ if cell.broker == first => String::new(),
        Some(ratio) => spread(&ratio),
        None => "-".to_owned(),
    };
    let mark = if cell.counts() { "" } else { "  DOES NOT COUNT" };
    format!(
        "  {:<16} {:>11} {:>10} {:>10} {:>9} {:>9} {:>9}  {ratio}{mark}\n",
        cell.broker,
        whole(RATE),
        figure(CPU_US),
        whole("messages_per_broker_cpu_second"),
        delay("p50"),
        delay("p99"),
        delay("p99.9"),
    )
}

/// What the nodes of a cluster spent on a message, each; nothing if it is none.
fn by_role(cell: &Cell) -> String {
    const EACH: &str = "cpu_us_per_message_of_each.";
    let each = |name: &str| Some((name.strip_prefix(EACH)?.to_owned(), cell.median(name)?));
    let names = cell.figure_names();
    let each = names.into_iter().filter_map(each);
    let parts: Vec<String> = each.map(|(role, us)| format!("{role} {}", short(us))).collect();
    if parts.is_empty() {
        return String::new();
    }
    let share = cell.spread("follower_cpu_over_leader");
    let share = share.map(|share| format!("; a follower over the leader {}", spread(&share)));
    let (broker, parts) = (&cell.broker, parts.join(", "));
    format!("  {broker}: CPU us/msg of each: {parts}{}\n", share.unwrap_or_default())
}

/// A median with the least and the greatest.
fn spread(spread: &Spread) -> String {
    format!("{} ({} to {})", short(spread.median), short(spread.min), short(spread.max))
}

/// What failed and what is doubtful, each said once per broker.
fn remarks(workload: &Workload) -> BTreeSet<(&str, String)> {
    let mut remarks = BTreeSet::new();
    for cell in &workload.cells {
        for round in &cell.rounds {
            let failed = round.failed.iter().map(|text| format!("FAILED {text}"));
            let warnings = round.warnings.iter().map(|text| format!("NOTE {text}"));
            remarks.extend(failed.chain(warnings).map(|text| (cell.broker.as_str(), text)));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::comparison;

    #[test]
    fn medians_and_ratios_are_shown() {
        let text = table(&comparison(0).workloads[0]);
        assert!(text.contains("pairs, W=8"), "{text}");
        assert!(text.contains("0.250 (0.250 to 0.250)"), "{text}");
        assert!(!text.contains("DOES NOT COUNT"), "{text}");
    }

    #[test]
    fn a_loss_is_marked_and_said() {
        let text = table(&comparison(2).workloads[0]);
        assert!(text.contains("DOES NOT COUNT"), "{text}");
        assert!(text.contains("<other>: FAILED nothing lost: 2"), "{text}");
    }
}
