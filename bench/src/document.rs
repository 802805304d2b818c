//! What is stored of a comparison, or of single runs, and read again to be drawn: brokers,
//! workloads, and a cell for each broker and workload.

use crate::distribution::Distribution;
use crate::environment::Environment;
use crate::report::{Report, Sample, latency_histogram};
use crate::statistics::Spread;
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The broker's CPU time per delivered message in microseconds.
pub const CPU_US: &str = "broker_cpu_us_per_message";
/// Messages delivered per second.
pub const RATE: &str = "messages_per_second";
/// Median latency in microseconds.
pub const P50_US: &str = "latency_us.p50";
/// 99th percentile of the latency in microseconds.
pub const P99_US: &str = "latency_us.p99";
/// What stands in for the latency where nobody subscribes.
const TO_PUBACK: &str = "puback_latency_us";

/// A comparison, or several single runs side by side.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Document {
    /// The machine and the tool, of each file that this was made from.
    pub environments: Vec<Environment>,
    /// The brokers; figures of the others are compared with those of the first.
    pub brokers: Vec<BrokerInfo>,
    /// The workloads, in the order in which they ran.
    pub workloads: Vec<Workload>,
}

/// How a broker was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// Its name in tables.
    pub name: String,
    /// What it says of its version; empty if nothing.
    pub version: String,
    /// The command that started it, or its address.
    pub command: String,
    /// Its configuration: file names and their text.
    pub files: Vec<(String, String)>,
    /// What a reader must know of the set-up.
    pub notes: Vec<String>,
}

/// One workload with every broker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Workload {
    /// Its name in tables.
    pub name: String,
    /// Command and flags of the suite.
    pub arguments: Vec<String>,
    /// One cell per broker.
    pub cells: Vec<Cell>,
}

/// One workload with one broker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    /// The broker's name.
    pub broker: String,
    /// Why it was not run, if it was not.
    pub skipped: Option<String>,
    /// The rounds, in order.
    pub rounds: Vec<Round>,
    /// Latency by name, all rounds together.
    pub histograms: BTreeMap<String, Distribution>,
}

/// One run of one workload with one broker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// Every figure that is a number, those of a distribution as `latency_us.p99`.
    pub figures: BTreeMap<String, f64>,
    /// The checks that did not hold, with their figures.
    pub failed: Vec<String>,
    /// What makes the figures doubtful.
    pub warnings: Vec<String>,
    /// Timelines by name.
    pub series: BTreeMap<String, Vec<Sample>>,
}

/// A run as [`Report::to_json`] stores it.
#[derive(Debug, Deserialize)]
struct StoredRun {
    workload: String,
    settings: Map<String, Value>,
    figures: Map<String, Value>,
    checks: Vec<StoredCheck>,
    #[serde(default)]
    warnings: Vec<String>,
    environment: Option<Environment>,
    #[serde(default)]
    histograms: BTreeMap<String, Distribution>,
    #[serde(default)]
    series: BTreeMap<String, Vec<Sample>>,
}

#[derive(Debug, Deserialize)]
struct StoredCheck {
    name: String,
    held: bool,
    detail: String,
}

impl Document {
    /// Reads what `--json` of a suite or of `compare` wrote. `label` names the broker of a single
    /// run that does not say which it was.
    ///
    /// # Errors
    /// If the text is neither.
    pub fn parse(text: &str, label: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("not JSON")?;
        match value.get("kind").and_then(Value::as_str) {
            Some("comparison") => {
                serde_json::from_value(value).context("not a comparison of this version")
            }
            Some("run") => {
                let run = serde_json::from_value(value).context("not a run of this version")?;
                Ok(Self::of_run(run, label))
            }
            _ => bail!("neither a run nor a comparison of ringlane-bench"),
        }
    }

    /// A document of one run.
    ///
    /// # Errors
    /// If the report has figures that cannot be stored.
    pub fn of_report(report: &Report, label: &str) -> Result<Self> {
        let run = serde_json::from_value(report.to_json()).context("the report")?;
        Ok(Self::of_run(run, label))
    }

