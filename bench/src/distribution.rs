//! A latency histogram outside the program: its summary, its stored form, and the keys by which
//! plotters of the OpenMessaging benchmark know it.

use crate::report::latency_histogram;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What is shown of a distribution, in tables and as figures.
const SHOWN: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
];

/// A histogram as it is stored: every value that occurred, in nanoseconds, with its count.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// Pairs of the highest value of a bucket in nanoseconds, and its count; ascending.
    pub counts_ns: Vec<(u64, u64)>,
}

impl Distribution {
    /// The stored form of a histogram.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let counts = histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()));
        Self { counts_ns: counts.collect() }
    }

    /// The histogram again.
    #[must_use]
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = latency_histogram();
        self.add_to(&mut histogram);
        histogram
    }

    /// Adds what is stored to a histogram, to merge several runs.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) {
        for (value, count) in &self.counts_ns {
            if histogram.record_n(*value, *count).is_err() {
                histogram.saturating_record_n(*value, *count);
            }
        }
    }
}

/// Percentiles in microseconds.
#[must_use]
pub fn summary(histogram: &Histogram<u64>) -> Value {
    let mut parts = Map::new();
    parts.insert("count".into(), json!(histogram.len()));
    parts.insert("mean".into(), json!((histogram.mean() / 100.0).round() / 10.0));
    for (name, quantile) in SHOWN {
        let micros = histogram.value_at_quantile(quantile) as f64 / 1000.0;
        parts.insert(name.into(), json!(micros));
    }
    parts.insert("max".into(), json!(histogram.max() as f64 / 1000.0));
    Value::Object(parts)
}

/// Adds the keys of an OpenMessaging result, in milliseconds: `aggregatedPublishLatency...` for the
/// time to PUBACK or PUBCOMP, `aggregatedEndToEndLatency...` for the time to the subscriber.
///
/// Source: `TestResult.java` of openmessaging/benchmark.
pub fn open_messaging(name: &str, histogram: &Histogram<u64>, keys: &mut Map<String, Value>) {
    let kind = match name {
        "puback_latency" | "pubcomp_latency" => "PublishLatency",
        "latency" => "EndToEndLatency",
        _ => return,
    };
    let millis = |nanos: f64| nanos / 1e6;
    let at = |quantile| millis(histogram.value_at_quantile(quantile) as f64);
    let fixed = [
        ("Avg", millis(histogram.mean())),
        ("50pct", at(0.5)),
        ("75pct", at(0.75)),
        ("95pct", at(0.95)),
        ("99pct", at(0.99)),
        ("999pct", at(0.999)),
        ("9999pct", at(0.9999)),
        ("99999pct", at(0.99999)),
        ("Max", millis(histogram.max() as f64)),
    ];
    for (suffix, value) in fixed {
        keys.insert(format!("aggregated{kind}{suffix}"), json!(value));
    }
    let quantiles: Map<String, Value> = histogram
        .iter_quantiles(5)
        .map(|step| {
            let percent = step.quantile_iterated_to() * 100.0;
            (percent.to_string(), json!(millis(step.value_iterated_to() as f64)))
        })
        .collect();
    keys.insert(format!("aggregated{kind}Quantiles"), Value::Object(quantiles));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Histogram<u64> {
        let mut histogram = latency_histogram();
        for value in [1_000, 1_000, 250_000, 4_000_000, 90_000_000_000] {
            histogram.record(value).unwrap();
        }
        histogram
    }

    #[test]
    fn what_is_stored_gives_the_same_percentiles() {
        let before = example();
        let text = serde_json::to_string(&Distribution::of(&before)).unwrap();
        let stored: Distribution = serde_json::from_str(&text).unwrap();
        let after = stored.histogram();
        assert_eq!(after.len(), before.len());
        for quantile in [0.1, 0.5, 0.7, 0.9, 1.0] {
            let (after, before) = (&after, &before);
            assert_eq!(after.value_at_quantile(quantile), before.value_at_quantile(quantile));
        }
    }

    #[test]
    fn runs_are_merged() {
        let mut sum = latency_histogram();
        for _ in 0..3 {
            Distribution::of(&example()).add_to(&mut sum);
        }
        assert_eq!(sum.len(), 15);
        assert_eq!(sum.max(), example().max());
    }

    #[test]
    fn plotters_find_the_keys_of_open_messaging() {
        let mut keys = Map::new();
        open_messaging("latency", &example(), &mut keys);
        open_messaging("puback_latency", &example(), &mut keys);
        open_messaging("unknown", &example(), &mut keys);
        let p50 = keys["aggregatedEndToEndLatency50pct"].as_f64().unwrap();
        assert!((p50 - 0.25).abs() < 0.001, "{p50}");
        assert!(keys["aggregatedPublishLatencyQuantiles"].get("50").is_some());
        assert_eq!(keys.len(), 20);
    }
}
