//! Tests of the remote filters, with hash collisions forced.

use super::super::matching::matches;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[test]
fn a_core_set_is_a_set() {
    let mut set = CoreSet::default();
    assert!(set.is_empty());
    for id in [0, 63, 64, 127] {
        assert!(set.insert(CoreId(id)));
        assert!(!set.insert(CoreId(id)));
        assert!(set.contains(CoreId(id)));
    }
    assert_eq!(set.iter().map(|core| core.0).collect::<Vec<_>>(), [0, 63, 64, 127]);
    assert_eq!(set.len(), 4);
    assert!(set.remove(CoreId(64)));
    assert!(!set.remove(CoreId(64)));
    let other: CoreSet = [CoreId(1), CoreId(127)].into_iter().collect();
    assert_eq!(set.union(other).iter().map(|core| core.0).collect::<Vec<_>>(), [0, 1, 63, 127]);
    assert_eq!(size_of::<CoreSet>(), 16);
}

#[test]
#[should_panic(expected = "core id out of range")]
fn a_core_beyond_the_bits_is_refused() {
    CoreSet::default().insert(CoreId(128));
}

fn ids(set: CoreSet) -> Vec<u16> {
    set.iter().map(|core| core.0).collect()
}

#[test]
fn exact_and_wildcard_filters_add_up() {
    let mut filters = RemoteFilters::new();
    filters.add(CoreId(1), "a/b");
    filters.add(CoreId(2), "a/+");
    filters.add(CoreId(3), "#");
    filters.add(CoreId(2), "a/#");
    filters.add(CoreId(4), "x");
    assert_eq!(ids(filters.cores_for("a/b")), [1, 2, 3]);
    assert_eq!(ids(filters.cores_for("$SYS")), []);
    assert_eq!(filters.len(), 5);
    filters.remove(CoreId(2), "a/+");
    assert_eq!(ids(filters.cores_for("a/b")), [1, 2, 3], "its other filter still matches");
    filters.remove(CoreId(2), "a/#");
    filters.remove(CoreId(1), "a/b");
    assert_eq!(ids(filters.cores_for("a/b")), [3]);
    filters.remove(CoreId(3), "#");
    filters.remove(CoreId(4), "x");
    assert!(filters.is_empty());
}

#[test]
fn cores_share_a_filter() {
    for filter in ["a", "+"] {
        let mut filters = RemoteFilters::new();
        filters.add(CoreId(1), filter);
        filters.add(CoreId(2), filter);
        assert_eq!((ids(filters.cores_for("a")), filters.len()), (vec![1, 2], 1));
        filters.remove(CoreId(1), filter);
        assert_eq!(ids(filters.cores_for("a")), [2]);
    }
}

#[test]
fn removing_what_is_not_there_changes_nothing() {
    let mut filters = RemoteFilters::new();
    filters.add(CoreId(1), "a");
    filters.add(CoreId(1), "+/b");
    filters.remove(CoreId(2), "a");
    filters.remove(CoreId(2), "+/b");
    filters.remove(CoreId(1), "b");
    filters.remove(CoreId(1), "+/c");
    assert_eq!(ids(filters.cores_for("a")), [1]);
    assert_eq!(ids(filters.cores_for("a/b")), [1]);
}

#[test]
fn two_filters_under_one_hash_do_not_hide_each_other() {
    let mut filters = RemoteFilters::with_hash_mask(0);
    for filter in ["a", "b", "c"] {
        filters.add(CoreId(1), filter);
    }
    filters.remove(CoreId(1), "a");
    filters.remove(CoreId(1), "b");
    assert_eq!(ids(filters.cores_for("c")), [1]);
    filters.remove(CoreId(1), "c");
    assert!(filters.is_empty());
    assert!(filters.doubled.is_empty());
}

proptest! {
    /// With hashes of two bits nearly every filter collides; still no core is ever missed, and when
    /// nobody wants anything nothing is left.
    #[test]
    fn no_core_that_wants_a_topic_is_missed(
        mask in prop::sample::select(&[0u64, 3, u64::MAX][..]),
        changes in prop::collection::vec((0u16..4, 0usize..10), 0..200),
    ) {
        let names = ["a", "b", "c", "a/b", "a/c", "+", "a/+", "#", "a/#", "b/c"];
        let topics = ["a", "b", "c", "a/b", "a/c", "b/c", "d"];
        let mut filters = RemoteFilters::with_hash_mask(mask);
        let mut wanted = BTreeSet::new();
        for (core, name) in changes {
            let core = CoreId(core);
            if wanted.insert((core, name)) {
                filters.add(core, names[name]);
            } else {
                wanted.remove(&(core, name));
                filters.remove(core, names[name]);
            }
            for topic in topics {
                let expected: CoreSet = wanted
                    .iter()
                    .filter(|(_, name)| matches(names[*name], topic))
                    .map(|(core, _)| *core)
                    .collect();
                let found = filters.cores_for(topic);
                prop_assert_eq!(found.union(expected), found, "a core is missed");
                prop_assert!(mask != u64::MAX || found == expected);
            }
        }
        for (core, name) in wanted {
            filters.remove(core, names[name]);
        }
        prop_assert!(filters.is_empty() && filters.doubled.is_empty());
    }
}
