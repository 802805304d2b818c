//! The frame of a chart: an SVG with a plot area, axes with ticks, titles with units.

use super::format::escape;
use std::fmt::Write;

/// Size of a chart in its own units; it is scaled to the width that the page gives it.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
pub(super) const TOP: f64 = 34.0;
const RIGHT: f64 = 28.0;
const BOTTOM: f64 = 46.0;
const LEFT: f64 = 62.0;

/// How values become places along an axis.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    is_log: bool,
}

impl Scale {
    /// An even scale from 0.
    pub(super) fn linear(max: f64) -> Self {
        Self { from: 0.0, to: max.max(f64::MIN_POSITIVE), is_log: false }
    }

    /// A logarithmic scale; both ends must be greater than 0, and are moved apart if they are equal.
    pub(super) fn log(min: f64, max: f64) -> Self {
        let max = if max > min { max } else { min * 10.0 };
        Self { from: min.log10(), to: max.log10(), is_log: true }
    }

    /// Where a value is, from 0 to 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        let value = if self.is_log { value.max(f64::MIN_POSITIVE).log10() } else { value };
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// Round values for ticks: some five of an even scale, 1, 2, 5 of each decade of a logarithmic
    /// one, or only the decades if there are many.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            let step = round_step(self.to / 5.0);
            let count = (self.to / step + 1e-9).floor() as usize;
            return (0..=count).map(|index| index as f64 * step).collect();
        }
        let decades = self.to - self.from;
        let parts: &[f64] = if decades > 3.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let first = self.from.floor() as i32;
        let last = self.to.ceil() as i32;
        let values =
            (first..=last).flat_map(|power| parts.iter().map(move |part| part * 10f64.powi(power)));
        let (from, to) = (self.from - 1e-9, self.to + 1e-9);
        values.filter(|value| (from..=to).contains(&value.log10())).collect()
    }
}

/// The nearest of 1, 2 and 5 times a power of ten that is not below a value.
fn round_step(value: f64) -> f64 {
    let power = 10f64.powi(value.log10().floor() as i32);
    let part = value / power;
    power * [1.0, 2.0, 5.0].into_iter().find(|step| part <= step + 1e-9).unwrap_or(10.0)
}

/// A chart under construction.
#[derive(Debug)]
pub(super) struct Chart {
    body: String,
    left: f64,
    height: f64,
}

impl Chart {
    /// A chart with a title, which says what is drawn, in which unit, and which end is better.
    pub(super) fn new(title: &str) -> Self {
        Self::with_frame(title, LEFT, HEIGHT)
    }

    /// A chart with another left margin and height.
    pub(super) fn with_frame(title: &str, left: f64, height: f64) -> Self {
        let title = escape(title);
        let body = format!("<text class=\"title\" x=\"4\" y=\"18\">{title}</text>");
        Self { body, left, height }
    }

    /// The place of a share of the horizontal axis.
    pub(super) fn x(&self, share: f64) -> f64 {
        self.left + share * (WIDTH - RIGHT - self.left)
    }

    /// The place of a share of the vertical axis; 0 is at the bottom.
    pub(super) fn y(&self, share: f64) -> f64 {
        let bottom = self.height - BOTTOM;
        bottom - share * (bottom - TOP)
    }

    /// Ticks along the bottom, each with a line up through the plot.
    pub(super) fn bottom_axis(&mut self, name: &str, ticks: &[(f64, String)]) {
        let (top, bottom) = (self.y(1.0), self.y(0.0));
        for (share, label) in ticks {
            let x = self.x(*share);
            let (label_y, label) = (bottom + 16.0, escape(label));
            self.add(&format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\
                 <text class=\"tick mid\" x=\"{x:.1}\" y=\"{label_y:.1}\">{label}</text>"
            ));
        }
        let (x, y, name) = (self.x(0.5), bottom + 36.0, escape(name));
        self.add(&format!("<text class=\"axis mid\" x=\"{x:.1}\" y=\"{y:.1}\">{name}</text>"));
    }

    /// Ticks along the left, each with a line across the plot.
    pub(super) fn left_axis(&mut self, ticks: &[(f64, String)]) {
        let (left, right) = (self.x(0.0), self.x(1.0));
        for (share, label) in ticks {
            let y = self.y(*share);
            let (x, label_y, label) = (left - 6.0, y + 4.0, escape(label));
            self.add(&format!(
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick end\" x=\"{x:.1}\" y=\"{label_y:.1}\">{label}</text>"
            ));
        }
    }

    /// A line through points, given as shares of both axes, in the style of a broker.
    pub(super) fn line(&mut self, style: usize, class: &str, points: &[(f64, f64)]) {
        let mut path = String::with_capacity(points.len() * 12);
        for (index, (x, y)) in points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            // Writing into a string does not fail.
            let _ = write!(path, "{command}{:.1} {:.1}", self.x(*x), self.y(*y));
        }
        self.add(&format!("<path class=\"line {class} k{style}\" d=\"{path}\"/>"));
    }

    /// Anything else.
    pub(super) fn add(&mut self, markup: &str) {
        self.body.push_str(markup);
    }

    /// The chart as an SVG; `description` is for those who cannot see it.
    pub(super) fn finish(self, kind: &str, description: &str) -> String {
        let (height, body, label) = (self.height, self.body, escape(description));
        format!(
            "<svg class=\"chart {kind}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"{label}\">{body}</svg>"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(Scale::linear(9.3).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(Scale::linear(0.5).ticks().len(), 6);
        assert_eq!(Scale::log(80.0, 1200.0).ticks(), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(Scale::log(1.0, 1e5).ticks().len(), 6);
    }

    #[test]
    fn values_have_places() {
        let scale = Scale::log(10.0, 1000.0);
        assert!((scale.share(100.0) - 0.5).abs() < 1e-9);
        assert_eq!(scale.share(1.0), 0.0);
        assert_eq!(Scale::linear(10.0).share(20.0), 1.0);
        assert!(Scale::log(5.0, 5.0).share(5.0).abs() < 1e-9);
    }
}
