//! Which records are wanted: partitions, from and to, a topic filter.

use clap::Args;
use ringlane_dataplane::log::record::{Record, RecordKind};
use ringlane_mqtt::topic::{TopicFilter, matches};
use std::time::{SystemTime, UNIX_EPOCH};

/// Which records.
#[derive(Clone, Debug, Args)]
pub(crate) struct Selection {
    /// Only this partition; may be repeated
    #[arg(long, value_name = "N")]
    pub(super) partition: Vec<u32>,
    /// Where to begin: an offset, earliest, latest, @UNIX_MS, or -15m (s, m, h, d ago)
    #[arg(long, value_name = "FROM", default_value = "earliest", allow_hyphen_values = true,
          value_parser = parse_from)]
    pub(super) from: From,
    /// Where to end, exclusive: an offset, @UNIX_MS, or -15m
    #[arg(long, value_name = "TO", allow_hyphen_values = true, value_parser = parse_to)]
    pub(super) to: Option<To>,
    /// Only messages whose topic matches this filter
    #[arg(long, value_name = "FILTER", value_parser = parse_filter)]
    pub(super) topic: Option<String>,
    /// State records of sessions, too
    #[arg(long, conflicts_with = "topic")]
    pub(super) state: bool,
}

/// Where to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum From {
    /// With the first record that is kept.
    Earliest,
    /// With what is appended from now on.
    Latest,
    /// With this offset.
    Offset(u64),
    /// With the first record accepted then or later (Unix time, ms).
    Time(u64),
}

/// Where to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum To {
    /// Before this offset.
    Offset(u64),
    /// Before the first record accepted then or later (Unix time, ms).
    Time(u64),
}

impl Selection {
    /// Whether a record is one of those that are printed, wherever it lies.
    pub(super) fn takes(&self, record: &Record<'_>) -> bool {
        if record.head.kind != RecordKind::PUBLISH {
            return self.state;
        }
        self.topic.as_ref().is_none_or(|filter| matches(filter, record.topic))
    }
}

impl To {
    /// Whether a record lies behind the end.
    pub(super) fn is_before(self, record: &Record<'_>) -> bool {
        match self {
            Self::Offset(offset) => offset <= record.head.offset.0,
            Self::Time(unix_ms) => unix_ms <= record.head.unix_ms,
        }
    }
}

fn parse_from(text: &str) -> Result<From, String> {
    match text {
        "earliest" => Ok(From::Earliest),
        "latest" => Ok(From::Latest),
        _ => Ok(match parse_to(text)? {
            To::Offset(offset) => From::Offset(offset),
            To::Time(unix_ms) => From::Time(unix_ms),
        }),
    }
}

fn parse_to(text: &str) -> Result<To, String> {
    let number = |digits: &str| digits.parse::<u64>().map_err(|_| format!("{text:?} is no place"));
    if let Some(unix_ms) = text.strip_prefix('@') {
        return number(unix_ms).map(To::Time);
    }
    let Some(ago) = text.strip_prefix('-') else { return number(text).map(To::Offset) };
    let unit = ago.chars().last().unwrap_or(' ');
    let millis = match unit {
        's' => 1000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(format!("{text:?} has no unit: s, m, h or d")),
    };
    let ago = number(&ago[..ago.len() - 1])?.saturating_mul(millis);
    Ok(To::Time(unix_ms_now().saturating_sub(ago)))
}

fn parse_filter(text: &str) -> Result<String, String> {
    match TopicFilter::parse(text) {
        Ok(filter) if filter.share.is_none() => Ok(text.to_owned()),
        Ok(_) => Err("a shared subscription is no topic filter".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn unix_ms_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!(parse_from("earliest"), Ok(From::Earliest));
        assert_eq!(parse_from("latest"), Ok(From::Latest));
        assert_eq!(parse_from("123"), Ok(From::Offset(123)));
        assert_eq!(parse_from("@1700000000000"), Ok(From::Time(1_700_000_000_000)));
        let now = unix_ms_now();
        for (text, ago) in [("-90s", 90_000), ("-15m", 900_000), ("-2h", 7_200_000)] {
            let Ok(To::Time(time)) = parse_to(text) else { panic!("{text}") };
            assert!((now - ago..now - ago + 60_000).contains(&time), "{text}: {time}");
        }
        for wrong in ["", "-", "-15", "-m", "@", "@x", "x", "1x", "-1w", "p3@1"] {
            assert!(parse_from(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_to("latest").is_err());
    }

    #[test]
    fn filters_are_checked() {
        assert_eq!(parse_filter("a/+/#"), Ok("a/+/#".to_owned()));
        assert!(parse_filter("a/#/b").is_err() && parse_filter("$share/g/a").is_err());
    }
}
