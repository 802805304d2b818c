//! What the types cannot say: ranges, and values that do not go together.

use super::{Config, Cores, FileDriverSetting, TransportSetting, cluster_rules, streams};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

/// A rule that is broken.
pub(super) struct Problem {
    /// The keys that it is about; the first one that somebody set is to blame.
    pub(super) keys: Vec<&'static str>,
    /// What is wrong, and what would be right.
    pub(super) message: String,
}

/// MQTT's largest packet: a Remaining Length of 268,435,455 and a fixed header of 5 bytes
/// (MQTT 5 section 1.5.5).
const PACKET_BYTES_MAX: u32 = 268_435_460;

/// Everything that is wrong with `config`.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut rules = Rules(Vec::new());
    runtime(config, &mut rules);
    listeners(config, &mut rules);
    packets(config, &mut rules);
    windows(config, &mut rules);
    sessions(config, &mut rules);
    limits(config, &mut rules);
    commit_log(config, &mut rules);
    cluster_rules::check(config, &mut rules);
    rules.0.extend(streams::problems(&config.stream, config.cluster.is_set()));
    rules.0
}

fn runtime(config: &Config, rules: &mut Rules) {
    let runtime = &config.runtime;
    rules.range("runtime.partitions", runtime.partitions, 0, 65_536);
    rules.range("runtime.mailbox_slots", runtime.mailbox_slots, 2, 1 << 20);
    rules.range("runtime.receive_buffers", runtime.receive_buffers, 8, 32_768);
    rules.range("runtime.receive_buffer_size", runtime.receive_buffer_size, 512, 1 << 20);
    rules.time("runtime.spin", runtime.spin, Duration::ZERO, Duration::from_secs(1));
    if !runtime.receive_buffers.is_power_of_two() {
        let message = "runtime.receive_buffers must be a power of two".to_owned();
        rules.broken(&["runtime.receive_buffers"], message);
    }
    if let Cores::List(list) = &runtime.cores {
        cores(list, rules);
    }
}

fn cores(list: &[u32], rules: &mut Rules) {
    let keys = ["runtime.cores"];
    if list.is_empty() {
        let message = "runtime.cores is empty; write \"auto\" or name at least one CPU".to_owned();
        rules.broken(&keys, message);
    }
    let mut seen = BTreeSet::new();
    for cpu in list {
        if !seen.insert(cpu) {
            rules.broken(&keys, format!("runtime.cores names CPU {cpu} twice"));
        }
    }
}

fn listeners(config: &Config, rules: &mut Rules) {
    let (tcp, websocket) = (&config.listeners.tcp, &config.listeners.websocket);
    rules.range("listeners.tcp.backlog", tcp.backlog, 1, 65_535);
    let enabled = ["listeners.tcp.enabled", "listeners.websocket.enabled"];
    if !tcp.enabled && !websocket.enabled {
        rules
            .broken(&enabled, "no listener is enabled, so that no client could connect".to_owned());
    }
    if !websocket.path.starts_with('/') {
        let message = "listeners.websocket.path must begin with \"/\"".to_owned();
        rules.broken(&["listeners.websocket.path"], message);
    }
    let binds = [
        ("listeners.tcp.bind", tcp.enabled, tcp.bind),
        ("listeners.websocket.bind", websocket.enabled, websocket.bind),
        ("control.bind", config.control.enabled, config.control.bind),
    ];
    for (index, (key, enabled, bind)) in binds.iter().enumerate() {
        for (other_key, other_enabled, other) in &binds[index + 1..] {
            if *enabled && *other_enabled && bind == other && bind.port() != 0 {
                rules.broken(&[key, other_key], format!("{key} and {other_key} are both {bind}"));
            }
        }
    }
}

fn packets(config: &Config, rules: &mut Rules) {
    let mqtt = &config.mqtt;
    rules.range("mqtt.max_packet_size", mqtt.max_packet_size, 128, PACKET_BYTES_MAX);
    rules.range("mqtt.max_connect_size", mqtt.max_connect_size, 128, PACKET_BYTES_MAX);
    // 23 bytes must be allowed [MQTT-3.1.3-5].
    rules.range("mqtt.max_client_id_length", mqtt.max_client_id_length, 23, u16::MAX);
    rules.range("mqtt.max_topic_levels", mqtt.max_topic_levels, 1, u16::MAX);
    rules.range("mqtt.max_topic_length", mqtt.max_topic_length, 1, u16::MAX);
    let second = Duration::from_secs(1);
    rules.time("mqtt.connect_timeout", mqtt.connect_timeout, second / 10, 3600 * second);
    rules.time("mqtt.drain_timeout", mqtt.drain_timeout, Duration::ZERO, 600 * second);
    rules.time("mqtt.max_keep_alive", mqtt.max_keep_alive, Duration::ZERO, 65_535 * second);
    rules.whole_seconds("mqtt.max_keep_alive", mqtt.max_keep_alive);
    if mqtt.server_reference.as_ref().is_some_and(|text| usize::from(u16::MAX) < text.len()) {
        let message = "mqtt.server_reference is longer than 65535 bytes".to_owned();
        rules.broken(&["mqtt.server_reference"], message);
    }
}

