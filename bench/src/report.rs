//! What a run says at its end: settings, figures, latency, and which checks held.

use crate::distribution::{self, Distribution};
use crate::environment::Environment;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// One thing that had to be true.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Whether it was so.
    pub held: bool,
    /// The figures behind it.
    pub detail: String,
}

/// What happened in one slice of the measured time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// End of the slice, in seconds from the start of the measured time.
    pub at_seconds: f64,
    /// Messages that were delivered within the slice.
    pub messages: u64,
    /// CPU seconds that the broker spent within the slice.
    pub cpu_seconds: Option<f64>,
    /// Median latency of the slice in microseconds; 0 if nothing arrived.
    pub p50_us: f64,
    /// 99th percentile of the slice in microseconds; 0 if nothing arrived.
    pub p99_us: f64,
}

/// The result of a workload.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The workload's name.
    pub workload: &'static str,
    /// What makes the figures doubtful, in whole sentences: noise of the machine, a generator that
    /// was the bottleneck.
    pub warnings: Vec<String>,
    /// The machine and the tool, if they were recorded (see [`crate::environment`]).
    pub environment: Option<Environment>,
    settings: Map<String, Value>,
    figures: Map<String, Value>,
    checks: Vec<Check>,
    histograms: BTreeMap<String, Histogram<u64>>,
    series: BTreeMap<String, Vec<Sample>>,
}

impl Report {
    /// An empty report.
    #[must_use]
    pub fn new(workload: &'static str) -> Self {
        Self { workload, ..Self::default() }
    }

    /// Adds what the run was told to do.
    pub fn setting(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    /// Adds what the run measured.
    pub fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Adds a latency distribution, given in nanoseconds, shown in microseconds. The whole
    /// distribution is kept: JSON, `.hgrm` files and curves are made of it.
    pub fn latency(&mut self, name: &str, histogram: &Histogram<u64>) {
        self.figures.insert(format!("{name}_us"), distribution::summary(histogram));
        self.histograms.insert(name.to_owned(), histogram.clone());
    }

    /// Adds a timeline of the measured time.
    pub fn series(&mut self, name: &str, samples: Vec<Sample>) {
        self.series.insert(name.to_owned(), samples);
    }

    /// Adds a check.
    pub fn check(&mut self, name: &'static str, held: bool, detail: impl Into<String>) {
        self.checks.push(Check { name, held, detail: detail.into() });
    }

    /// Whether every check held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.checks.iter().all(|check| check.held)
    }

    /// The checks.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// A figure, as it was added.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.figures.get(name)
    }

    /// The latency distributions by name, in nanoseconds.
    #[must_use]
    pub fn histograms(&self) -> &BTreeMap<String, Histogram<u64>> {
        &self.histograms
    }

    /// The whole report as JSON: [`crate::document`] reads it back. Beside the tool's own keys it
    /// has those of an OpenMessaging result, in milliseconds, for the plotters that read them.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| json!({"name": check.name, "held": check.held, "detail": check.detail}))
            .collect();
        let histograms: BTreeMap<&String, Distribution> = self
            .histograms
            .iter()
            .map(|(name, histogram)| (name, Distribution::of(histogram)))
            .collect();
        let mut whole = json!({
            "kind": "run",
            "workload": self.workload,
            "settings": self.settings,
            "figures": self.figures,
            "checks": checks,
            "held": self.held(),
            "warnings": self.warnings,
            "environment": self.environment,
            "histograms": histograms,
            "series": self.series,
        });
        if let Value::Object(keys) = &mut whole {
            for (name, histogram) in &self.histograms {
                distribution::open_messaging(name, histogram, keys);
            }
            self.open_messaging_rates(keys);
        }
        whole
    }

    /// The arrays of an OpenMessaging result that are drawn over time.
    fn open_messaging_rates(&self, keys: &mut Map<String, Value>) {
        let Some(samples) = self.series.values().next() else { return };
        let mut from = 0.0;
        let rates: Vec<f64> = samples
            .iter()
            .map(|sample| {
                let seconds = sample.at_seconds - std::mem::replace(&mut from, sample.at_seconds);
                sample.messages as f64 / seconds.max(f64::EPSILON)
            })
            .collect();
        let millis = |pick: fn(&Sample) -> f64| -> Vec<f64> {
            samples.iter().map(|sample| pick(sample) / 1000.0).collect()
        };
        keys.insert("consumeRate".into(), json!(rates));
        keys.insert("endToEndLatency50pct".into(), json!(millis(|sample| sample.p50_us)));
        keys.insert("endToEndLatency99pct".into(), json!(millis(|sample| sample.p99_us)));
    }

    /// Prints the report.
    ///
    /// # Errors
    /// If the output is closed.
    pub fn print(&self, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
        if as_json {
            return writeln!(out, "{}", self.to_json());
        }
        writeln!(out, "{} {}", self.workload, one_line(&self.settings))?;
        for (name, value) in &self.figures {
            match value {
                Value::Object(parts) => writeln!(out, "  {name:<28} {}", one_line(parts))?,
                other => writeln!(out, "  {name:<28} {other}")?,
            }
        }
        for check in &self.checks {
            let mark = if check.held { "held" } else { "FAILED" };
            writeln!(out, "  {mark:<6} {}: {}", check.name, check.detail)?;
        }
        for warning in &self.warnings {
            writeln!(out, "  NOTE   {warning}")?;
        }
        Ok(())
    }
}

fn one_line(parts: &Map<String, Value>) -> String {
    let parts: Vec<String> = parts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    parts.join(" ")
}

/// A histogram for latencies in nanoseconds: three digits, up to a minute, growing beyond.
#[must_use]
pub fn latency_histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(100, 60_000_000_000, 3)
        .expect("the bounds are constants within the library's limits");
    histogram.auto(true);
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_only_if_every_check_does() {
        let mut report = Report::new("pairs");
        report.check("nothing lost", true, "0");
        assert!(report.held());
        report.check("in order", false, "3 late");
        report.warnings.push("The machine was busy.".into());
        assert!(!report.held());
        assert_eq!(report.to_json()["held"], false);
        let mut text = Vec::new();
        report.print(false, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("FAILED in order: 3 late"), "{text}");
        assert!(text.contains("NOTE   The machine was busy."), "{text}");
    }

    #[test]
    fn latency_is_shown_in_microseconds() {
        let mut histogram = latency_histogram();
        for micros in 1..=1000u64 {
            histogram.record(micros * 1000).unwrap();
        }
        let mut report = Report::new("pairs");
        report.latency("latency", &histogram);
        let p50 = report.value("latency_us").unwrap()["p50"].as_f64().unwrap();
        assert!((499.0..=501.0).contains(&p50), "{p50}");
        let millis = report.to_json()["aggregatedEndToEndLatency50pct"].as_f64().unwrap();
        assert!((millis * 1000.0 - p50).abs() < 0.001, "{millis}");
    }

    #[test]
    fn a_timeline_becomes_rates() {
        let mut report = Report::new("pairs");
        let sample = |at_seconds, messages| Sample {
            at_seconds,
            messages,
            cpu_seconds: None,
            p50_us: 100.0,
            p99_us: 2000.0,
        };
        report.series("delivered", vec![sample(0.25, 100), sample(0.75, 100)]);
        let json = report.to_json();
        assert_eq!(json["consumeRate"], json!([400.0, 200.0]));
        assert_eq!(json["endToEndLatency99pct"], json!([2.0, 2.0]));
        assert_eq!(json["series"]["delivered"][1]["messages"], 100);
    }
}
