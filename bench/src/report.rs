//! What a run says at its end: settings, figures, latency, and which checks held.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
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

/// The result of a workload.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The workload's name.
    pub workload: &'static str,
    settings: Map<String, Value>,
    figures: Map<String, Value>,
    checks: Vec<Check>,
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

    /// Adds a latency distribution, given in nanoseconds, shown in microseconds.
    pub fn latency(&mut self, name: &str, histogram: &Histogram<u64>) {
        let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let value = json!({
            "count": histogram.len(),
            "mean": (histogram.mean() / 100.0).round() / 10.0,
            "p50": micros(0.5),
            "p90": micros(0.9),
            "p99": micros(0.99),
            "p99.9": micros(0.999),
            "max": histogram.max() as f64 / 1000.0,
        });
        self.figures.insert(format!("{name}_us"), value);
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

    /// The whole report as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let checks: Vec<Value> = self
            .checks
            .iter()
            .map(|check| json!({"name": check.name, "held": check.held, "detail": check.detail}))
            .collect();
        json!({
            "workload": self.workload,
            "settings": self.settings,
            "figures": self.figures,
            "checks": checks,
            "held": self.held(),
        })
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
        Ok(())
    }
}

fn one_line(parts: &Map<String, Value>) -> String {
    let parts: Vec<String> = parts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    parts.join(" ")
}

/// A histogram for latencies in nanoseconds: two digits, up to a minute, growing beyond.
#[must_use]
pub fn latency_histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(100, 60_000_000_000, 2)
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
        assert!(!report.held());
        assert_eq!(report.to_json()["held"], false);
        let mut text = Vec::new();
        report.print(false, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("FAILED in order: 3 late"), "{text}");
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
        assert!((495.0..=505.0).contains(&p50), "{p50}");
    }
}
