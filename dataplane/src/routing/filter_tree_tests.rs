//! Tests of the filter tree against matching one filter after the other.

use super::super::matching::{CASES, matches};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn matching(tree: &FilterTree<u32>, topic: &str) -> Vec<u32> {
    let mut found = Vec::new();
    tree.for_each_match(topic, &mut |value| found.push(*value));
    found.sort_unstable();
    found
}

#[test]
fn the_table_of_cases_holds_for_each_filter_alone() {
    for (filter, topic, expected) in CASES {
        let mut tree = FilterTree::new();
        tree.entry(filter, || 1);
        let found = matching(&tree, topic);
        assert_eq!(!found.is_empty(), *expected, "{filter:?} against {topic:?}");
        assert!(found.len() <= 1, "{filter:?} against {topic:?}: visited more than once");
    }
}

#[test]
fn the_table_of_cases_holds_for_all_filters_together() {
    let mut tree = FilterTree::new();
    let mut filters: Vec<&str> = CASES.iter().map(|(filter, _, _)| *filter).collect();
    filters.sort_unstable();
    filters.dedup();
    for (number, filter) in filters.iter().enumerate() {
        tree.entry(filter, || number as u32);
    }
    assert_eq!(tree.len(), filters.len());
    for (_, topic, _) in CASES {
        let expected: Vec<u32> =
            (0..).zip(&filters).filter(|(_, f)| matches(f, topic)).map(|(n, _)| n).collect();
        assert_eq!(matching(&tree, topic), expected, "{topic:?}");
    }
}

#[test]
fn a_filter_has_one_value() {
    for filter in ["a/b", "a/+", "a/#", "#", "+", "+/#"] {
        let mut tree = FilterTree::new();
        assert_eq!(tree.get(filter), None);
        *tree.entry(filter, || 1) += 1;
        *tree.entry(filter, || unreachable!("it is there")) += 1;
        assert_eq!((tree.get(filter), tree.len()), (Some(&3), 1), "{filter:?}");
        *tree.get_mut(filter).expect("it is there") = 9;
        assert_eq!(tree.remove(filter), Some(9), "{filter:?}");
        assert_eq!(tree.remove(filter), None, "{filter:?}");
        assert_eq!(tree.get_mut(filter), None, "{filter:?}");
        assert!(tree.is_empty());
    }
}

#[test]
fn filters_that_share_a_path_are_apart() {
    let mut tree = FilterTree::new();
    for (value, filter) in ["a/+/c", "a/+/c/#", "a/+", "a/+/#"].into_iter().enumerate() {
        tree.entry(filter, || value as u32);
    }
    assert_eq!(matching(&tree, "a/b/c"), [0, 1, 3]);
    assert_eq!(tree.remove("a/+/c"), Some(0));
    assert_eq!(matching(&tree, "a/b/c"), [1, 3]);
    assert_eq!(tree.remove("a/+/#"), Some(3));
    assert_eq!(matching(&tree, "a/b"), [2]);
    assert_eq!(matching(&tree, "a/b/c/d"), [1]);
    assert_eq!(tree.remove("a/+/d"), None, "not there, and it removes no one else");
    assert_eq!(tree.len(), 2);
}

#[test]
fn removing_the_last_filter_prunes_its_path() {
    let mut tree = FilterTree::new();
    for round in 0..100 {
        for number in 0..20 {
            tree.entry(&format!("{round}/a/{number}/+/b/#"), || number);
        }
        tree.entry("+/x", || 0);
        for number in 0..20 {
            assert_eq!(tree.remove(&format!("{round}/a/{number}/+/b/#")), Some(number));
        }
        tree.remove("+/x");
        assert_eq!(tree.node_count(), 1);
    }
    assert!(tree.nodes.len() <= 70, "{} nodes: freed ones are reused", tree.nodes.len());
}

#[test]
fn exact_filters_take_no_nodes() {
    let mut tree = FilterTree::new();
    for number in 0..100 {
        tree.entry(&format!("a/{number}"), || number);
    }
    assert_eq!((tree.len(), tree.node_count()), (100, 1));
    assert_eq!(matching(&tree, "a/7"), [7]);
}

#[test]
fn many_children_are_found_and_removed() {
    let mut tree = FilterTree::new();
    for number in 0..1000 {
        tree.entry(&format!("a/{number}/+"), || number);
    }
    for number in (0..1000).rev() {
        assert_eq!(matching(&tree, &format!("a/{number}/x")), [number]);
        assert_eq!(tree.remove(&format!("a/{number}/+")), Some(number));
        assert_eq!(matching(&tree, &format!("a/{number}/x")), []);
    }
    assert_eq!(tree.node_count(), 1);
}

