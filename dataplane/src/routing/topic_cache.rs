//! What was found out about a topic name, remembered until a subscription changes.
//!
//! Matching a topic costs several look-ups by a keyed hash that cannot be attacked; finding it here
//! costs one by a fast hash and one comparison of its bytes. A set has [`WAYS`] places, so an entry
//! that was pushed out by a chosen collision is a miss and nothing worse. Every entry carries the
//! stamp of the state that it was made from, and an older stamp is a miss: nothing has to be
//! cleared when a subscription changes.

use core::hash::{BuildHasher, Hasher};
use hashbrown::DefaultHashBuilder;

/// Places that one topic may take.
const WAYS: usize = 4;
/// Places of a cache that has just been made.
const PLACES_MIN: usize = 64;
/// Places that a cache grows to: enough for 10,000 topics in turn with hardly a miss.
pub const PLACES_MAX: usize = 32 * 1024;
/// Bytes of the longest topic that is remembered.
pub const TOPIC_BYTES_MAX: usize = 256;

/// The stamp of an entry that holds nothing.
const EMPTY: u64 = 0;

#[derive(Debug)]
struct Place<V> {
    stamp: u64,
    hash: u64,
    topic: Vec<u8>,
    value: V,
}

/// A bounded map from topic names to values that are valid for one stamp. Stamps begin at 1.
#[derive(Debug)]
pub struct TopicCache<V> {
    places: Vec<Place<V>>,
    hash_state: DefaultHashBuilder,
    /// The way that the next entry without a free place takes.
    victim: usize,
}

impl<V: Default> Default for TopicCache<V> {
    fn default() -> Self {
        Self { places: places(PLACES_MIN), hash_state: DefaultHashBuilder::default(), victim: 0 }
    }
}

/// The position of an entry, valid until the next [`TopicCache::place`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryIndex(usize);

/// What a topic is looked up by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicHash(u64);

impl<V: Default> TopicCache<V> {
    /// The entry of a topic if it carries this stamp.
    ///
    /// # Errors
    /// What [`TopicCache::place`] needs if it does not.
    #[inline]
    pub fn find(&self, topic: &[u8], stamp: u64) -> Result<EntryIndex, TopicHash> {
        let hash = self.hash(topic);
        let first = self.first_of_set(hash);
        let set = self.places[first..first + WAYS].iter();
        let mut hits = set.enumerate().filter(|(_, place)| {
            place.hash == hash && place.stamp == stamp && place.topic == topic
        });
        hits.next().map(|(way, _)| EntryIndex(first + way)).ok_or(TopicHash(hash))
    }

    /// The value of an entry.
    #[must_use]
    #[inline]
    pub fn value(&self, entry: EntryIndex) -> &V {
        &self.places[entry.0].value
    }

    /// Takes a place for a topic that [`TopicCache::find`] did not find, with what it gave; its value, which is to be
    /// overwritten, is what its last user left, so that its buffers are used again. `None` if the
    /// topic is longer than what is remembered.
    pub fn place(&mut self, topic: &[u8], hash: TopicHash, stamp: u64) -> Option<&mut V> {
        if topic.len() > TOPIC_BYTES_MAX {
            return None;
        }
        let hash = hash.0;
        let index = loop {
            match self.free_way(topic, hash, stamp) {
                Some(index) => break index,
                None if self.places.len() < PLACES_MAX => self.grow(),
                None => break self.next_victim(hash),
            }
        };
        let place = &mut self.places[index];
        (place.stamp, place.hash) = (stamp, hash);
        place.topic.clear();
        place.topic.extend_from_slice(topic);
        Some(&mut place.value)
    }

    /// The topic's own place, or one that holds nothing of this stamp.
    fn free_way(&self, topic: &[u8], hash: u64, stamp: u64) -> Option<usize> {
        let first = self.first_of_set(hash);
        let set = &self.places[first..first + WAYS];
        let own = set.iter().position(|place| place.hash == hash && place.topic == topic);
        own.or_else(|| set.iter().position(|place| place.stamp != stamp)).map(|way| first + way)
    }