    fn of_run(run: StoredRun, label: &str) -> Self {
        let named = run.environment.as_ref().and_then(|environment| environment.broker.clone());
        let name = named.clone().unwrap_or_else(|| label.to_owned());
        let arguments =
            run.settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        let command = run.environment.iter().flat_map(|environment| &environment.command);
        let command: Vec<&str> = command.map(String::as_str).collect();
        let info = BrokerInfo {
            name: name.clone(),
            command: format!("(measured by) {}", command.join(" ")),
            ..BrokerInfo::default()
        };
        let workload = format!("{} {}", run.workload, arguments.join(" "));
        let environments = run.environment.iter().cloned().collect();
        let mut cell = Cell { broker: name, ..Cell::default() };
        cell.push(run);
        let workload = Workload { name: workload, arguments, cells: vec![cell] };
        Self { environments, brokers: vec![info], workloads: vec![workload] }
    }

    /// Adds another document: its brokers, and its cells under the workloads of the same name.
    pub fn merge(&mut self, other: Self) {
        self.environments.extend(other.environments);
        for broker in other.brokers {
            if !self.brokers.iter().any(|known| known.name == broker.name) {
                self.brokers.push(broker);
            }
        }
        for workload in other.workloads {
            match self.workloads.iter_mut().find(|known| known.name == workload.name) {
                Some(known) => known.merge(workload),
                None => self.workloads.push(workload),
            }
        }
    }

    /// Whether every check of every cell held.
    #[must_use]
    pub fn held(&self) -> bool {
        let mut cells = self.workloads.iter().flat_map(|workload| &workload.cells);
        cells.all(|cell| cell.skipped.is_some() || cell.counts())
    }

    /// Everything as JSON, medians and ratios included.
    ///
    /// # Errors
    /// If a figure cannot be stored.
    pub fn to_json(&self) -> Result<Value> {
        let mut value = serde_json::to_value(self).context("the comparison")?;
        let summary: Vec<Value> = self.workloads.iter().map(Workload::summary).collect();
        if let Value::Object(keys) = &mut value {
            keys.insert("kind".into(), "comparison".into());
            keys.insert("held".into(), self.held().into());
            keys.insert("summary".into(), summary.into());
        }
        Ok(value)
    }
}

impl Workload {
    fn merge(&mut self, other: Self) {
        for cell in other.cells {
            match self.cells.iter_mut().find(|known| known.broker == cell.broker) {
                Some(known) => known.merge(cell),
                None => self.cells.push(cell),
            }
        }
    }

    /// The cell of a broker.
    #[must_use]
    pub fn cell(&self, broker: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.broker == broker)
    }

    /// `ours / theirs` of a figure, round by round; none unless both cells count.
    #[must_use]
    pub fn ratio(&self, ours: &str, theirs: &str, figure: &str) -> Option<Spread> {
        let (ours, theirs) = (self.cell(ours)?, self.cell(theirs)?);
        if !ours.counts() || !theirs.counts() {
            return None;
        }
        Spread::of_ratios(&ours.values(figure), &theirs.values(figure))
    }

    /// Spreads of all figures, and their ratios to the first broker's.
    fn summary(&self) -> Value {
        let first = self.cells.first().map(|cell| cell.broker.as_str()).unwrap_or_default();
        let cell = |cell: &Cell| {
            let figures = cell.figure_names();
            let spreads: BTreeMap<&str, Option<Spread>> =
                figures.iter().map(|name| (*name, cell.spread(name))).collect();
            let ratios: BTreeMap<&str, Option<Spread>> =
                figures.iter().map(|name| (*name, self.ratio(first, &cell.broker, name))).collect();
            serde_json::json!({
                "broker": cell.broker,
                "counts": cell.counts(),
                "figures": spreads,
                "first_broker_over_this": ratios,
            })
        };
        let cells: Vec<Value> = self.cells.iter().map(cell).collect();
        serde_json::json!({"workload": self.name, "first_broker": first, "cells": cells})
    }
}

