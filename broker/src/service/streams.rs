//! Which stream a topic belongs to.
//!
//! With one stream, which is the usual case, nothing is looked up. With more, what was found out
//! about a topic is remembered: streams do not change while the node runs.

use crate::config::{Config, StreamLevel, WhenFull};
use ringlane_dataplane::batch::{Level, Promise};
use ringlane_dataplane::routing::{FilterTree, TopicCache};

/// The stamp of everything that is remembered.
const STAMP: u64 = 1;

/// What one stream promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stream {
    pub(crate) promise: Promise,
    /// Whether QoS 0 is logged as well.
    pub(crate) capture_qos0: bool,
    pub(crate) when_full: WhenFull,
}

/// The streams of a node, as one core asks for them.
#[derive(Debug)]
pub(crate) struct Streams {
    /// In the order in which they are asked; the last one takes what is left.
    list: Vec<Stream>,
    by_filter: FilterTree<u16>,
    cache: TopicCache<u16>,
    captures: bool,
    counts_memory: bool,
}

impl Streams {
    pub(crate) fn new(config: &Config) -> Self {
        let mut streams = Self {
            list: Vec::new(),
            by_filter: FilterTree::new(),
            cache: TopicCache::default(),
            captures: false,
            counts_memory: false,
        };
        for stream in config.streams() {
            let index = streams.list.len() as u16;
            for filter in stream.filters.iter().filter(|_| !stream.is_rest()) {
                streams.by_filter.entry(filter, || index);
            }
            streams.captures |= stream.capture_qos0;
            streams.counts_memory |= stream.level == StreamLevel::QuorumMemory;
            streams.list.push(Stream {
                promise: promise(stream.level),
                capture_qos0: stream.capture_qos0,
                when_full: stream.when_full,
            });
        }
        streams
    }

    /// Whether some stream is at `quorum_memory`.
    pub(crate) fn count_memory(&self) -> bool {
        self.counts_memory
    }

    /// Whether QoS 0 of a topic is logged.
    pub(crate) fn captures(&mut self, topic: &str) -> bool {
        self.captures && self.of(topic).capture_qos0
    }

    /// The same for a topic as it came; if it is not well-formed, nothing is logged.
    pub(crate) fn captures_bytes(&mut self, topic: &[u8]) -> bool {
        self.captures && core::str::from_utf8(topic).is_ok_and(|topic| self.captures(topic))
    }

    /// The stream of a topic.
    pub(crate) fn of(&mut self, topic: &str) -> Stream {
        let last = self.list.len() - 1;
        if last == 0 {
            return self.list[0];
        }
        let index = self.index_of(topic, last as u16);
        self.list[usize::from(index)]
    }

    fn index_of(&mut self, topic: &str, last: u16) -> u16 {
        let hash = match self.cache.find(topic.as_bytes(), STAMP) {
            Ok(entry) => return *self.cache.value(entry),
            Err(hash) => hash,
        };
        let mut first = last;
        self.by_filter.for_each_match(topic, &mut |index| first = first.min(*index));
        if let Some(place) = self.cache.place(topic.as_bytes(), hash, STAMP) {
            *place = first;
        }
        first
    }
}

fn promise(level: StreamLevel) -> Promise {
    let (level, quorum) = match level {
        StreamLevel::Memory => (Level::Memory, false),
        // `Config::streams` says which one it is.
        StreamLevel::LocalDisk | StreamLevel::Auto => (Level::LocalDisk, false),
        StreamLevel::QuorumMemory => (Level::Memory, true),
        StreamLevel::QuorumDisk => (Level::LocalDisk, true),
    };
    Promise { level, quorum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StreamConfig;

    fn stream(name: &str, filters: &[&str], capture_qos0: bool) -> StreamConfig {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        StreamConfig { name: name.to_owned(), filters, capture_qos0, ..StreamConfig::default() }
    }

    #[test]
    fn the_first_stream_that_matches_takes_a_topic() {
        let stream_list = vec![
            stream("alarms", &["+/alarm"], true),
            StreamConfig { when_full: WhenFull::DropOldest, ..StreamConfig::rest() },
            stream("all of a", &["a/#", "b"], false),
        ];
        let mut streams = Streams::new(&Config { stream: stream_list, ..Config::default() });
        for _ in 0..2 {
            assert!(streams.captures("a/alarm") && streams.captures_bytes(b"b/alarm"));
            assert_eq!(streams.of("a/b").when_full, WhenFull::Reject);
            assert!(!streams.captures("b") && !streams.captures_bytes(&[0xff]));
            assert_eq!(streams.of("c").when_full, WhenFull::DropOldest);
            assert_eq!(streams.of("$SYS/x").when_full, WhenFull::DropOldest);
        }
    }

    #[test]
    fn without_streams_there_is_the_one_for_the_rest() {
        let mut streams = Streams::new(&Config::default());
        assert!(!streams.captures("any"));
        assert_eq!(streams.of("any").when_full, WhenFull::Reject);
        assert_eq!(streams.of("any").promise, Level::LocalDisk.into());
    }
}
