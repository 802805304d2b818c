//! A message as it comes back out of the log.

use super::record::{EXPIRY_NONE, Record};
use crate::message::{Message, MessageHead, MessageMeter};
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
    /// A time of the log on the process's clock. What lies before the process's clock began is
    /// its beginning.
    #[must_use]
    pub fn at(&self, unix_ms: u64) -> Nanos {
        let apart = Duration::from_millis(self.unix_ms.abs_diff(unix_ms));
        if self.unix_ms <= unix_ms {
            return self.now + apart;
        }
        let nanos = u64::try_from(apart.as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.now.0.saturating_sub(nanos))
    }
}

/// When a message that was stored expires; [`Nanos::NEVER`] if it does not.
#[must_use]
pub fn expires_at(record: &Record<'_>, clocks: &Clocks) -> Nanos {
    if record.head.expiry_secs == EXPIRY_NONE {
        return Nanos::NEVER;
    }
    let interval = u64::from(record.head.expiry_secs) * 1000;
    clocks.at(record.head.unix_ms.saturating_add(interval))
}

/// The message of a record of a publish, in an allocation of its own. `publisher` is the keyed hash
/// of its client identifier.
#[must_use]
pub fn message(
    record: &Record<'_>,
    publisher: u64,
    clocks: &Clocks,
    scratch: &mut Vec<u8>,
    meter: &'static MessageMeter,
) -> Message {
    let head = MessageHead {
        publisher,
        accepted_at: clocks.at(record.head.unix_ms),
        expires_at: expires_at(record, clocks),
        topic_bytes: 0,
        properties_bytes: 0,
        qos: record.head.flags.qos(),
        retain: record.head.flags.retain(),
    };
    let Record { topic, properties, payload, .. } = *record;
    Message::metered(head, topic, properties, payload, scratch, meter)
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
    fn a_message_is_what_was_published() {
        let meter = MessageMeter::leaked();
        let message = message(&record(990_000, 30), 77, &CLOCKS, &mut Vec::new(), meter);
        assert_eq!((message.topic(), message.properties()), ("a/b", &[1, 2][..]));
        assert_eq!(message.payload(), b"21.5");
        let head = message.head();
        assert_eq!((head.publisher, head.qos, head.retain), (77, 2, true));
        assert_eq!(head.accepted_at, Nanos::from_secs(90));
        assert_eq!(head.expires_at, Nanos::from_secs(120));
        assert!(message.is_lasting());
    }

    #[test]
    fn times_that_no_clock_of_this_process_had_are_its_ends() {
        assert_eq!(expires_at(&record(990_000, EXPIRY_NONE), &CLOCKS), Nanos::NEVER);
        assert_eq!(CLOCKS.at(0), Nanos(0), "long before this process");
        assert_eq!(CLOCKS.at(1_001_000), Nanos::from_secs(101), "the clock jumped back");
        assert_eq!(CLOCKS.at(u64::MAX), Nanos(u64::MAX));
    }
}
