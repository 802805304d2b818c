//! The retained messages of the topics that a core owns, in the order of their names.
//!
//! Order makes a filter's literal prefix a range: a query looks only at topics that share it, and it
//! can stop after any number of topics and go on later from where it was.

use super::matching::{is_hidden, is_wildcard, matches};
use crate::batch::Level;
use crate::ids::{Offset, PartitionId};
use crate::message::Message;
use crate::time::Nanos;
use core::ops::Bound;
use std::collections::BTreeMap;
use std::collections::btree_map::Range;

/// Where a record is, and what had to be true before it was handed on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RecordId {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// The level that it was accepted at.
    pub level: Level,
}

/// What [`RetainedStore::set`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetOutcome {
    /// The topic had no retained message and has one now.
    Stored,
    /// The topic's retained message was replaced.
    Replaced,
    /// The payload was empty: the topic's retained message is gone [MQTT-3.3.1-6].
    Cleared,
    /// The payload was empty, and there was nothing to clear [MQTT-3.3.1-7].
    NothingToClear,
    /// The store is at its bound; nothing changed.
    Refused,
}

/// How far a query came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QueryProgress {
    /// To the end.
    Done,
    /// It examined as many topics as it may; go on after this one.
    More {
        /// The last topic that was examined.
        after: Box<str>,
    },
}

#[derive(Debug)]
struct Retained {
    message: Message,
    source: RecordId,
}

/// Bytes that are counted per topic for the map's own structures.
const ENTRY_BYTES: usize = size_of::<(Box<str>, Retained)>() * 2;

/// Retained messages by topic, bounded in number and in bytes.
#[derive(Debug)]
pub struct RetainedStore {
    topics: BTreeMap<Box<str>, Retained>,
    messages_max: usize,
    bytes_max: usize,
    bytes: usize,
}

impl RetainedStore {
    /// An empty store for at most `messages_max` messages of together at most `bytes_max` bytes, with
    /// their topics, properties and what the store adds.
    #[must_use]
    pub fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { topics: BTreeMap::new(), messages_max, bytes_max, bytes: 0 }
    }

    /// Messages in the store, expired ones that were not swept yet included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.topics.len()
    }

    /// Bytes in the store, as they count against its bound.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the message its topic's retained message [MQTT-3.3.1-5], or clears the topic if its
    /// payload is empty.
    pub fn set(&mut self, message: Message, source: RecordId) -> SetOutcome {
        if message.payload().is_empty() {
            return self.clear(message.topic());
        }
        let new_bytes = cost(&message);
        if let Some(old) = self.topics.get_mut(message.topic()) {
            let bytes = self.bytes - cost(&old.message) + new_bytes;
            if bytes > self.bytes_max {
                return SetOutcome::Refused;
            }
            self.bytes = bytes;
            *old = Retained { message, source };
            return SetOutcome::Replaced;
        }
        if self.count() >= self.messages_max || self.bytes + new_bytes > self.bytes_max {
            return SetOutcome::Refused;
        }
        self.bytes += new_bytes;
        self.topics.insert(message.topic().into(), Retained { message, source });
        SetOutcome::Stored
    }

    /// Calls `each` for the messages whose topics match the filter and that have not expired at
    /// `now`, by rising topic, beginning strictly after the topic `from`. Examines at most
    /// `limit_examined` topics (at least one), whether they match or not.
    pub fn query(
        &self,
        filter: &str,
        from: Option<&str>,
        limit_examined: usize,
        now: Nanos,
        each: &mut impl FnMut(&Message, RecordId),
    ) -> QueryProgress {
        let mut visit = |retained: &Retained| {
            if !retained.is_expired(now) {
                each(&retained.message, retained.source);
            }
        };
        if !is_wildcard(filter) {
            if from.is_none_or(|from| from < filter)
                && let Some(retained) = self.topics.get(filter)
            {
                visit(retained);
            }
            return QueryProgress::Done;
        }
        let mut last: Option<&str> = None;
        for (examined, (topic, retained)) in Walk::new(&self.topics, filter, from).enumerate() {
            if examined >= limit_examined
                && let Some(last) = last
            {
                return QueryProgress::More { after: last.into() };
            }
            last = Some(topic);
            if matches(filter, topic) {
                visit(retained);
            }
        }
        QueryProgress::Done
    }

    /// Calls `each` for at most `limit` messages (at least one), by rising topic, beginning strictly
    /// after the topic `from`. Returns where to go on, or `None` at the end.
    pub fn walk(
        &self,
        from: Option<&str>,
        limit: usize,
        each: &mut impl FnMut(&Message, RecordId),
    ) -> Option<Box<str>> {
        let mut rest = range_from(&self.topics, from.map_or(Bound::Unbounded, Bound::Excluded));
        let mut last = None;
        for (topic, retained) in rest.by_ref().take(limit.max(1)) {
            each(&retained.message, retained.source);
            last = Some(topic);
        }
        rest.next().and(last).cloned()
    }

    /// Drops messages that have expired at `now`, examining at most `limit` topics (at least one)
    /// strictly after `from`. Returns where to go on, or `None` at the end.
    pub fn sweep_expired(
        &mut self,
        now: Nanos,
        from: Option<Box<str>>,
        limit: usize,
    ) -> Option<Box<str>> {
        let mut expired = Vec::new();
        let mut last = None;
        let start = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = range_from(&self.topics, start);
        for (topic, retained) in rest.by_ref().take(limit.max(1)) {
            last = Some(topic);
            if retained.is_expired(now) {
                expired.push(topic.clone());
            }
        }
        let resume = if rest.next().is_some() { last.cloned() } else { None };
        for topic in expired {
            self.clear(&topic);
        }
        resume
    }

    fn clear(&mut self, topic: &str) -> SetOutcome {
        match self.topics.remove(topic) {
            Some(old) => {
                self.bytes -= cost(&old.message);
                SetOutcome::Cleared
            }
            None => SetOutcome::NothingToClear,
        }
    }
}

