//! A message as it comes back out of the log: its times, on the clock of this process.
//!
//! The log has times of day, and the time of day may have been set since. A message that was accepted later
//! than now, as far as the clocks can tell, counts as accepted now: a clock that was set back
//! lets time stand still, and nothing expires early, nor later than its whole interval from now.

use super::record::{EXPIRY_NONE, Record};
use crate::message::MessageHead;
use crate::time::Nanos;
use core::time::Duration;

/// One moment on both clocks, to turn times of the log into times of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clocks {
    /// On the process's clock.
    pub now: Nanos,
    /// In milliseconds since 1970.
    pub unix_ms: u64,
}

impl Clocks {
    /// How long ago a time of the log was; nothing if it is still to come.
    #[must_use]
    pub fn since(&self, unix_ms: u64) -> Duration {
        Duration::from_millis(self.unix_ms.saturating_sub(unix_ms))
    }

    /// When something is due that comes `after` a time of the log: now, or later.
    #[must_use]
    pub fn due(&self, unix_ms: u64, after: Duration) -> Nanos {
        self.now + after.saturating_sub(self.since(unix_ms))
    }

    /// The head of a message that was accepted at `unix_ms`, without a publisher, with QoS 0 and not
    /// retained. What was accepted before the process's clock began counts as accepted then; when
    /// it expires does not depend on that. `expiry_secs` is `None` for a message that does not.
    #[must_use]
    pub fn head(&self, unix_ms: u64, expiry_secs: Option<u32>) -> MessageHead {
        let age = u64::try_from(self.since(unix_ms).as_nanos()).unwrap_or(u64::MAX);
        let expires = expiry_secs.map(|secs| self.due(unix_ms, Duration::from_secs(secs.into())));
        MessageHead {
            publisher: 0,
            accepted_at: Nanos(self.now.0.saturating_sub(age)),
            expires_at: expires.unwrap_or(Nanos::NEVER),
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 0,
            retain: false,
        }
    }
}

/// The message expiry interval of a record, in seconds; `None` if it does not expire.
#[must_use]
pub fn expiry_of(record: &Record<'_>) -> Option<u32> {
    Some(record.head.expiry_secs).filter(|secs| *secs != EXPIRY_NONE)
}

/// The head of the message that a record of a publish holds. `publisher` is the keyed hash of its
/// client identifier.
#[must_use]
pub fn head_of(record: &Record<'_>, publisher: u64, clocks: &Clocks) -> MessageHead {
    MessageHead {
        publisher,
        qos: record.head.flags.qos(),
        retain: record.head.flags.retain(),
        ..clocks.head(record.head.unix_ms, expiry_of(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Offset;
    use crate::log::record::{RecordFlags, RecordHead, RecordKind};

    const CLOCKS: Clocks = Clocks { now: Nanos::from_secs(100), unix_ms: 1_000_000 };

    fn record(unix_ms: u64, expiry_secs: u32) -> Record<'static> {
        let head = RecordHead {
            offset: Offset(9),
            unix_ms,
            epoch: 3,
            kind: RecordKind::PUBLISH,
            flags: RecordFlags::new(2, true),
            packet_id: 5,
            expiry_secs,
        };
        Record { head, client_id: "c", topic: "a/b", properties: &[1, 2], payload: b"21.5" }
    }

    #[test]
    fn a_head_is_what_was_published() {
        let head = head_of(&record(990_000, 30), 77, &CLOCKS);
        assert_eq!((head.publisher, head.qos, head.retain), (77, 2, true));
        assert_eq!(head.accepted_at, Nanos::from_secs(90));
        assert_eq!(head.expires_at, Nanos::from_secs(120));
        assert_eq!(head_of(&record(990_000, EXPIRY_NONE), 77, &CLOCKS).expires_at, Nanos::NEVER);
    }

    /// The time of day when it was accepted, in ms since 1970, is 1,000,000 in every case.
    fn accepted_and_expires(unix_ms: u64) -> (u64, u64) {
        let clocks = Clocks { unix_ms, ..CLOCKS };
        let head = clocks.head(1_000_000, Some(30));
        (head.accepted_at.0 / 1_000_000_000, head.expires_at.0 / 1_000_000_000)
    }

    #[test]
    fn a_clock_that_was_set_back_lets_time_stand_still() {
        assert_eq!(accepted_and_expires(999_999), (100, 130), "by a millisecond");
        assert_eq!(accepted_and_expires(400_000), (100, 130), "by ten minutes");
        assert_eq!(accepted_and_expires(0), (100, 130), "to 1970");
    }

    #[test]
    fn a_clock_that_was_set_forward_lets_the_interval_pass() {
        assert_eq!(accepted_and_expires(1_020_000), (80, 110));
        assert_eq!(
            accepted_and_expires(1_031_000),
            (69, 100),
            "it has expired, and not before now"
        );
        assert_eq!(accepted_and_expires(1_200_000), (0, 100), "before this process began");
        assert_eq!(accepted_and_expires(u64::MAX), (0, 100));
        let late = Clocks { unix_ms: 1_200_000, ..CLOCKS }.head(1_000_000, Some(300));
        assert_eq!(late.expires_at, Nanos::from_secs(200), "what is left does not shrink");
    }
}
