//! Topic names and topic filters: what is well-formed, and what matches what.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::text;
use core::fmt;

/// What a filter of a shared subscription begins with (Source: MQTT5 §4.8.2).
pub(crate) const SHARE_PREFIX: &str = "$share/";

/// Bytes of the longest topic name or filter (Source: MQTT-4.7.3-3).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Whether a message may be published to this topic: 1 to 65,535 bytes, no wildcard, no U+0000.
///
/// Source: MQTT-3.3.2-2, MQTT-4.7.0-1, MQTT-4.7.3-1, MQTT-4.7.3-2, MQTT-4.7.3-3.
#[inline]
#[must_use]
pub fn is_valid_name(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= TOPIC_BYTES_MAX
        && !text::holds_any(topic.as_bytes(), |byte| matches!(byte, 0 | b'+' | b'#'))
}

/// How many levels a topic name or filter has: one more than it has slashes.
#[inline]
#[must_use]
pub fn level_count(topic: &str) -> usize {
    topic.bytes().filter(|&byte| byte == b'/').count().saturating_add(1)
}

/// A topic filter whose form has been checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TopicFilter<'a> {
    /// The group's name, if it is a shared subscription.
    pub share: Option<&'a str>,
    /// The filter that topic names are matched against, without `$share/` and the group's name.
    pub filter: &'a str,
    /// Levels of `filter`: at least 1.
    pub levels: usize,
    /// Whether `filter` holds `+` or `#`.
    pub has_wildcard: bool,
}

impl<'a> TopicFilter<'a> {
    /// Checks a filter as it was sent.
    ///
    /// # Errors
    /// One per rule; a server answers SUBACK `0x8F` (before MQTT 5: `0x80`).
    pub fn parse(input: &'a str) -> Result<Self, TopicError> {
        if input.is_empty() {
            return Err(TopicError::Empty);
        }
        if input.len() > TOPIC_BYTES_MAX {
            return Err(TopicError::TooLong);
        }
        let (share, filter) = split_share(input)?;
        let (levels, has_wildcard) = check_levels(filter)?;
        Ok(Self { share, filter, levels, has_wildcard })
    }
}

/// Takes `$share/{name}/` off (Source: MQTT-4.8.2-1, MQTT-4.8.2-2). `$share` alone is an ordinary
/// filter of one level.
fn split_share(input: &str) -> Result<(Option<&str>, &str), TopicError> {
    let Some(behind) = input.strip_prefix(SHARE_PREFIX) else { return Ok((None, input)) };
    let (name, filter) = behind.split_once('/').ok_or(TopicError::ShareWithoutFilter)?;
    if name.is_empty() {
        return Err(TopicError::ShareNameEmpty);
    }
    if name.contains(['+', '#']) {
        return Err(TopicError::ShareNameWildcard);
    }
    if filter.is_empty() {
        return Err(TopicError::ShareWithoutFilter);
    }
    if name.contains('\0') {
        return Err(TopicError::Nul);
    }
    Ok((Some(name), filter))
}

/// Counts levels and checks the wildcards (Source: MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-2).
fn check_levels(filter: &str) -> Result<(usize, bool), TopicError> {
    let mut levels = 0usize;
    let mut has_wildcard = false;
    let mut ended = false;
    for level in filter.split('/') {
        if ended {
            return Err(TopicError::MultiLevelNotLast);
        }
        levels = levels.saturating_add(1);
        match level {
            "#" => {
                has_wildcard = true;
                ended = true;
            }
            "+" => has_wildcard = true,
            _ => check_level(level)?,
        }
    }
    Ok((levels, has_wildcard))
}

fn check_level(level: &str) -> Result<(), TopicError> {
    for byte in level.bytes() {
        match byte {
            b'#' => return Err(TopicError::MultiLevelNotAlone),
            b'+' => return Err(TopicError::SingleLevelNotAlone),
            0 => return Err(TopicError::Nul),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a message published to `topic` is of interest to a subscription with `filter`.
///
/// `filter` is what [`TopicFilter::filter`] holds; on anything else the answer is without meaning.
/// `#` matches the level above it as well (`a/#` matches `a`), and a filter that begins with a
/// wildcard never matches a topic that begins with `$`.
///
/// Source: MQTT5 §4.7.1, MQTT-4.7.2-1, MQTT-4.7.3-4.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut filters = filter.split('/');
    let mut topics = topic.split('/');
    loop {
        match (filters.next(), topics.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(filter), Some(topic)) if filter == topic => {}
            _ => return false,
        }
    }
}

/// Why a topic filter is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicError {
    /// It has no character [MQTT-4.7.3-1].
    Empty,
    /// It has more than 65,535 bytes [MQTT-4.7.3-3].
    TooLong,
    /// It holds U+0000 [MQTT-4.7.3-2].
    Nul,
    /// `#` is not the last level [MQTT-4.7.1-1].
    MultiLevelNotLast,
    /// `#` shares a level with other characters [MQTT-4.7.1-1].
    MultiLevelNotAlone,
    /// `+` shares a level with other characters [MQTT-4.7.1-2].
    SingleLevelNotAlone,
    /// `$share//...`: the group has no name [MQTT-4.8.2-1].
    ShareNameEmpty,
    /// The group's name holds a wildcard [MQTT-4.8.2-2].
    ShareNameWildcard,
    /// `$share/name` without a filter behind it [MQTT-4.8.2-2].
    ShareWithoutFilter,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "topic filter is empty",
            Self::TooLong => "topic filter is longer than 65535 bytes",
            Self::Nul => "topic filter holds U+0000",
            Self::MultiLevelNotLast => "# is not the last level",
            Self::MultiLevelNotAlone => "# shares its level with other characters",
            Self::SingleLevelNotAlone => "+ shares its level with other characters",
            Self::ShareNameEmpty => "shared subscription without a group name",
            Self::ShareNameWildcard => "group name holds a wildcard",
            Self::ShareWithoutFilter => "shared subscription without a topic filter",
        })
    }
}

impl core::error::Error for TopicError {}