impl Cell {
    /// Whether it ran and every check of every round held.
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.rounds.is_empty() && self.rounds.iter().all(|round| round.failed.is_empty())
    }

    /// A figure in each round.
    #[must_use]
    pub fn values(&self, figure: &str) -> Vec<Option<f64>> {
        self.rounds.iter().map(|round| round.figures.get(figure).copied()).collect()
    }

    /// A figure over all rounds; none if no round has it.
    #[must_use]
    pub fn spread(&self, figure: &str) -> Option<Spread> {
        Spread::of(&self.values(figure).into_iter().flatten().collect::<Vec<_>>())
    }

    /// The median of a figure.
    #[must_use]
    pub fn median(&self, figure: &str) -> Option<f64> {
        self.spread(figure).map(|spread| spread.median)
    }

    /// The median of a quantile of the latency (`p50`, `p99`, `p99.9`): to the subscriber, or to PUBACK if
    /// there is none.
    #[must_use]
    pub fn delay(&self, quantile: &str) -> Option<f64> {
        let of = |name: &str| self.median(&format!("{name}.{quantile}"));
        of("latency_us").or_else(|| of(TO_PUBACK))
    }

    /// The names of all figures that any round has.
    #[must_use]
    pub fn figure_names(&self) -> Vec<&str> {
        let names = self.rounds.iter().flat_map(|round| round.figures.keys());
        let mut names: Vec<&str> = names.map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A latency distribution of all rounds.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Option<Histogram<u64>> {
        self.histograms.get(name).map(Distribution::histogram)
    }

    /// Adds a round from what a suite printed with `--json`.
    ///
    /// # Errors
    /// If it is not the JSON of a run.
    pub fn add_run(&mut self, json: Value) -> Result<()> {
        self.push(serde_json::from_value(json).context("not the JSON of a run")?);
        Ok(())
    }

    /// Adds a round that could not be run to its end.
    pub fn add_failure(&mut self, why: String) {
        self.rounds.push(Round { failed: vec![why], ..Round::default() });
    }

    fn push(&mut self, run: StoredRun) {
        let failed = run.checks.iter().filter(|check| !check.held);
        self.rounds.push(Round {
            figures: numbers(&run.figures),
            failed: failed.map(|check| format!("{}: {}", check.name, check.detail)).collect(),
            warnings: run.warnings,
            series: run.series,
        });
        self.merge_histograms(run.histograms);
    }

    fn merge(&mut self, other: Self) {
        self.rounds.extend(other.rounds);
        self.merge_histograms(other.histograms);
    }

    fn merge_histograms(&mut self, histograms: BTreeMap<String, Distribution>) {
        for (name, added) in histograms {
            let mut sum = self.histogram(&name).unwrap_or_else(latency_histogram);
            added.add_to(&mut sum);
            self.histograms.insert(name, Distribution::of(&sum));
        }
    }
}

