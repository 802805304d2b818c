//! The name of a replay subscription: `$replay/{from}/{filter}`.

use super::token::{self, Position};
use ringlane_mqtt::topic::TopicFilter;
use std::borrow::Cow;
use std::time::Duration;

/// What the filters of replay subscriptions begin with.
pub(crate) const PREFIX: &str = "$replay/";

/// What is said of a `from` that is none.
const FROM_HELP: &str = "what follows $replay/ is earliest, latest, @{unix ms}, -{duration} such as \
                         -30s, -15m, -2h or -7d, p{partition}@{offset}, or a token of this node";
const FILTER_HELP: &str = "$replay/{from}/ is followed by a topic filter of its own";

/// Where reading begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum From {
    Earliest,
    Latest,
    /// Unix time, ms.
    Time(u64),
    /// So long before now.
    Ago(Duration),
    /// One partition, from an offset on.
    Offset(u32, u64),
    /// Where an earlier subscription came to.
    Token(Vec<Position>),
}

/// A name, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name<'a> {
    pub(crate) from: From,
    /// Which replay of its session it is, and what topics are matched against.
    pub(crate) filter: &'a str,
}

/// Whether a filter asks for reading again; it may be malformed.
pub(crate) fn is_replay(filter: &str) -> bool {
    filter.starts_with(PREFIX)
}

/// The filter part of a name, whatever stands before it.
pub(crate) fn filter_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)?.split_once('/').map(|(_, filter)| filter)
}

/// What is kept of a name: with the word `token` for a token, which may be long, and says nothing once
/// reading has begun.
pub(crate) fn kept<'a>(name: &'a str, parsed: &Name<'_>) -> Cow<'a, str> {
    match parsed.from {
        From::Token(_) => format!("{PREFIX}token/{}", parsed.filter).into(),
        _ => name.into(),
    }
}

/// Whether `$replay/{token}/{filter}` is short enough for a client to subscribe to (MQTT5 §1.5.4).
pub(crate) fn has_room_for(token: &str, filter: &str) -> bool {
    PREFIX.len() + token.len() + 1 + filter.len() <= usize::from(u16::MAX)
}

/// Takes a name apart. Tokens are checked against the `seed` of this node.
///
/// # Errors
/// What would be right, for the client to read.
pub(crate) fn parse(name: &str, seed: u32) -> Result<Name<'_>, &'static str> {
    let rest = name.strip_prefix(PREFIX).ok_or(FILTER_HELP)?;
    let (from, filter) = rest.split_once('/').ok_or(FILTER_HELP)?;
    let parsed = TopicFilter::parse(filter).map_err(|_| FILTER_HELP)?;
    if parsed.share.is_some() || is_replay(filter) {
        return Err(FILTER_HELP);
    }
    let from = parse_from(from, seed).ok_or(FROM_HELP)?;
    Ok(Name { from, filter })
}

fn parse_from(text: &str, seed: u32) -> Option<From> {
    match text {
        "earliest" => return Some(From::Earliest),
        "latest" => return Some(From::Latest),
        _ => {}
    }
    if let Some(time) = text.strip_prefix('@') {
        return number(time).map(From::Time);
    }
    if let Some(ago) = text.strip_prefix('-') {
        return duration(ago).map(From::Ago);
    }
    if let Some((partition, offset)) = text.strip_prefix('p').and_then(|rest| rest.split_once('@'))
    {
        let partition = u32::try_from(number(partition)?).ok()?;
        return Some(From::Offset(partition, number(offset)?));
    }
    token::decode(text, seed).map(From::Token)
}

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

/// Digits alone: no sign, no space, and no more of them than a number has.
fn number(text: &str) -> Option<u64> {
    let digits =
        (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, unit) = text.split_at(unit_at);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number(count)?.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Result<From, &'static str> {
        parse(&format!("$replay/{text}/a/#"), 7).map(|name| name.from)
    }

    #[test]
    fn each_form_is_read() {
        assert_eq!(from("earliest"), Ok(From::Earliest));
        assert_eq!(from("latest"), Ok(From::Latest));
        assert_eq!(from("@1700000000000"), Ok(From::Time(1_700_000_000_000)));
        assert_eq!(from("-15m"), Ok(From::Ago(Duration::from_secs(900))));
        assert_eq!(from("-2h"), Ok(From::Ago(Duration::from_secs(7200))));
        assert_eq!(from("-30s"), Ok(From::Ago(Duration::from_secs(30))));
        assert_eq!(from("-7d"), Ok(From::Ago(Duration::from_secs(7 * 86_400))));
        assert_eq!(from("p3@123"), Ok(From::Offset(3, 123)));
        let positions = vec![Position { partition: 1, epoch: 2, next: 3 }];
        let token = token::encode(&positions, 7);
        assert_eq!(from(&token), Ok(From::Token(positions)));
        assert_eq!(parse("$replay/latest/+/b", 7).map(|name| name.filter), Ok("+/b"));
        assert_eq!(filter_of("$replay/anything/+/b"), Some("+/b"));
        let kept = |name: &str| kept(name, &parse(name, 7).expect("a name")).into_owned();
        assert_eq!(kept(&format!("$replay/{token}/a/#")), "$replay/token/a/#");
        assert_eq!(kept("$replay/p3@123/a/#"), "$replay/p3@123/a/#");
        assert_eq!(from("@18446744073709551615"), Ok(From::Time(u64::MAX)));
    }

    #[test]
    fn what_is_none_is_told_what_would_be() {
        for bad in [
            "",
            "Earliest",
            "@",
            "@-1",
            "@+1",
            "-",
            "-15",
            "-m",
            "--5m",
            "-1.5h",
            "-99999999999999999d",
            "p@1",
            "p1@",
            "p-1@0",
            "p4294967296@0",
            "+",
            "#",
            "AAAA",
            "-5m ",
            "@000000000000000000001",
            "-000000000000000000001m",
        ] {
            assert_eq!(from(bad), Err(FROM_HELP), "{bad:?}");
        }
        let foreign = token::encode(&[Position { partition: 1, epoch: 2, next: 3 }], 8);
        assert_eq!(from(&foreign), Err(FROM_HELP), "a token of another node");
        for bad in [
            "$replay/",
            "$replay/earliest",
            "$replay/earliest/",
            "$replay/earliest/a/#/b",
            "$replay/earliest/$share/g/a",
            "$replay/earliest/$replay/latest/a",
        ] {
            assert_eq!(parse(bad, 7), Err(FILTER_HELP), "{bad:?}");
        }
    }
}
