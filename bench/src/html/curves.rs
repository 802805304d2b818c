//! Latency by percentile, and throughput over time.

use super::chart::{Chart, Scale};
use super::format::{escape, scaled, time_us};
use crate::document::{Cell, Workload};
use hdrhistogram::Histogram;

/// Steps per halving of the distance to 100 %: enough for a smooth line.
const TICKS_PER_HALF: u32 = 10;
/// The percentiles that have a label, as long as there are enough messages for them.
const LABELS: [(f64, &str); 7] = [
    (0.0, "0"),
    (0.9, "90"),
    (0.99, "99"),
    (0.999, "99.9"),
    (0.9999, "99.99"),
    (0.99999, "99.999"),
    (0.999999, "99.9999"),
];
/// The percentiles that have a dot with its value.
const DOTS: [(f64, &str); 4] = [(0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9")];

/// Latency curves of all brokers on an axis that gives each nine more the same room; nothing if
/// there is no such distribution.
pub(super) fn percentiles(workload: &Workload, name: &str) -> Option<String> {
    let curves: Vec<(usize, &Cell, Histogram<u64>)> = workload
        .cells
        .iter()
        .enumerate()
        .filter_map(|(style, cell)| Some((style, cell, cell.histogram(name)?)))
        .filter(|(_, _, histogram)| !histogram.is_empty())
        .collect();
    let count = curves.iter().map(|(_, _, histogram)| histogram.len()).max()?;
    let min =
        curves.iter().map(|(_, _, histogram)| micros(histogram, 0.0)).fold(f64::MAX, f64::min);
    let max = curves.iter().map(|(_, _, histogram)| micros(histogram, 1.0)).fold(0.0, f64::max);
    let across = Scale::log(1.0, (count as f64).max(10.0));
    let up = Scale::log(min.max(0.1) * 0.9, max.max(1.0) * 1.1);
    let what = subject(name);
    let mut chart = Chart::new(&format!("{what}, by percentile (lower is better)"));
    let labels = LABELS.into_iter().filter(|(quantile, _)| nines(*quantile) <= count as f64);
    let labels = labels.map(|(quantile, text)| (across.share(nines(quantile)), text.to_owned()));
    chart.bottom_axis("percentile of messages (%)", &labels.collect::<Vec<_>>());
    let ticks = up.ticks().into_iter().map(|value| (up.share(value), time_us(value)));
    chart.left_axis(&ticks.collect::<Vec<_>>());
    for (style, cell, histogram) in &curves {
        let points: Vec<(f64, f64)> = histogram
            .iter_quantiles(TICKS_PER_HALF)
            .map(|step| {
                let x = nines(step.quantile_iterated_to()).min(histogram.len() as f64);
                (across.share(x), up.share(step.value_iterated_to() as f64 / 1000.0))
            })
            .collect();
        chart.line(*style, "curve", &points);
        dots(&mut chart, *style, cell, histogram, (&across, &up));
    }
    let spoken: Vec<String> =
        curves.iter().map(|(_, cell, histogram)| spoken(cell, histogram)).collect();
    Some(chart.finish("percentiles", &format!("{what}, by percentile. {}", spoken.join("; "))))
}

/// What a distribution is of, for a title.
fn subject(name: &str) -> &str {
    match name {
        "latency" => "Latency to the subscriber",
        "puback_latency" => "Time to PUBACK",
        "pubrec_latency" => "Time to PUBREC",
        "pubcomp_latency" => "Time to PUBCOMP",
        other => other,
    }
}

/// `1 / (1 - quantile)`: 10 at 90 %, 100 at 99 %.
fn nines(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile).max(1e-12)
}

fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

fn dots(
    chart: &mut Chart,
    style: usize,
    cell: &Cell,
    histogram: &Histogram<u64>,
    (across, up): (&Scale, &Scale),
) {
    let name = escape(&cell.broker);
    for (quantile, text) in DOTS.into_iter().filter(|(q, _)| nines(*q) <= histogram.len() as f64) {
        let value = micros(histogram, quantile);
        let (x, y) = (chart.x(across.share(nines(quantile))), chart.y(up.share(value)));
        let value = time_us(value);
        chart.add(&format!(
            "<circle class=\"dot k{style}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\">\
             <title>{name}: {text} % within {value}</title></circle>"
        ));
    }
}

fn spoken(cell: &Cell, histogram: &Histogram<u64>) -> String {
    let at = |quantile| time_us(micros(histogram, quantile));
    format!("{}: median {}, 99 % within {}", cell.broker, at(0.5), at(0.99))
}

/// Messages per second over the measured time, a line per round; nothing without timelines.
pub(super) fn timeline(workload: &Workload) -> Option<String> {
    let mut lines: Vec<(usize, Vec<(f64, f64)>)> = Vec::new();
    for (style, cell) in workload.cells.iter().enumerate() {
        let rounds = cell.rounds.iter().filter_map(|round| round.series.values().next());
        lines.extend(rounds.map(|samples| (style, rates(samples))).filter(|(_, r)| r.len() > 1));
    }
    let points = || lines.iter().flat_map(|(_, points)| points);
    let seconds = points().map(|(at, _)| *at).fold(0.0, f64::max);
    let rate = points().map(|(_, rate)| *rate).fold(0.0, f64::max);
    if rate <= 0.0 {
        return None;
    }
    let (across, up) = (Scale::linear(seconds), Scale::linear(rate * 1.05));
    let mut chart = Chart::new("Messages per second over time (higher is better)");
    let ticks = across.ticks().into_iter().map(|value| (across.share(value), scaled(value)));
    chart.bottom_axis(
        "seconds of the measured time; one line per round",
        &ticks.collect::<Vec<_>>(),
    );
    let ticks = up.ticks().into_iter().map(|value| (up.share(value), scaled(value)));
    chart.left_axis(&ticks.collect::<Vec<_>>());
    for (style, points) in &lines {
        let places: Vec<(f64, f64)> =
            points.iter().map(|(at, rate)| (across.share(*at), up.share(*rate))).collect();
        chart.line(*style, "rate", &places);
    }
    Some(chart.finish("timeline", "Messages per second over the measured time, one line per round"))
}

/// Slices as messages per second, each at its end.
fn rates(samples: &[crate::report::Sample]) -> Vec<(f64, f64)> {
    let mut from = 0.0;
    let mut rates = Vec::with_capacity(samples.len());
    for sample in samples {
        let seconds = sample.at_seconds - from;
        from = sample.at_seconds;
        if seconds > 0.0 {
            rates.push((sample.at_seconds, sample.messages as f64 / seconds));
        }
    }
    rates
}
