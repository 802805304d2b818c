//! `$SYS` topics under the names of Mosquitto 2, which monitoring tools read.
//!
//! They are computed on the control thread from counters, and published as retained messages. A
//! topic is published when its value has changed, as Mosquitto does.

use crate::control::{CoreView, Process};
use crate::metrics::CoreMetrics;
use std::collections::HashMap;
use std::time::Duration;

type Of = fn(&CoreMetrics) -> u64;

/// Topics below `$SYS/broker/` that are sums over all cores.
const SUMS: [(&str, Of); 26] = [
    ("clients/connected", |metrics| metrics.connections.get()),
    ("clients/active", |metrics| metrics.connections.get()),
    ("clients/total", |metrics| metrics.sessions.get()),
    ("clients/expired", |metrics| metrics.sessions_expired.get()),
    ("connections/socket/count", |metrics| metrics.sockets.get()),
    ("messages/received", |metrics| metrics.packets_received.get()),
    ("messages/sent", |metrics| metrics.packets_sent.get()),
    ("messages/inflight", |metrics| metrics.inflight_messages.get()),
    ("messages/stored", stored),
    ("store/messages/count", stored),
    ("store/messages/bytes", |metrics| {
        metrics.retained_bytes.get().saturating_add(metrics.queued_bytes.get())
    }),
    ("bytes/received", |metrics| metrics.net_received_bytes.get()),
    ("bytes/sent", |metrics| metrics.net_sent_bytes.get()),
    ("publish/messages/received", CoreMetrics::publishes_received),
    ("publish/messages/sent", CoreMetrics::publishes_sent),
    ("publish/messages/dropped", CoreMetrics::messages_dropped),
    ("publish/bytes/received", |metrics| metrics.publish_received_bytes.get()),
    ("publish/bytes/sent", |metrics| metrics.publish_sent_bytes.get()),
    ("packet/out/count", |metrics| metrics.queued_messages.get()),
    ("packet/out/bytes", |metrics| metrics.queued_bytes.get()),
    ("subscriptions/count", |metrics| metrics.subscriptions.get()),
    ("shared_subscriptions/count", |metrics| metrics.shared_subscriptions.get()),
    // With a space: that is its name.
    ("retained messages/count", |metrics| metrics.retained_messages.get()),
    ("retained messages/bytes", |metrics| metrics.retained_bytes.get()),
    ("connections/refused", |metrics| metrics.connects_refused.get()),
    ("connections/takeovers", |metrics| metrics.takeovers.get()),
];

/// Counters whose rates per minute are published, averaged over 1, 5 and 15 minutes.
const LOADS: [(&str, Of); 9] = [
    ("messages/received", |metrics| metrics.packets_received.get()),
    ("messages/sent", |metrics| metrics.packets_sent.get()),
    ("publish/received", CoreMetrics::publishes_received),
    ("publish/sent", CoreMetrics::publishes_sent),
    ("publish/dropped", CoreMetrics::messages_dropped),
    ("bytes/received", |metrics| metrics.net_received_bytes.get()),
    ("bytes/sent", |metrics| metrics.net_sent_bytes.get()),
    ("connections", connects),
    ("sockets", |metrics| metrics.sockets_opened.get()),
];

const WINDOWS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

fn stored(metrics: &CoreMetrics) -> u64 {
    metrics.retained_messages.get().saturating_add(metrics.queued_messages.get())
}

fn connects(metrics: &CoreMetrics) -> u64 {
    metrics.connects_accepted.get().saturating_add(metrics.connects_refused.get())
}

/// The values that were published last, and the averages.
#[derive(Debug, Default)]
pub struct SysTopics {
    published: HashMap<String, String>,
    loads: [Load; LOADS.len()],
    connected_max: u64,
    updated: Duration,
}

/// One counter's average rates per minute.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    counter: u64,
    averages: [f64; WINDOWS.len()],
}

impl Load {
    /// Exponentially decaying averages, as Mosquitto computes them: the rate since the last time
    /// has the weight `1 - exp(-elapsed / window)`.
    fn update(&mut self, counter: u64, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        if elapsed <= 0.0 {
            return;
        }
        let rate = counter.saturating_sub(self.counter) as f64 * 60.0 / elapsed;
        self.counter = counter;
        for (average, (_, window)) in self.averages.iter_mut().zip(WINDOWS) {
            *average = rate + (-elapsed / window).exp() * (*average - rate);
        }
    }
}

