//! Sizes and durations as operators write them: `64KiB`, `10s`, or plain numbers.

use serde::de::{Error, Unexpected, Visitor};
use std::fmt;
use std::time::Duration;

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

const DURATIONS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

/// Parses a number with one of the units; a number without a unit counts `plain` each.
fn parse(text: &str, units: &[(&str, u64)], plain: u64) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim_start();
    let factor =
        if unit.is_empty() { plain } else { units.iter().find(|(name, _)| *name == unit)?.1 };
    number.checked_mul(factor)
}

/// Bytes of a size such as `1MiB`, `64 KiB` or `1000`.
fn parse_size(text: &str) -> Option<u64> {
    parse(text.trim(), &SIZES, 1)
}

/// A duration such as `10s`, `500ms`, `5m`, `1h`, or plain seconds.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    parse(text.trim(), &DURATIONS, 1_000_000_000).map(Duration::from_nanos)
}

fn render_size(bytes: u64) -> Option<String> {
    let (unit, factor) = SIZES.iter().find(|(_, factor)| bytes.is_multiple_of(*factor))?;
    (bytes != 0 && 1 < *factor).then(|| format!("{}{unit}", bytes / factor))
}

fn render_duration(duration: Duration) -> String {
    const ORDER: [&str; 7] = ["d", "h", "m", "s", "ms", "us", "ns"];
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 {
        return "0s".to_owned();
    }
    let unit_of = |name: &str| DURATIONS.iter().find(|(unit, _)| *unit == name).map(|u| u.1);
    ORDER
        .iter()
        .filter_map(|name| Some((name, unit_of(name)?)))
        .find(|(_, factor)| nanos.is_multiple_of(*factor))
        .map_or_else(|| format!("{nanos}ns"), |(name, factor)| format!("{}{name}", nanos / factor))
}

struct NumberVisitor {
    expecting: &'static str,
    parse: fn(&str) -> Option<u64>,
    plain: u64,
}

impl Visitor<'_> for NumberVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        let wrong = || E::invalid_value(Unexpected::Signed(number), &self);
        let number = u64::try_from(number).map_err(|_| wrong())?;
        number.checked_mul(self.plain).ok_or_else(wrong)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        let wrong = || E::invalid_value(Unexpected::Unsigned(number), &self);
        number.checked_mul(self.plain).ok_or_else(wrong)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// Sizes in bytes, for any unsigned integer field.
pub(super) mod size {
    use super::{Error, NumberVisitor, Unexpected, parse_size, render_size};
    use serde::{Deserializer, Serializer};

    pub(in crate::config) fn serialize<T, S>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Copy + Into<u64>,
        S: Serializer,
    {
        let bytes: u64 = (*bytes).into();
        match render_size(bytes) {
            Some(text) => serializer.serialize_str(&text),
            None => serializer.serialize_u64(bytes),
        }
    }

    pub(in crate::config) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: TryFrom<u64>,
        D: Deserializer<'de>,
    {
        const EXPECTING: &str = "a size in bytes such as 65536, \"64KiB\", \"1MiB\" or \"1GiB\"";
        let visitor = NumberVisitor { expecting: EXPECTING, parse: parse_size, plain: 1 };
        let bytes = deserializer.deserialize_any(visitor)?;
        T::try_from(bytes).map_err(|_| {
            let bits = 8 * size_of::<T>();
            let limit = format!("a size that fits into {bits} bits");
            D::Error::invalid_value(Unexpected::Unsigned(bytes), &limit.as_str())
        })
    }
}

/// Durations.
pub(super) mod duration {
    use super::{Duration, NumberVisitor, parse_duration, render_duration};
    use serde::{Deserializer, Serializer};

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&render_duration(*duration))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        const EXPECTING: &str =
            "a duration: seconds, or a number with ms, s, m, h or d such as \"500ms\"";
        let parse = |text: &str| {
            let duration = parse_duration(text)?;
            u64::try_from(duration.as_nanos()).ok()
        };
        let visitor = NumberVisitor { expecting: EXPECTING, parse, plain: 1_000_000_000 };
        deserializer.deserialize_any(visitor).map(Duration::from_nanos)
    }
}

/// Text that is absent when empty, so that every key has a value that can be shown.
pub(super) mod optional_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::config) fn serialize<S: Serializer>(
        text: &Option<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text.as_deref().unwrap_or_default())
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<String>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok((!text.is_empty()).then_some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown_with_their_unit() {
        let cases = [
            ("0", Some(0), None),
            ("1", Some(1), None),
            ("1000", Some(1000), None),
            ("1KiB", Some(1024), Some("1KiB")),
            ("64 KiB", Some(65_536), Some("64KiB")),
            ("1536KiB", Some(1_572_864), Some("1536KiB")),
            ("2MiB", Some(2 << 20), Some("2MiB")),
            ("1GiB", Some(1 << 30), Some("1GiB")),
            ("12B", Some(12), None),
            ("1KB", None, None),
            ("KiB", None, None),
            ("-1", None, None),
            ("1.5MiB", None, None),
            ("99999999999GiB", None, None),
            ("", None, None),
        ];
        for (text, bytes, shown) in cases {
            assert_eq!(parse_size(text), bytes, "{text}");
            let rendered = bytes.and_then(render_size);
            assert_eq!(rendered.as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn durations_are_read_and_shown_with_their_unit() {
        let cases = [
            ("10", Some(Duration::from_secs(10)), "10s"),
            ("10s", Some(Duration::from_secs(10)), "10s"),
            ("500ms", Some(Duration::from_millis(500)), "500ms"),
            ("50us", Some(Duration::from_micros(50)), "50us"),
            ("5m", Some(Duration::from_secs(300)), "5m"),
            ("90m", Some(Duration::from_secs(5400)), "90m"),
            ("1h", Some(Duration::from_secs(3600)), "1h"),
            ("2d", Some(Duration::from_secs(172_800)), "2d"),
            ("0", Some(Duration::ZERO), "0s"),
            ("10 sec", None, ""),
            ("1.5s", None, ""),
            ("s", None, ""),
        ];
        for (text, duration, shown) in cases {
            assert_eq!(parse_duration(text), duration, "{text}");
            assert_eq!(duration.map(render_duration).unwrap_or_default(), shown, "{text}");
        }
    }
}