/// The figures that are numbers, with those inside objects under `outer.inner`.
fn numbers(figures: &Map<String, Value>) -> BTreeMap<String, f64> {
    let mut numbers = BTreeMap::new();
    for (name, value) in figures {
        if let Some(number) = value.as_f64() {
            numbers.insert(name.clone(), number);
        } else if let Value::Object(inner) = value {
            let inner = inner.iter().filter_map(|(key, value)| Some((key, value.as_f64()?)));
            numbers.extend(inner.map(|(key, number)| (format!("{name}.{key}"), number)));
        }
    }
    numbers
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A run with one latency distribution around `micros`, and a timeline.
    pub(crate) fn run(cpu_us: f64, micros: u64, lost: u64) -> Value {
        let mut histogram = latency_histogram();
        for step in 1..=200 {
            histogram.record(micros * 1000 + step * step * 10).unwrap();
        }
        let mut report = Report::new("pairs");
        report.setting("window", 8);
        report.figure(CPU_US, cpu_us);
        report.figure(RATE, 1e6 / cpu_us);
        report.latency("latency", &histogram);
        report.check("nothing lost", lost == 0, format!("{lost}"));
        let samples = (1..=8u32).map(|slice| Sample {
            at_seconds: 0.25 * f64::from(slice),
            messages: 1000 + 10 * u64::from(slice),
            cpu_seconds: Some(0.1),
            p50_us: micros as f64,
            p99_us: micros as f64 * 2.0,
        });
        report.series("delivered", samples.collect());
        report.to_json()
    }

    /// Two brokers, one workload, three rounds; the second broker loses `lost` in the last one.
    pub(crate) fn comparison(lost: u64) -> Document {
        let mut cells = Vec::new();
        for (name, factor) in [("ringlane", 1.0), ("<other>", 4.0)] {
            let mut cell = Cell { broker: name.into(), ..Cell::default() };
            for round in 0..3u32 {
                let lost = if round == 2 && factor > 1.0 { lost } else { 0 };
                let cpu = factor * (1.0 + f64::from(round));
                cell.add_run(run(cpu, 100 * (factor as u64), lost)).unwrap();
            }
            cells.push(cell);
        }
        let brokers = ["ringlane", "<other>"]
            .map(|name| BrokerInfo { name: name.into(), ..BrokerInfo::default() });
        let arguments = vec!["throughput".into(), "pairs".into(), "-W".into(), "8".into()];
        let workload = Workload { name: "pairs, W=8".into(), arguments, cells };
        Document {
            environments: vec![crate::environment::Recorder::start(Vec::new()).finish(None)],
            brokers: brokers.into(),
            workloads: vec![workload],
        }
    }

    #[test]
    fn ratios_are_medians_of_the_rounds() {
        let document = comparison(0);
        let ratio = document.workloads[0].ratio("ringlane", "<other>", CPU_US).unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.25, 0.25, 0.25));
        assert!(document.held());
        assert_eq!(document.workloads[0].cells[0].median(CPU_US), Some(2.0));
        let histogram = document.workloads[0].cells[0].histogram("latency").unwrap();
        assert_eq!(histogram.len(), 600);
    }

    #[test]
    fn a_cell_with_a_loss_does_not_count() {
        let document = comparison(3);
        assert!(!document.held());
        assert!(document.workloads[0].ratio("ringlane", "<other>", CPU_US).is_none());
        assert_eq!(document.workloads[0].cells[1].rounds[2].failed, ["nothing lost: 3"]);
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let json = comparison(0).to_json().unwrap();
        let ratio = &json["summary"][0]["cells"][1]["first_broker_over_this"][CPU_US];
        assert_eq!(ratio["median"], 0.25);
        let again = Document::parse(&json.to_string(), "x").unwrap();
        assert_eq!(again.to_json().unwrap(), json);
        assert!(Document::parse("{}", "x").is_err());
        assert!(Document::parse("[", "x").is_err());
    }

    #[test]
    fn single_runs_stand_side_by_side() {
        let mut left = Document::parse(&run(1.0, 100, 0).to_string(), "left").unwrap();
        let right = Document::parse(&run(2.0, 100, 0).to_string(), "right").unwrap();
        left.merge(right);
        assert_eq!(left.brokers.len(), 2);
        assert_eq!(left.workloads.len(), 1);
        let ratio = left.workloads[0].ratio("left", "right", CPU_US).unwrap();
        assert_eq!(ratio.median, 0.5);
    }

    #[test]
    fn figures_inside_objects_have_both_names() {
        let figures = json!({"a": 1, "b": {"p50": 2.5, "text": "x"}, "c": [1, 2]});
        let Value::Object(figures) = figures else { panic!("not an object") };
        let numbers = numbers(&figures);
        assert_eq!(
            numbers.into_iter().collect::<Vec<_>>(),
            [("a".into(), 1.0), ("b.p50".into(), 2.5)]
        );
    }
}