impl SysTopics {
    /// Nothing has been published.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The topics whose values have changed since the last call, with their values.
    pub fn update(
        &mut self,
        cores: &[CoreView],
        process: &Process,
        uptime: Duration,
    ) -> Vec<(String, String)> {
        let sum = |of: Of| cores.iter().map(|core| of(&core.metrics)).fold(0, u64::saturating_add);
        let mut values: Vec<(String, String)> = Vec::new();
        let mut put = |topic: &str, value: String| {
            values.push((format!("$SYS/broker/{topic}"), value));
        };
        put("version", format!("ringlane version {}", env!("CARGO_PKG_VERSION")));
        put("uptime", format!("{} seconds", uptime.as_secs()));
        for (topic, of) in SUMS {
            put(topic, sum(of).to_string());
        }
        let connected = sum(|metrics| metrics.connections.get());
        let away = sum(|metrics| metrics.sessions.get()).saturating_sub(connected);
        put("clients/disconnected", away.to_string());
        put("clients/inactive", away.to_string());
        self.connected_max = self.connected_max.max(connected);
        put("clients/maximum", self.connected_max.to_string());
        put("heap/current", process.resident_bytes.to_string());
        put("heap/maximum", process.resident_bytes_max.to_string());
        let elapsed = uptime.saturating_sub(self.updated);
        self.updated = uptime;
        for (load, (name, of)) in self.loads.iter_mut().zip(LOADS) {
            load.update(sum(of), elapsed);
            for (average, (window, _)) in load.averages.iter().zip(WINDOWS) {
                put(&format!("load/{name}/{window}"), format!("{average:.2}"));
            }
        }
        values.retain(|(topic, value)| self.published.get(topic) != Some(value));
        self.published.extend(values.iter().cloned());
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn cores() -> Vec<CoreView> {
        let view = |core| CoreView {
            core: ringlane_dataplane::ids::CoreId(core),
            cpu: 0,
            metrics: Arc::default(),
            stats: Arc::default(),
        };
        vec![view(0), view(1)]
    }

    fn value<'a>(values: &'a [(String, String)], topic: &str) -> Option<&'a str> {
        let topic = format!("$SYS/broker/{topic}");
        values.iter().find(|(name, _)| *name == topic).map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_first_round_has_every_topic_that_tools_look_for() {
        let values = SysTopics::new().update(&cores(), &Process::default(), Duration::ZERO);
        let expected = [
            "version",
            "uptime",
            "clients/connected",
            "clients/disconnected",
            "clients/total",
            "clients/maximum",
            "clients/expired",
            "messages/received",
            "messages/sent",
            "messages/stored",
            "store/messages/count",
            "store/messages/bytes",
            "subscriptions/count",
            "shared_subscriptions/count",
            "retained messages/count",
            "publish/messages/received",
            "publish/messages/sent",
            "publish/messages/dropped",
            "publish/bytes/received",
            "publish/bytes/sent",
            "bytes/received",
            "bytes/sent",
            "heap/current",
            "heap/maximum",
            "connections/socket/count",
            "packet/out/count",
            "packet/out/bytes",
            "load/messages/received/1min",
            "load/publish/dropped/15min",
            "load/connections/5min",
            "load/sockets/5min",
        ];
        for topic in expected {
            assert!(value(&values, topic).is_some(), "{topic}");
        }
        assert!(value(&values, "version").unwrap().starts_with("ringlane version "));
        assert_eq!(value(&values, "uptime"), Some("0 seconds"));
        let mut names: Vec<&String> = values.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), values.len());
    }

    #[test]
    fn only_what_changed_is_published_again() {
        let cores = cores();
        let mut topics = SysTopics::new();
        topics.update(&cores, &Process::default(), Duration::from_secs(10));
        cores[0].metrics.connections.set(2);
        cores[1].metrics.connections.set(3);
        cores[1].metrics.sessions.set(9);
        let values = topics.update(&cores, &Process::default(), Duration::from_secs(20));
        assert_eq!(value(&values, "clients/connected"), Some("5"));
        assert_eq!(value(&values, "clients/disconnected"), Some("4"));
        assert_eq!(value(&values, "clients/maximum"), Some("5"));
        assert_eq!(value(&values, "uptime"), Some("20 seconds"));
        assert_eq!(value(&values, "version"), None);
        cores[0].metrics.connections.set(0);
        let values = topics.update(&cores, &Process::default(), Duration::from_secs(30));
        assert_eq!(value(&values, "clients/connected"), Some("3"));
        assert_eq!(value(&values, "clients/maximum"), None, "the maximum stays");
    }

    #[test]
    fn loads_are_rates_per_minute_that_decay() {
        let cores = cores();
        let mut topics = SysTopics::new();
        topics.update(&cores, &Process::default(), Duration::ZERO);
        cores[0].metrics.packets_received.set(100);
        let values = topics.update(&cores, &Process::default(), Duration::from_secs(10));
        // 600 per minute with the weights 1 - e^(-10/60) and 1 - e^(-10/300).
        assert_eq!(value(&values, "load/messages/received/1min"), Some("92.11"));
        assert_eq!(value(&values, "load/messages/received/5min"), Some("19.67"));
        let values = topics.update(&cores, &Process::default(), Duration::from_secs(20));
        assert_eq!(value(&values, "load/messages/received/1min"), Some("77.97"));
        let values = topics.update(&cores, &Process::default(), Duration::from_secs(20));
        assert!(values.is_empty(), "no time has passed: {values:?}");
    }
}
