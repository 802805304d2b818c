//! Streams: what is promised for which topics, and how long it is kept; and the commit log.

use super::units::{duration, size};
use super::validate::Problem;
use ringlane_mqtt::topic::TopicFilter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The name of the stream that takes what no other one takes.
pub const DEFAULT_STREAM: &str = "default";

/// Streams of a configuration at most: their number is kept with every topic.
const STREAMS_MAX: usize = 1024;

/// When a message is acknowledged and handed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamLevel {
    /// On the disks of all that it takes: `local_disk` for a node that is alone, `quorum_disk` in a
    /// cluster.
    #[default]
    Auto,
    /// As soon as it is in the memory of this node; it is logged all the same.
    Memory,
    /// Once it is on the disk of this node.
    LocalDisk,
    /// Once it is in the memory of a majority of nodes.
    QuorumMemory,
    /// Once it is on the disks of a majority of nodes.
    QuorumDisk,
}

impl StreamLevel {
    /// What it means for a node that is alone, or is part of a cluster.
    fn settled(self, is_cluster: bool) -> Self {
        match self {
            Self::Auto if is_cluster => Self::QuorumDisk,
            Self::Auto => Self::LocalDisk,
            Self::Memory | Self::LocalDisk | Self::QuorumMemory | Self::QuorumDisk => self,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Memory => "memory",
            Self::LocalDisk => "local_disk",
            Self::QuorumMemory => "quorum_memory",
            Self::QuorumDisk => "quorum_disk",
        }
    }
}

/// What happens when the backlog of a session, or of a shared group, is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Publishers get 0x97 (MQTT 5) or back-pressure.
    #[default]
    Reject,
    /// The oldest message of that backlog makes room, and is counted.
    DropOldest,
}

/// Topics with one promise.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Its name, for people and tools.
    pub name: String,
    /// The topic filters that it takes.
    pub filters: Vec<String>,
    /// When a message is acknowledged and handed on.
    pub level: StreamLevel,
    /// How long messages are kept for those who read again; 0 = any time.
    #[serde(with = "duration")]
    pub retention_age: Duration,
    /// Bytes of log that are kept for those who read again, shared out between the partitions;
    /// 0 = any number.
    #[serde(with = "size")]
    pub retention_size: u64,
    /// Whether QoS 0 is logged as well, so that it can be read again.
    pub capture_qos0: bool,
    /// What happens when the backlog of a session is full.
    pub when_full: WhenFull,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            filters: Vec::new(),
            level: StreamLevel::Auto,
            retention_age: Duration::from_secs(7 * 86_400),
            retention_size: 10 << 30,
            capture_qos0: false,
            when_full: WhenFull::Reject,
        }
    }
}

impl StreamConfig {
    /// The stream that takes what no other one takes, as it is if nobody changes it.
    #[must_use]
    pub fn rest() -> Self {
        let filters = vec!["#".to_owned()];
        Self { name: DEFAULT_STREAM.to_owned(), filters, ..Self::default() }
    }

    /// Whether it takes what no other one takes.
    #[must_use]
    pub fn is_rest(&self) -> bool {
        self.name == DEFAULT_STREAM
    }
}

/// The commit log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CommitLogConfig {
    /// Whether there is one. Without it nothing survives the process, whatever a stream's level
    /// says: for measuring what the log costs.
    pub enabled: bool,
    /// Bytes of the largest segment file; the first ones of a partition are smaller.
    #[serde(with = "size")]
    pub segment_size: u64,
    /// Bytes of a partition's log behind which a checkpoint is written: a start reads about that
    /// much again.
    #[serde(with = "size")]
    pub checkpoint_size: u64,
    /// Who writes, syncs and reads its files.
    pub file_driver: FileDriverSetting,
}

impl Default for CommitLogConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            segment_size: 64 << 20,
            checkpoint_size: 32 << 20,
            file_driver: FileDriverSetting::default(),
        }
    }
}

/// Who writes, syncs and reads the files of the commit log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileDriverSetting {
    /// Threads of the broker.
    #[default]
    Threads,
    /// The core's own ring; only with the io_uring transport.
    IoUring,
}

/// The streams in the order in which they are asked, the one for the rest behind all others, each
/// with a level that says what it is.
pub(super) fn in_order(streams: &[StreamConfig], is_cluster: bool) -> Vec<StreamConfig> {
    let named = streams.iter().filter(|stream| !stream.is_rest());
    let rest = streams.iter().find(|stream| stream.is_rest());
    let rest = rest.cloned().unwrap_or_else(StreamConfig::rest);
    let mut streams: Vec<StreamConfig> = named.cloned().chain([rest]).collect();
    streams.iter_mut().for_each(|stream| stream.level = stream.level.settled(is_cluster));
    streams
}

