//! Bars of one figure, a broker per line, with the least and the greatest round as a whisker.

use super::chart::{Chart, Scale, TOP};
use super::format::{escape, short};
use crate::document::{Cell, Workload};
use crate::statistics::Spread;

const ROW: f64 = 30.0;
const BAR: f64 = 16.0;
/// Room for the names of brokers.
const LEFT: f64 = 112.0;
/// Room for a value right of the longest bar, as a share of the plot.
const VALUE_SHARE: f64 = 0.24;

/// How many times the middle broker's value a bar may have before it is cut.
const CUT_FACTOR: f64 = 4.0;

/// The bars of a figure; nothing if no broker has it.
pub(super) fn bars(workload: &Workload, figure: &str, title: &str, axis: &str) -> Option<String> {
    let rows: Vec<(usize, &Cell, Spread)> = workload
        .cells
        .iter()
        .enumerate()
        .filter_map(|(style, cell)| Some((style, cell, cell.spread(figure)?)))
        .collect();
    let medians: Vec<f64> = rows.iter().map(|(_, _, spread)| spread.median).collect();
    let cut = Spread::of(&medians)?.median * CUT_FACTOR;
    let max = rows.iter().map(|(_, _, spread)| spread.max.min(cut)).fold(0.0, f64::max);
    if max <= 0.0 {
        return None;
    }
    let mut chart = Chart::with_frame(title, LEFT, TOP + ROW * rows.len() as f64 + 46.0);
    let scale = Scale::linear(max / (1.0 - VALUE_SHARE));
    let ticks = scale.ticks().into_iter().map(|value| (scale.share(value), tick(value)));
    chart.bottom_axis(axis, &ticks.collect::<Vec<_>>());
    let mut spoken = Vec::new();
    for (line, (style, cell, spread)) in rows.iter().enumerate() {
        let middle = TOP + ROW * (line as f64 + 0.5);
        let name = escape(&cell.broker);
        let (x, y) = (chart.x(0.0) - 6.0, middle + 4.0);
        chart.add(&format!("<text class=\"name end\" x=\"{x:.1}\" y=\"{y:.1}\">{name}</text>"));
        let faded = if cell.counts() { "" } else { " faded" };
        let tip = tip(&name, spread);
        bar(&mut chart, &format!("k{style}{faded}"), middle, (spread, &scale, cut), &tip);
        spoken.push(tip);
    }
    Some(chart.finish("bars", &format!("{title}. {}", spoken.join("; "))))
}

fn tip(name: &str, spread: &Spread) -> String {
    let (median, min, max) = (short(spread.median), short(spread.min), short(spread.max));
    format!("{name}: median {median}, {min} to {max}")
}

/// A bar with its whisker and its value. One that is cut has a gap and no whisker.
fn bar(
    chart: &mut Chart,
    class: &str,
    middle: f64,
    (spread, scale, cut): (&Spread, &Scale, f64),
    tip: &str,
) {
    let is_cut = spread.median > cut;
    let (start, end) = (chart.x(0.0), chart.x(scale.share(spread.median.min(cut))));
    let (low, high) = (chart.x(scale.share(spread.min)), chart.x(scale.share(spread.max.min(cut))));
    let (top, width) = (middle - BAR / 2.0, (end - start).max(1.0));
    chart.add(&format!(
        "<rect class=\"bar {class}\" x=\"{start:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
         height=\"{BAR}\"><title>{tip}</title></rect>"
    ));
    let whisker = middle - 4.0;
    if is_cut {
        let (gap, gap_top) = (end - 16.0, top - 2.0);
        chart.add(&format!("<path class=\"gap\" d=\"M{gap:.1} {gap_top:.1}l6 20\"/>"));
    } else if spread.rounds > 1 {
        chart.add(&format!(
            "<path class=\"whisker\" d=\"M{low:.1} {middle:.1}L{high:.1} {middle:.1}\
             M{low:.1} {whisker:.1}l0 8M{high:.1} {whisker:.1}l0 8\"/>"
        ));
    }
    let remark = if is_cut { " (cut)" } else { "" };
    let (x, y, value) = (high.max(end) + 6.0, middle + 4.0, short(spread.median));
    chart.add(&format!("<text class=\"value\" x=\"{x:.1}\" y=\"{y:.1}\">{value}{remark}</text>"));
}

/// A tick of an even scale: without zeros at the end.
fn tick(value: f64) -> String {
    let text = short(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