fn windows(config: &Config, rules: &mut Rules) {
    let mqtt = &config.mqtt;
    // A Receive Maximum of 0 is a protocol error (MQTT 5 section 3.2.2.3.3).
    rules.range("mqtt.receive_maximum", mqtt.receive_maximum, 1, u16::MAX);
    rules.range("mqtt.max_inflight_messages", mqtt.max_inflight_messages, 1, u16::MAX);
    rules.range("mqtt.max_inflight_bytes", mqtt.max_inflight_bytes, 1, u64::MAX);
    rules.range("mqtt.max_subscriptions", mqtt.max_subscriptions, 1, u32::MAX);
}

fn sessions(config: &Config, rules: &mut Rules) {
    let session = &config.session;
    rules.range("session.max_sessions", session.max_sessions, 1, u64::MAX);
    let longest = Duration::from_secs(u64::from(u32::MAX - 1));
    rules.time("session.max_expiry", session.max_expiry, Duration::ZERO, longest);
    rules.whole_seconds("session.max_expiry", session.max_expiry);
}

fn limits(config: &Config, rules: &mut Rules) {
    let limits = &config.limits;
    rules.range("limits.write_buffer_high", limits.write_buffer_high, 1024, 1 << 30);
    rules.range("limits.write_buffer_max", limits.write_buffer_max, 1024, 1 << 30);
    if limits.write_buffer_max < limits.write_buffer_high {
        let keys = ["limits.write_buffer_max", "limits.write_buffer_high"];
        let message = "limits.write_buffer_max must not be below limits.write_buffer_high";
        rules.broken(&keys, message.to_owned());
    }
    if limits.memory != 0 {
        rules.range("limits.memory", limits.memory, 1 << 20, u64::MAX);
    }
    let day = Duration::from_secs(86_400);
    rules.time("sys.interval", config.sys.interval, Duration::from_secs(1), day);
    rules.whole_seconds("sys.interval", config.sys.interval);
}

/// A segment is never smaller than what two of the largest packets take (docs/formats/log.md).
fn commit_log(config: &Config, rules: &mut Rules) {
    let wants_ring = config.commit_log.file_driver == FileDriverSetting::IoUring;
    if wants_ring && config.runtime.transport == TransportSetting::Epoll {
        let keys = ["commit_log.file_driver", "runtime.transport"];
        let message = "commit_log.file_driver = \"io_uring\" needs the io_uring transport";
        rules.broken(&keys, message.to_owned());
    }
    let key = "commit_log.segment_size";
    let bytes = config.commit_log.segment_size;
    rules.range(key, bytes, 1 << 20, 1 << 30);
    let size = config.commit_log.checkpoint_size;
    rules.range("commit_log.checkpoint_size", size, 64 << 10, 1 << 30);
    let least = 2 * u64::from(config.mqtt.max_packet_size) + (64 << 10);
    if bytes < least && (1 << 20) <= bytes {
        let message =
            format!("{key} is {bytes}; with this mqtt.max_packet_size it must be at least {least}");
        rules.broken(&[key, "mqtt.max_packet_size"], message);
    }
}

/// The rules that are broken, as they are found.
pub(super) struct Rules(Vec<Problem>);

impl Rules {
    pub(super) fn broken(&mut self, keys: &[&'static str], message: String) {
        self.0.push(Problem { keys: keys.to_vec(), message });
    }

    pub(super) fn range<T: PartialOrd + Display>(
        &mut self,
        key: &'static str,
        value: T,
        least: T,
        most: T,
    ) {
        if value < least {
            self.broken(&[key], format!("{key} is {value}; it must be at least {least}"));
        } else if most < value {
            self.broken(&[key], format!("{key} is {value}; it must be at most {most}"));
        }
    }

    pub(super) fn time(
        &mut self,
        key: &'static str,
        value: Duration,
        least: Duration,
        most: Duration,
    ) {
        if value < least {
            self.broken(&[key], format!("{key} is {value:?}; it must be at least {least:?}"));
        } else if most < value {
            self.broken(&[key], format!("{key} is {value:?}; it must be at most {most:?}"));
        }
    }

    pub(super) fn whole_seconds(&mut self, key: &'static str, value: Duration) {
        if value.subsec_nanos() != 0 {
            self.broken(&[key], format!("{key} is {value:?}; it must be in whole seconds"));
        }
    }
}
