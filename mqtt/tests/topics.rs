//! Topic names and filters: the examples of the specification, and random ones held against a
//! naive model.

#[path = "support/topics.rs"]
mod model;

use proptest::prelude::*;
use ringlane_mqtt::topic::{is_valid_name, level_count, matches};
use ringlane_mqtt::{TopicError, TopicFilter};

/// Filter, topic name, whether they match (Source: MQTT5 §4.7.1.2, §4.7.1.3, §4.7.2, §4.7.3).
const MATCHES: [(&str, &str, bool); 31] = [
    ("sport/tennis/player1/#", "sport/tennis/player1", true),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
    ("sport/#", "sport", true),
    ("sport/#", "sports", false),
    ("#", "a", true),
    ("#", "/", true),
    ("sport/tennis/+", "sport/tennis/player1", true),
    ("sport/tennis/+", "sport/tennis/player1/ranking", false),
    ("sport/+", "sport", false),
    ("sport/+", "sport/", true),
    ("+", "sport", true),
    ("+", "/finance", false),
    ("+/+", "/finance", true),
    ("/+", "/finance", true),
    ("+/tennis/#", "sport/tennis", true),
    ("#", "$SYS/uptime", false),
    ("+/monitor/Clients", "$SYS/monitor/Clients", false),
    ("$SYS/#", "$SYS/monitor", true),
    ("$SYS/#", "$SYS", true),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
    ("a/$x/+", "a/$x/b", true),
    ("a/+", "a/$x", true),
    ("ACCOUNTS", "Accounts", false),
    ("Accounts payable", "Accounts payable", true),
    ("/A", "A", false),
    ("A", "A/", false),
    ("a//b", "a//b", true),
    ("a/+/b", "a//b", true),
    ("a/#", "a/b/c/d/e/f", true),
    ("+/#", "a", true),
];

#[test]
fn examples_of_the_specification_match() {
    for (filter, name, expected) in MATCHES {
        assert!(TopicFilter::parse(filter).is_ok(), "{filter}");
        assert_eq!(matches(filter, name), expected, "{filter} and {name}");
        model::compare(filter, name);
    }
}

#[test]
fn each_rule_of_filters_has_its_error() {
    let cases = [
        ("", TopicError::Empty),
        ("a\0b", TopicError::Nul),
        ("sport/tennis/#/ranking", TopicError::MultiLevelNotLast),
        ("#/", TopicError::MultiLevelNotLast),
        ("sport/tennis#", TopicError::MultiLevelNotAlone),
        ("##", TopicError::MultiLevelNotAlone),
        ("sport+", TopicError::SingleLevelNotAlone),
        ("a/b+c/d", TopicError::SingleLevelNotAlone),
        ("$share//a", TopicError::ShareNameEmpty),
        ("$share/#/a", TopicError::ShareNameWildcard),
        ("$share/a+b/t", TopicError::ShareNameWildcard),
        ("$share/group", TopicError::ShareWithoutFilter),
        ("$share/group/", TopicError::ShareWithoutFilter),
        ("$share/", TopicError::ShareWithoutFilter),
        ("$share/gr\0up/a", TopicError::Nul),
        ("$share/group/a#", TopicError::MultiLevelNotAlone),
    ];
    for (filter, error) in cases {
        assert_eq!(TopicFilter::parse(filter), Err(error), "{filter:?}");
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(TopicFilter::parse(&"a".repeat(65_536)), Err(TopicError::TooLong));
    assert!(TopicFilter::parse(&"a".repeat(65_535)).is_ok());
}

#[test]
fn parts_of_a_shared_filter_are_split() {
    let filter = TopicFilter::parse("$share/group//a/+").expect("a filter");
    let expected =
        TopicFilter { share: Some("group"), filter: "/a/+", levels: 3, has_wildcard: true };
    assert_eq!(filter, expected);
    let plain = TopicFilter::parse("$share").expect("an ordinary level");
    let expected = TopicFilter { share: None, filter: "$share", levels: 1, has_wildcard: false };
    assert_eq!(plain, expected);
}

#[test]
fn names_hold_no_wildcard_and_no_nul() {
    assert!(is_valid_name("/"));
    assert!(is_valid_name("a b/\u{1F600}"));
    assert!(is_valid_name(&"a".repeat(65_535)));
    for name in ["", "a/+", "a#", "a\0", "a/\0/b"] {
        assert!(!is_valid_name(name), "{name:?}");
    }
    assert!(!is_valid_name(&"a".repeat(65_536)));
    assert_eq!([level_count("a"), level_count("/"), level_count("a/b/c")], [1, 2, 3]);
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(5_000))]

    #[test]
    fn random_filters_agree_with_the_model(filter in "[ab+#/$]{0,8}", name in "[ab/$]{0,8}") {
        model::compare(&filter, &name);
    }

    #[test]
    fn random_shared_filters_agree_with_the_model(
        filter in "\\$share/[ab+#]{0,2}/?[ab+#/]{0,5}",
        name in "[ab/]{1,5}",
    ) {
        model::compare(&filter, &name);
    }
}
