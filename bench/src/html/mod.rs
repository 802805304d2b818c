//! A comparison as one HTML file: no script, no font and no picture from elsewhere. The charts are
//! drawn here, as SVG.

mod bars;
mod chart;
mod curves;
pub mod format;
mod tables;

use crate::document::{CPU_US, Cell, Document, Workload};
use crate::statistics::Spread;
use format::escape;
use std::collections::BTreeSet;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
/// How many styles of lines and bars there are; brokers beyond share the last.
const STYLES: usize = 8;

/// The whole page.
#[must_use]
pub fn page(document: &Document) -> String {
    let title = title(document);
    let mut body = String::new();
    // Writing into a string does not fail, here and below.
    let _ = write!(body, "<h1>{}</h1><p class=\"lead\">{}</p>", escape(&title), lead(document));
    body.push_str(&headline(document));
    body.push_str(&noise(document));
    if document.brokers.len() > 1 {
        body.push_str("<h2>Broker CPU time per message</h2><div class=\"scroll\">");
        body.push_str(&tables::ratios(document));
        body.push_str("</div>");
    }
    for (index, workload) in document.workloads.iter().enumerate() {
        body.push_str(&section(index, workload));
    }
    body.push_str("<h2>How to read this</h2>");
    body.push_str(HOW_TO_READ);
    let _ = write!(body, "<h2>How the brokers were run</h2>{}", tables::brokers(&document.brokers));
    body.push_str("<h2>The machine</h2>");
    for environment in &document.environments {
        body.push_str(&tables::environment(environment));
    }
    body.push_str(&repeat(document));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <title>{}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
        escape(&title)
    )
}

const HOW_TO_READ: &str = "<p><b>Broker CPU per message</b> is the time that all threads of the \
broker spent on a CPU, divided by the messages that arrived at subscribers. It says how many messages \
a core can carry, and unlike messages per second it changes little with what else the machine does.</p>\
<p><b>Latency</b> runs from the publish to the delivery. In a closed loop (<code>throughput</code>) a \
publisher waits for its window, so latency and rate belong together; in an open loop \
(<code>end-to-end</code>) it runs from the moment at which the message should have been sent.</p>\
<p><b>Every message is checked.</b> A cell with a lost, doubled, late or damaged message does not \
count. Bars and tables show medians of the rounds; whiskers and parentheses the least and the greatest \
round. Curves are of all rounds together.</p>";

fn title(document: &Document) -> String {
    let names: Vec<&str> = document.brokers.iter().map(|broker| broker.name.as_str()).collect();
    match names.split_first() {
        Some((first, others)) if !others.is_empty() => {
            format!("{first} compared with {}", others.join(", "))
        }
        Some((first, _)) => format!("{first} measured"),
        None => "Nothing measured".to_owned(),
    }
}

/// What was measured, where and when, in one sentence.
fn lead(document: &Document) -> String {
    let cells = document.workloads.iter().flat_map(|workload| &workload.cells);
    let rounds = cells.map(|cell| cell.rounds.len()).max().unwrap_or(0);
    let (workloads, s) =
        (document.workloads.len(), if document.workloads.len() == 1 { "" } else { "s" });
    let place = document.environments.first().map_or_else(String::new, |environment| {
        format!(" on {}, {}", environment.host.cpu, environment.time)
    });
    let rounds = if rounds == 1 { "1 round".to_owned() } else { format!("{rounds} rounds each") };
    format!("{workloads} workload{s}, {rounds}{}.", escape(&place))
}

/// How much of each other broker's CPU time the first one needs, a sentence each.
fn headline(document: &Document) -> String {
    let Some((first, others)) = document.brokers.split_first() else { return String::new() };
    let mut text = String::new();
    for other in others {
        let ratios = document.workloads.iter();
        let ratios = ratios.filter_map(|workload| workload.ratio(&first.name, &other.name, CPU_US));
        let medians: Vec<f64> = ratios.map(|ratio| ratio.median).collect();
        let Some(spread) = Spread::of(&medians) else { continue };
        let share = match (format::short(spread.min), format::short(spread.max)) {
            (min, max) if min == max => min,
            (min, max) => format!("{min} to {max}"),
        };
        let (first, other) = (escape(&first.name), escape(&other.name));
        let _ = write!(
            text,
            "<p>For a message <b>{first}</b> needed <b>{share}</b> times the CPU time of {other}.</p>"
        );
    }
    text
}