impl Retained {
    fn is_expired(&self, now: Nanos) -> bool {
        self.message.head().expires_at <= now
    }
}

/// The topics that a wildcard filter can match: those that share its literal prefix.
struct Walk<'a> {
    topics: &'a BTreeMap<Box<str>, Retained>,
    /// The levels before the first wildcard, each with its separator.
    prefix: &'a str,
    /// The topic that `prefix/#` matches besides what is below it; it comes first.
    parent: Option<(&'a str, &'a Retained)>,
    range: Range<'a, Box<str>, Retained>,
}

impl<'a> Walk<'a> {
    fn new(
        topics: &'a BTreeMap<Box<str>, Retained>,
        filter: &'a str,
        from: Option<&'a str>,
    ) -> Self {
        let prefix = literal_prefix(filter);
        let parent = prefix
            .strip_suffix('/')
            .filter(|topic| {
                filter.len() == prefix.len() + 1
                    && filter.ends_with('#')
                    && from.is_none_or(|from| from < *topic)
            })
            .and_then(|topic| topics.get_key_value(topic))
            .map(|(topic, retained)| (&**topic, retained));
        let start = match from {
            Some(from) if from >= prefix => Bound::Excluded(from),
            _ => Bound::Included(prefix),
        };
        Self { topics, prefix, parent, range: range_from(topics, start) }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (&'a str, &'a Retained);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(parent) = self.parent.take() {
            return Some(parent);
        }
        let mut next = self.range.next()?;
        if self.prefix.is_empty() && is_hidden(next.0) {
            // A leading wildcard matches none of these, and they lie together.
            self.range = range_from(self.topics, Bound::Included(AFTER_HIDDEN));
            next = self.range.next()?;
        }
        next.0.starts_with(self.prefix).then_some((&**next.0, next.1))
    }
}

/// The first string after all that start with `$`.
const AFTER_HIDDEN: &str = "%";

fn range_from<'a>(
    topics: &'a BTreeMap<Box<str>, Retained>,
    start: Bound<&str>,
) -> Range<'a, Box<str>, Retained> {
    topics.range::<str, _>((start, Bound::Unbounded))
}

/// The part of a wildcard filter before its first wildcard: whole levels with their separators.
fn literal_prefix(filter: &str) -> &str {
    let mut bytes = 0;
    for level in filter.split('/') {
        if level == "+" || level == "#" {
            break;
        }
        bytes += level.len() + 1;
    }
    &filter[..bytes]
}

/// What a message counts for: itself, the copy of its topic that is the key, the map's entry.
fn cost(message: &Message) -> usize {
    message.memory_bytes() + usize::from(message.head().topic_bytes) + ENTRY_BYTES
}

#[cfg(test)]
#[path = "retained_tests.rs"]
mod tests;
