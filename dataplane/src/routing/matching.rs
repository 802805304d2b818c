//! One topic filter against one topic name: the rules of MQTT 5 section 4.7, nothing else.
//!
//! Filters and topic names are taken as valid; who decodes packets checks them. A `+` or `#`
//! that is not a whole level, or a `#` that is not the last one, is taken literally.

/// Whether the filter has a wildcard, so that it can match more than one topic name.
#[must_use]
pub fn is_wildcard(filter: &str) -> bool {
    // Most filters have neither character at all; the split is for those that do.
    filter.contains(['+', '#'])
        && (filter == "#" || filter.ends_with("/#") || filter.split('/').any(|level| level == "+"))
}

/// Whether leading wildcards must not match this topic name: it starts with `$` [MQTT-4.7.2-1].
#[must_use]
pub fn is_hidden(topic: &str) -> bool {
    topic.starts_with('$')
}

/// The levels of the filter before its `#`, and whether it has one. `None` for the filter `#`,
/// which has no level before it.
#[must_use]
pub(crate) fn split_multi_level(filter: &str) -> (Option<&str>, bool) {
    if filter == "#" {
        return (None, true);
    }
    match filter.strip_suffix("/#") {
        Some(levels) => (Some(levels), true),
        None => (Some(filter), false),
    }
}

/// Whether the filter matches the topic name.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    let (levels, multi_level) = split_multi_level(filter);
    let Some(levels) = levels else { return !is_hidden(topic) };
    let mut topic_levels = topic.split('/');
    for (depth, level) in levels.split('/').enumerate() {
        let Some(topic_level) = topic_levels.next() else { return false };
        let hidden = depth == 0 && is_hidden(topic);
        if level != topic_level && (level != "+" || hidden) {
            return false;
        }
    }
    multi_level || topic_levels.next().is_none()
}

/// Filters, topic names, and whether one matches the other; shared by the tests of this folder.
#[cfg(test)]
pub(crate) const CASES: &[(&str, &str, bool)] = &[
    ("a", "a", true),
    ("a", "b", false),
    ("a", "A", false),
    ("a/b", "a/b", true),
    ("a/b", "a", false),
    ("a", "a/b", false),
    ("a/b", "a/b/", false),
    ("/a", "/a", true),
    ("/a", "a", false),
    ("a//b", "a//b", true),
    ("a//b", "a/b", false),
    ("+", "a", true),
    ("+", "a/b", false),
    ("+", "/a", false),
    ("+/+", "/a", true),
    ("/+", "/a", true),
    ("+", "$a", false),
    ("+/a", "$SYS/a", false),
    ("a/+/c", "a/b/c", true),
    ("a/+/c", "a//c", true),
    ("a/+/c", "a/b/d", false),
    ("a/+", "a", false),
    ("a/+", "a/", true),
    ("a/+", "a/b/c", false),
    ("+/b", "a/b", true),
    ("#", "a", true),
    ("#", "a/b/c", true),
    ("#", "/", true),
    ("#", "$SYS/a", false),
    ("a/#", "a", true),
    ("a/#", "a/", true),
    ("a/#", "a/b/c", true),
    ("a/#", "ab", false),
    ("a/#", "a b", false),
    ("/#", "/a", true),
    ("/#", "a", false),
    ("+/#", "a", true),
    ("+/#", "a/b", true),
    ("+/#", "$SYS", false),
    ("+/#", "$SYS/a", false),
    ("a/+/#", "a/b", true),
    ("a/+/#", "a", false),
    ("a/b/#", "a", false),
    ("$SYS/#", "$SYS/a", true),
    ("$SYS/#", "$SYS", true),
    ("$SYS/+", "$SYS/a", true),
    ("a/+", "a/$b", true),
    ("a/#", "a/$b", true),
    ("a+", "a+", true),
    ("a+", "ab", false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_cases_holds() {
        for (filter, topic, expected) in CASES {
            assert_eq!(matches(filter, topic), *expected, "{filter:?} against {topic:?}");
        }
    }

    #[test]
    fn only_whole_levels_are_wildcards() {
        for filter in ["#", "+", "a/#", "a/+", "+/a", "a/+/b", "/+", "/#"] {
            assert!(is_wildcard(filter), "{filter:?}");
        }
        for filter in ["", "a", "a/b", "a+", "a#", "a+/b", "/", "a/#b"] {
            assert!(!is_wildcard(filter), "{filter:?}");
        }
    }
}
