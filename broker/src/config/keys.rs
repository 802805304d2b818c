//! The keys that exist, taken from the types, and the one that was probably meant.

use super::Config;
use toml::Value;

/// A key that can be set.
#[derive(Clone, PartialEq, Debug)]
pub struct Key {
    /// With its sections, such as `mqtt.max_packet_size`.
    pub name: String,
    /// Its default.
    pub default: Value,
}

/// All keys, section by section: those outside of any section come first, as TOML wants it.
///
/// # Panics
/// Never: every value of the configuration has a form in TOML, which a test holds.
#[must_use]
pub fn known_keys() -> Vec<Key> {
    keys_of(&Config::default())
}

/// All keys with the values of `config`.
pub(super) fn keys_of(config: &Config) -> Vec<Key> {
    let value = Value::try_from(config).expect("every configuration value has a form in TOML");
    let mut keys = Vec::new();
    let mut open = vec![(String::new(), value)];
    while let Some((name, value)) = open.pop() {
        match value {
            Value::Table(table) => {
                open.extend(table.into_iter().map(|(key, value)| (join(&name, &key), value)));
            }
            default => keys.push(Key { name, default }),
        }
    }
    keys.sort_by(|a, b| split(&a.name).cmp(&split(&b.name)));
    keys
}

/// `section` and `key` as one name.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Section and last part of a name.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// The candidate that `word` was probably meant to be: the nearest one, if it is near enough that
/// a person would see the likeness (at most a third of the letters differ).
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    candidates
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| 3 * distance <= word.len().max(candidate.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`; the restricted
/// Damerau-Levenshtein distance, by bytes.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if 0 < i && 0 < j && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_once() {
        let keys = known_keys();
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        assert!(names.contains(&"data_dir"));
        assert!(names.contains(&"listeners.websocket.allowed_origins"));
        assert!(names.contains(&"mqtt.server_reference"));
        assert!(!names.contains(&"mqtt"));
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn the_nearest_word_is_the_one_that_was_meant() {
        let words = ["max_packet_size", "max_connect_size", "bind", "enabled"];
        let cases = [
            ("max_paket_size", Some("max_packet_size")),
            ("MAX_PACKET_SIZE", Some("max_packet_size")),
            ("bnid", Some("bind")),
            ("enable", Some("enabled")),
            ("zebra", None),
            ("x", None),
            ("", None),
        ];
        for (word, meant) in cases {
            assert_eq!(nearest(word, words.iter().copied()), meant, "{word}");
        }
    }

    #[test]
    fn distances_count_edits() {
        let cases = [("", "", 0), ("a", "", 1), ("", "ab", 2), ("ab", "ba", 1), ("abc", "adc", 1)];
        for (a, b, edits) in cases {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