    fn next_victim(&mut self, hash: u64) -> usize {
        self.victim = (self.victim + 1) % WAYS;
        self.first_of_set(hash) + self.victim
    }

    /// Twice the places. What finds none in its new set is forgotten.
    fn grow(&mut self) {
        let doubled = places(self.places.len() * 2);
        for place in core::mem::replace(&mut self.places, doubled) {
            let first = self.first_of_set(place.hash);
            let mut set = self.places[first..first + WAYS].iter_mut();
            if let Some(free) = set.find(|place| place.stamp == EMPTY) {
                *free = place;
            }
        }
    }

    #[inline]
    fn hash(&self, topic: &[u8]) -> u64 {
        let mut hasher = self.hash_state.build_hasher();
        hasher.write(topic);
        hasher.finish()
    }

    /// The number of places is a power of two and at least [`WAYS`].
    #[inline]
    fn first_of_set(&self, hash: u64) -> usize {
        (hash as usize) & (self.places.len() - 1) & !(WAYS - 1)
    }
}

fn places<V: Default>(count: usize) -> Vec<Place<V>> {
    let empty = || Place { stamp: EMPTY, hash: 0, topic: Vec::new(), value: V::default() };
    (0..count).map(|_| empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &mut TopicCache<u64>, topic: &str, stamp: u64, value: u64) {
        let hash = TopicHash(cache.hash(topic.as_bytes()));
        *cache.place(topic.as_bytes(), hash, stamp).expect("a short topic") = value;
    }

    fn get(cache: &TopicCache<u64>, topic: &str, stamp: u64) -> Option<u64> {
        cache.find(topic.as_bytes(), stamp).ok().map(|entry| *cache.value(entry))
    }

    #[test]
    fn an_entry_is_found_under_its_own_stamp_only() {
        let mut cache = TopicCache::default();
        put(&mut cache, "a/b", 1, 7);
        assert_eq!(get(&cache, "a/b", 1), Some(7));
        assert_eq!(get(&cache, "a/b", 2), None);
        assert_eq!(get(&cache, "a/c", 1), None);
        put(&mut cache, "a/b", 2, 8);
        assert_eq!(get(&cache, "a/b", 2), Some(8));
        assert_eq!(get(&cache, "a/b", 1), None, "a topic has one entry");
    }

    /// How many of the topics are still there after all were asked for three times, in turn.
    fn remembered(topics: &[String]) -> usize {
        let mut cache = TopicCache::default();
        for _ in 0..3 {
            for (number, topic) in topics.iter().enumerate() {
                if get(&cache, topic, 1).is_none() {
                    put(&mut cache, topic, 1, number as u64);
                }
            }
        }
        assert_eq!(cache.places.len(), PLACES_MAX);
        let hits = topics.iter().enumerate().filter(|(number, topic)| {
            get(&cache, topic, 1).inspect(|value| assert_eq!(*value, *number as u64)).is_some()
        });
        hits.count()
    }

    /// A key of the hash that spreads names worse than others comes now and then.
    #[test]
    fn ten_thousand_topics_fit_with_hardly_a_miss() {
        let topics: Vec<_> = (0..10_000).map(|number| format!("bench/{number}")).collect();
        let mut hits = [0; 5].map(|_| remembered(&topics));
        hits.sort_unstable();
        assert!(hits[2] > 9_000, "{hits:?}");
    }

    #[test]
    fn a_million_topics_take_no_more_than_the_bound() {
        let mut cache = TopicCache::default();
        for number in 0..1_000_000u64 {
            put(&mut cache, &format!("{number}"), 1, number);
        }
        assert_eq!(cache.places.len(), PLACES_MAX);
        assert_eq!(get(&cache, "999999", 1), Some(999_999));
    }

    #[test]
    fn a_long_topic_is_not_remembered() {
        let mut cache = TopicCache::<u64>::default();
        assert!(cache.place(&[b'a'; TOPIC_BYTES_MAX + 1], TopicHash(1), 1).is_none());
        assert!(cache.place(&[b'a'; TOPIC_BYTES_MAX], TopicHash(1), 1).is_some());
    }
}
