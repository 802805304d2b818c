//! A client identifier as a session keeps it.

/// Bytes of an identifier that lie in the session itself: those that every server must accept
/// [MQTT-3.1.3-5] but one, and those that this broker assigns.
const INLINE_BYTES: usize = 22;

/// A client identifier, without an allocation of its own if it is short.
#[derive(Debug)]
pub(crate) enum ClientId {
    Short { length: u8, bytes: [u8; INLINE_BYTES] },
    Long(Box<str>),
}

impl ClientId {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(text) => text.as_bytes(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl From<&str> for ClientId {
    fn from(text: &str) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        match bytes.get_mut(..text.len()) {
            Some(start) => {
                start.copy_from_slice(text.as_bytes());
                Self::Short { length: text.len() as u8, bytes }
            }
            None => Self::Long(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_every_length_are_kept_whole() {
        for length in [0, 1, 21, 22, 23, 1024] {
            let text = "é".repeat(length / 2) + &"x".repeat(length % 2);
            let id = ClientId::from(text.as_str());
            assert_eq!(id.as_bytes(), text.as_bytes());
            assert_eq!(matches!(id, ClientId::Short { .. }), length <= INLINE_BYTES);
        }
        assert_eq!(size_of::<ClientId>(), 24);
    }
}
