//! Values that may be left to the program: `""` for none, `"auto"` for what is found at start.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;

/// An address with its port; none if empty.
pub(super) mod address {
    use super::{Deserialize, Deserializer, Error, Serializer, SocketAddr, Unexpected};

    pub(in crate::config) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(""),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        const EXPECTED: &str = "an address with its port such as \"10.0.0.1:7883\", or \"\"";
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        let parsed = text.parse().map(Some);
        parsed.map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
    }
}

/// A number, or `"auto"`.
pub(super) mod auto {
    use super::{AutoVisitor, Deserializer, Error, Serialize, Serializer, Unexpected};

    pub(in crate::config) fn serialize<T: Serialize, S: Serializer>(
        number: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => number.serialize(serializer),
            None => serializer.serialize_str("auto"),
        }
    }

    pub(in crate::config) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: TryFrom<i64>,
        D: Deserializer<'de>,
    {
        let Some(number) = deserializer.deserialize_any(AutoVisitor)? else { return Ok(None) };
        let wrong = |_| D::Error::invalid_value(Unexpected::Signed(number), &AutoVisitor);
        T::try_from(number).map(Some).map_err(wrong)
    }
}

struct AutoVisitor;

impl Visitor<'_> for AutoVisitor {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\" or a small number that is not negative")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Option<i64>, E> {
        Ok(Some(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<i64>, E> {
        match text {
            "auto" => Ok(None),
            // Flags and environment variables are text.
            digits => {
                let number = digits.parse().map(Some);
                number.map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(with = "address")]
        bind: Option<SocketAddr>,
        #[serde(with = "auto")]
        index: Option<u8>,
    }

    #[test]
    fn what_is_left_out_is_shown_as_such_and_read_again() {
        let cases = [
            ("bind = \"\"\nindex = \"auto\"\n", None, None),
            ("bind = \"10.0.0.1:7883\"\nindex = 3\n", Some("10.0.0.1:7883"), Some(3)),
        ];
        for (text, bind, index) in cases {
            let both: Both = toml::from_str(text).unwrap();
            assert_eq!(both, Both { bind: bind.map(|text| text.parse().unwrap()), index });
            assert_eq!(toml::to_string(&both).unwrap(), text);
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_what_would_be_right() {
        let cases = [
            ("bind = \"nowhere\"\nindex = 3", "10.0.0.1:7883"),
            ("bind = \"\"\nindex = 256", "\"auto\" or a small number"),
            ("bind = \"\"\nindex = \"x\"", "\"auto\" or a small number"),
        ];
        for (text, expected) in cases {
            let message = toml::from_str::<Both>(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
