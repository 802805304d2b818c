//! A second, naive opinion on topic filters: recursive, level by level, by the letter of
//! section 4.7 of the specification.

use ringlane_mqtt::{TopicFilter, topic};

/// Holds the crate against the model for one filter and one topic name.
pub(crate) fn compare(filter: &str, name: &str) {
    assert_eq!(topic::is_valid_name(name), is_name(name), "name {name:?}");
    let parsed = TopicFilter::parse(filter);
    assert_eq!(parsed.is_ok(), is_filter(filter), "filter {filter:?}: {parsed:?}");
    let Ok(parsed) = parsed else { return };
    check_parts(filter, &parsed);
    if is_name(name) {
        let expected = matches(&levels(parsed.filter), &levels(name));
        assert_eq!(topic::matches(parsed.filter, name), expected, "{filter:?} and {name:?}");
    }
}

fn check_parts(input: &str, parsed: &TopicFilter<'_>) {
    match parsed.share {
        Some(group) => assert_eq!(input, format!("$share/{group}/{}", parsed.filter)),
        None => assert_eq!(input, parsed.filter),
    }
    assert_eq!(parsed.levels, levels(parsed.filter).len());
    assert_eq!(parsed.levels, topic::level_count(parsed.filter));
    assert_eq!(parsed.has_wildcard, parsed.filter.contains(['+', '#']));
    let again = TopicFilter::parse(parsed.filter);
    let nested = parsed.filter.starts_with("$share/");
    assert!(nested || again == Ok(TopicFilter { share: None, ..*parsed }));
}

fn levels(topic: &str) -> Vec<&str> {
    topic.split('/').collect()
}

fn is_name(topic: &str) -> bool {
    (1..=65_535).contains(&topic.len()) && topic.chars().all(|c| !"+#\0".contains(c))
}

fn is_filter(input: &str) -> bool {
    if input.is_empty() || input.len() > 65_535 || input.contains('\0') {
        return false;
    }
    let Some(shared) = input.strip_prefix("$share/") else { return are_levels(&levels(input)) };
    match shared.split_once('/') {
        Some((group, filter)) => {
            !group.is_empty()
                && !group.contains(['+', '#'])
                && !filter.is_empty()
                && are_levels(&levels(filter))
        }
        None => false,
    }
}

fn are_levels(levels: &[&str]) -> bool {
    levels.iter().enumerate().all(|(index, level)| match *level {
        "#" => index + 1 == levels.len(),
        "+" => true,
        level => !level.contains(['+', '#']),
    })
}

/// Section 4.7.1 as a recursion, and 4.7.2 at its top.
fn matches(filter: &[&str], name: &[&str]) -> bool {
    let hidden = name[0].starts_with('$') && matches!(filter[0], "+" | "#");
    !hidden && rest_matches(filter, name)
}

fn rest_matches(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, name @ ..]) => rest_matches(filter, name),
        ([level, filter @ ..], [same, name @ ..]) if level == same => rest_matches(filter, name),
        _ => false,
    }
}