/// What makes the figures doubtful, each said once with how often it was so.
fn noise(document: &Document) -> String {
    let mut text = String::new();
    let noise = document.environments.iter().flat_map(|environment| environment.noise.warnings());
    let noise: BTreeSet<String> = noise.collect();
    let cells = || document.workloads.iter().flat_map(|workload| &workload.cells);
    let noisy = cells().filter(|cell| cell.rounds.iter().any(|round| !round.warnings.is_empty()));
    let noisy = noisy.count();
    let broken = cells().filter(|cell| cell.skipped.is_none() && !cell.counts()).count();
    if noise.is_empty() && noisy == 0 && broken == 0 {
        return "<p class=\"good\">✓ No message was lost, doubled, late or damaged, and nothing on the \
                machine disturbed the figures.</p>"
            .to_owned();
    }
    let _ = write!(text, "<div class=\"note\"><b>Read with care</b><ul>");
    for line in noise {
        let _ = write!(text, "<li>{}</li>", escape(&line));
    }
    let total = cells().count();
    if noisy > 0 {
        let _ = write!(text, "<li>{noisy} of {total} cells were disturbed; each says how.</li>");
    }
    if broken > 0 {
        let _ = write!(text, "<li>{broken} of {total} cells do not count: a check failed.</li>");
    }
    text.push_str("</ul></div>");
    text
}

/// A workload: legend, charts, figures, and what was wrong.
fn section(index: usize, workload: &Workload) -> String {
    let mut text = String::new();
    let (name, arguments) = (escape(&workload.name), escape(&workload.arguments.join(" ")));
    let _ = write!(
        text,
        "<section><h2 id=\"w{index}\">{name}</h2><p class=\"small\"><code>{arguments}</code></p>"
    );
    text.push_str("<div class=\"legend\">");
    for (style, cell) in workload.cells.iter().enumerate() {
        let style = style.min(STYLES - 1);
        let _ = write!(text, "<span><i class=\"key k{style}\"></i>{}</span>", escape(&cell.broker));
    }
    text.push_str("</div><div class=\"charts\">");
    let cpu = bars::bars(
        workload,
        CPU_US,
        "Broker CPU per message (lower is better)",
        "µs of CPU time per delivered message",
    );
    text.extend(cpu);
    let names: BTreeSet<&String> =
        workload.cells.iter().flat_map(|cell| cell.histograms.keys()).collect();
    text.extend(names.into_iter().filter_map(|name| curves::percentiles(workload, name)));
    text.extend(curves::timeline(workload));
    text.push_str("</div><div class=\"scroll\">");
    text.push_str(&tables::figures(workload));
    text.push_str("</div>");
    text.push_str(&remarks(&workload.cells));
    text.push_str(&tables::all_figures(workload));
    text.push_str("</section>");
    text
}

/// Failed checks and noise of a workload's rounds, each said once per broker.
fn remarks(cells: &[Cell]) -> String {
    let mut failed = BTreeSet::new();
    let mut doubtful = BTreeSet::new();
    for cell in cells {
        for (index, round) in cell.rounds.iter().enumerate() {
            let name = format!("{}, round {}", cell.broker, index + 1);
            failed.extend(round.failed.iter().map(|text| format!("{name}: {text}")));
            doubtful.extend(round.warnings.iter().map(|text| format!("{name}: {text}")));
        }
    }
    let mut text = String::new();
    let lists =
        [("failed", " open", "Does not count", failed), ("noise", "", "Read with care", doubtful)];
    for (class, open, title, lines) in lists {
        if lines.is_empty() {
            continue;
        }
        let (count, s) = (lines.len(), if lines.len() == 1 { "" } else { "s" });
        let _ = write!(text, "<details class=\"note {class}\"{open}><summary>");
        let _ = write!(text, "{title}: {count} remark{s}</summary><ul>");
        for line in lines {
            let _ = write!(text, "<li>{}</li>", escape(&line));
        }
        text.push_str("</ul></details>");
    }
    text
}

/// The command lines that repeat it.
fn repeat(document: &Document) -> String {
    let mut text = String::from("<h2>To repeat it</h2>");
    for environment in &document.environments {
        let words: Vec<String> = environment.command.iter().map(|word| quoted(word)).collect();
        let _ = write!(text, "<pre>{}</pre>", escape(&words.join(" ")));
    }
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::comparison;

    #[test]
    fn a_page_has_every_chart_and_needs_nothing_else() {
        let page = page(&comparison(0));
        for part in ["chart bars", "chart percentiles", "chart timeline", "class=\"ratios\""] {
            assert!(page.contains(part), "{part} is missing");
        }
        for part in ["<script", "http://", "https://", "url(", "@import", "NaN", "inf"] {
            assert!(!page.contains(part), "{part} is in the page");
        }
        assert!(page.contains("<b>0.250</b>"), "the ratio is missing");
        assert!(page.contains("needed <b>0.250</b> times the CPU time of &lt;other&gt;"));
        assert!(page.contains("ringlane compared with &lt;other&gt;"), "names are not escaped");
        assert!(!page.contains("<other>"));
    }

    #[test]
    fn what_does_not_count_is_said() {
        let page = page(&comparison(3));
        assert!(page.contains("1 of 2 cells do not count"));
        assert!(page.contains("&lt;other&gt;, round 3: nothing lost: 3"));
        assert!(page.contains("✗ does not count"));
    }

    #[test]
    fn an_empty_document_is_a_page_too() {
        assert!(page(&Document::default()).contains("Nothing measured"));
    }

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted("--broker=a"), "--broker=a");
        assert_eq!(quoted("mine=x -p {port}"), "'mine=x -p {port}'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