#[test]
fn nested_choices_beyond_the_inline_stack_are_all_visited() {
    // At every one of 40 levels both the literal and `+` go on: the worst that 40 filters can do.
    let depth = 40;
    let topic = vec!["a"; depth].join("/");
    let mut tree = FilterTree::new();
    for plus in 0..depth {
        let mut levels = vec!["a"; depth];
        levels[plus] = "+";
        tree.entry(&levels.join("/"), || plus as u32);
    }
    assert_eq!(matching(&tree, &topic), (0..depth as u32).collect::<Vec<_>>());
}

#[test]
fn a_match_visits_what_is_stored_and_not_every_combination() {
    // All 2^12 combinations would be visited if a node could be reached by two paths.
    let mut tree = FilterTree::new();
    for bits in 0u32..64 {
        let levels: Vec<&str> =
            (0..6).map(|n| if bits >> n & 1 == 1 { "+" } else { "a" }).collect();
        tree.entry(&format!("{}/#", levels.join("/")), || bits);
    }
    let topic = vec!["a"; 5000].join("/");
    assert_eq!(matching(&tree, &topic), (0..64).collect::<Vec<_>>());
}

#[test]
fn deep_and_long_topics_are_walked_without_recursion() {
    let levels = 30_000;
    let topic = vec!["a"; levels].join("/");
    let mut tree = FilterTree::new();
    tree.entry(&format!("{topic}/#"), || 1);
    tree.entry("#", || 2);
    assert_eq!(matching(&tree, &topic), [1, 2]);
    assert_eq!(tree.node_count(), levels + 1);
    assert_eq!(tree.remove(&format!("{topic}/#")), Some(1));
    assert_eq!(tree.node_count(), 1);
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(String),
    Remove(String),
    Match(String),
}

/// Few level names, so that filters meet; empty levels and `$` among them.
fn levels(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(names), 1..6).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    let body = levels(&["a", "b", "", "$s", "+", "+"]);
    (body, 0..4).prop_map(|(body, kind)| match kind {
        0 => format!("{body}/#"),
        1 if body.len() < 2 => "#".to_owned(),
        _ => body,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => filter().prop_map(Operation::Insert),
        2 => filter().prop_map(Operation::Remove),
        4 => levels(&["a", "b", "", "$s", "c"]).prop_map(Operation::Match),
    ]
}

proptest! {
    #[test]
    fn it_matches_what_one_filter_after_the_other_does(
        operations in prop::collection::vec(operation(), 0..150),
    ) {
        let mut tree = FilterTree::new();
        let mut model = BTreeMap::new();
        for (number, operation) in (0u32..).zip(&operations) {
            match operation {
                Operation::Insert(filter) => {
                    let value = *tree.entry(filter, || number);
                    prop_assert_eq!(value, *model.entry(filter.clone()).or_insert(number));
                }
                Operation::Remove(filter) => {
                    prop_assert_eq!(tree.remove(filter), model.remove(filter));
                }
                Operation::Match(topic) => {
                    let mut expected: Vec<u32> = model
                        .iter()
                        .filter(|(filter, _)| matches(filter, topic))
                        .map(|(_, value)| *value)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(matching(&tree, topic), expected);
                }
            }
            prop_assert_eq!(tree.len(), model.len());
            for (filter, value) in &model {
                prop_assert_eq!(tree.get(filter), Some(value));
            }
        }
        for filter in model.keys() {
            tree.remove(filter);
        }
        prop_assert_eq!(tree.node_count(), 1);
    }
}

/// A node goes from one kind of children to the next, and loses none on the way.
#[test]
fn a_node_with_many_children_finds_each_of_them() {
    const DEVICES: u32 = 3 * CHILDREN_HASHED_MAX as u32;
    let mut tree = FilterTree::new();
    for device in 0..DEVICES {
        tree.entry(&format!("{device}/#"), || device);
        if device.is_power_of_two() || device as usize + 1 == CHILDREN_HASHED_MAX {
            (0..=device).for_each(|known| {
                assert_eq!(matching(&tree, &format!("{known}/state")), [known]);
            });
        }
    }
    assert!(matching(&tree, "none/state").is_empty());
    assert_eq!((tree.len(), tree.node_count()), (DEVICES as usize, DEVICES as usize + 1));
    for device in 0..DEVICES {
        assert_eq!(tree.remove(&format!("{device}/#")), Some(device));
        assert!(matching(&tree, &format!("{device}/state")).is_empty());
    }
    assert_eq!((tree.len(), tree.node_count()), (0, 1));
}