/// Everything that is wrong with the streams.
pub(super) fn problems(streams: &[StreamConfig], is_cluster: bool) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut names = BTreeMap::new();
    let mut filters = BTreeMap::new();
    if streams.len() > STREAMS_MAX {
        found.push(format!("there are {} streams; at most {STREAMS_MAX}", streams.len()));
    }
    for stream in streams {
        let name = &stream.name;
        if name.is_empty() {
            found.push("a [[stream]] without a name; add name = \"...\"".to_owned());
        } else if names.insert(name, ()).is_some() {
            found.push(format!("two streams have the name \"{name}\""));
        }
        found.extend(level_problem(stream, is_cluster));
        found.extend(filter_problems(stream));
        for filter in stream.filters.iter().filter(|_| !stream.is_rest()) {
            if let Some(first) = filters.insert(filter, name)
                && first != name
            {
                found.push(format!(
                    "stream \"{name}\": the filter \"{filter}\" is in stream \"{first}\" already, \
                     which comes first; take it out of one of them"
                ));
            }
        }
    }
    found.into_iter().map(|message| Problem { keys: vec!["stream"], message }).collect()
}

fn level_problem(stream: &StreamConfig, is_cluster: bool) -> Option<String> {
    let (name, level) = (&stream.name, stream.level.name());
    match (stream.level, is_cluster) {
        (StreamLevel::QuorumMemory, false) => Some(alone(name, level, "memory")),
        (StreamLevel::QuorumDisk, false) => Some(alone(name, level, "local_disk")),
        (StreamLevel::Auto | StreamLevel::Memory | StreamLevel::LocalDisk, false) | (_, true) => {
            None
        }
    }
}

fn alone(name: &str, level: &str, instead: &str) -> String {
    format!(
        "stream \"{name}\": level \"{level}\" needs a cluster, and cluster.members is empty; choose \
         \"{instead}\", which promises the same for this node alone, or name the members"
    )
}

fn filter_problems(stream: &StreamConfig) -> Vec<String> {
    let name = &stream.name;
    if stream.is_rest() {
        let takes_all = stream.filters.is_empty() || stream.filters == ["#"];
        let message = format!(
            "stream \"{DEFAULT_STREAM}\" takes what no other one takes; leave its filters out, or \
             give the stream another name"
        );
        return if takes_all { Vec::new() } else { vec![message] };
    }
    if stream.filters.is_empty() {
        return vec![format!(
            "stream \"{name}\" has no filters; add filters = [\"...\"], or call it \
             \"{DEFAULT_STREAM}\" if it is to take what no other one takes"
        )];
    }
    let wrong = |filter: &String| match TopicFilter::parse(filter) {
        Ok(parsed) if parsed.share.is_some() => {
            Some(format!("stream \"{name}\": \"{filter}\" is a shared subscription, not a filter"))
        }
        Ok(_) => None,
        Err(error) => Some(format!("stream \"{name}\": \"{filter}\" is no topic filter: {error}")),
    };
    stream.filters.iter().filter_map(wrong).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: &str, filters: &[&str]) -> StreamConfig {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        StreamConfig { name: name.to_owned(), filters, ..StreamConfig::default() }
    }

    #[test]
    fn the_stream_for_the_rest_is_there_and_comes_last() {
        let names = |streams: &[StreamConfig]| {
            in_order(streams, false).into_iter().map(|stream| stream.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["default"]);
        assert_eq!(names(&[stream("default", &[]), stream("a", &["a/#"])]), ["a", "default"]);
        let memory = StreamConfig { level: StreamLevel::Memory, ..StreamConfig::rest() };
        assert_eq!(in_order(&[memory], false)[0].level, StreamLevel::Memory);
    }

    #[test]
    fn a_level_that_is_not_given_is_the_safe_one() {
        assert_eq!(in_order(&[], false)[0].level, StreamLevel::LocalDisk);
        assert_eq!(in_order(&[], true)[0].level, StreamLevel::QuorumDisk);
    }

    #[test]
    fn a_cluster_takes_every_level_and_a_node_alone_its_own() {
        let at = |level| vec![StreamConfig { level, ..stream("q", &["q"]) }];
        let own = [StreamLevel::Auto, StreamLevel::Memory, StreamLevel::LocalDisk];
        for level in own.into_iter().chain([StreamLevel::QuorumMemory, StreamLevel::QuorumDisk]) {
            assert!(problems(&at(level), true).is_empty(), "{level:?}");
            assert_eq!(problems(&at(level), false).is_empty(), own.contains(&level), "{level:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_streams_is_told_with_its_remedy() {
        let quorum = StreamConfig { level: StreamLevel::QuorumDisk, ..stream("q", &["q"]) };
        let cases = [
            (vec![stream("", &["a"])], "without a name"),
            (vec![stream("a", &["a"]), stream("a", &["b"])], "two streams have the name \"a\""),
            (vec![quorum], "choose \"local_disk\""),
            (vec![stream("a", &[])], "add filters"),
            (vec![stream("default", &["a"])], "leave its filters out"),
            (vec![stream("a", &["a#"])], "is no topic filter"),
            (vec![stream("a", &["$share/g/a"])], "is a shared subscription"),
            (vec![stream("a", &["x"]), stream("b", &["x"])], "in stream \"a\" already"),
        ];
        for (streams, expected) in cases {
            let found: Vec<String> =
                problems(&streams, false).into_iter().map(|p| p.message).collect();
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(expected), "{found:?}");
        }
        assert!(problems(&[StreamConfig::rest(), stream("a", &["a/#", "b/+"])], false).is_empty());
    }
}
