//! The streams of the nodes, held against each other: what is promised for a message is what the node
//! that leads has configured, so that it changes with the leader where they differ.

use crate::config::Config;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Differences to one node that are told; the others are counted.
const DIFFERENCES_TOLD: usize = 4;

/// The streams of a node as they are configured: the settings of each by their names, so that another release may
/// have other ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamsRecord(Vec<Map<String, Value>>);

/// A node whose streams are not those of this one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamsDiffer {
    /// Its number.
    pub node: u16,
    /// What differs, for people.
    pub what: String,
}

impl StreamsRecord {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let settings = |stream| match serde_json::to_value(stream) {
            Ok(Value::Object(settings)) => settings,
            // A stream is a table of settings that JSON can say.
            Ok(_) | Err(_) => Map::new(),
        };
        Self(config.streams().into_iter().map(settings).collect())
    }

    /// What those of another node have differently; `None` if they promise the same.
    #[must_use]
    pub fn differ_from(&self, there: &Self) -> Option<String> {
        let mut found = Vec::new();
        for own in &self.0 {
            match there.named(name(own)) {
                Some(other) => found.extend(settings_that_differ(own, other)),
                None => found.push(format!("stream {} is here alone", name(own))),
            }
        }
        let others = there.0.iter().filter(|other| self.named(name(other)).is_none());
        found.extend(others.map(|other| format!("stream {} is there alone", name(other))));
        let more = found.len().saturating_sub(DIFFERENCES_TOLD);
        found.truncate(DIFFERENCES_TOLD);
        if more > 0 {
            found.push(format!("{more} more"));
        }
        (!found.is_empty()).then(|| found.join("; "))
    }

    fn named(&self, wanted: &Value) -> Option<&Map<String, Value>> {
        self.0.iter().find(|stream| name(stream) == wanted)
    }
}

fn name(stream: &Map<String, Value>) -> &Value {
    stream.get("name").unwrap_or(&Value::Null)
}

fn settings_that_differ(here: &Map<String, Value>, there: &Map<String, Value>) -> Vec<String> {
    let keys: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let differ = keys.into_iter().filter(|key| here.get(*key) != there.get(*key));
    let told = differ.map(|key| {
        // What only one release knows has no value in the other.
        let [own, other] = [here, there].map(|settings| settings.get(key).unwrap_or(&Value::Null));
        format!("{key} of stream {} is {own} here and {other} there", name(here))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{StreamConfig, StreamLevel};

    fn streams(list: &[(&str, StreamLevel)]) -> StreamsRecord {
        let stream = |(name, level): &(&str, StreamLevel)| StreamConfig {
            name: (*name).to_owned(),
            filters: vec![format!("{name}/#")],
            level: *level,
            ..StreamConfig::default()
        };
        let mut config = Config { stream: list.iter().map(stream).collect(), ..Config::default() };
        config.cluster.members = vec![Default::default()];
        StreamsRecord::of(&config)
    }

    #[test]
    fn the_same_promises_do_not_differ_however_they_are_written_down() {
        let auto = streams(&[("a", StreamLevel::Auto)]);
        let said = streams(&[("a", StreamLevel::QuorumDisk)]);
        assert_eq!(auto.differ_from(&said), None, "in a cluster that is what auto means");
        let text = serde_json::to_string(&auto).unwrap();
        let read: StreamsRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read.differ_from(&said), None, "{text}");
    }

    #[test]
    fn what_differs_is_named_from_both_sides() {
        let here = streams(&[("a", StreamLevel::Memory), ("b", StreamLevel::QuorumDisk)]);
        let there = streams(&[("a", StreamLevel::QuorumDisk), ("c", StreamLevel::QuorumDisk)]);
        let told = "level of stream \"a\" is \"memory\" here and \"quorum_disk\" there; \
                    stream \"b\" is here alone; stream \"c\" is there alone";
        assert_eq!(here.differ_from(&there).unwrap(), told);
    }

    #[test]
    fn a_setting_that_only_a_later_release_knows_differs() {
        let here = streams(&[("a", StreamLevel::Memory)]);
        let mut there = here.clone();
        there.0[0].insert("zone".to_owned(), Value::from(3));
        let told = "zone of stream \"a\" is null here and 3 there";
        assert_eq!(here.differ_from(&there).unwrap(), told);
    }

    #[test]
    fn many_differences_are_counted() {
        let names: Vec<String> = (0..9).map(|number| format!("s{number}")).collect();
        let list: Vec<_> = names.iter().map(|name| (&**name, StreamLevel::Memory)).collect();
        let told = streams(&list).differ_from(&streams(&[])).unwrap();
        assert!(told.ends_with("; 5 more"), "{told}");
        assert_eq!(told.matches("is here alone").count(), DIFFERENCES_TOLD);
    }
}
