//! The user properties that tell a client of MQTT 5 what it is reading (docs/replay.md).

use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::log::record::RecordHead;
use ringlane_mqtt::encode::user_property;

/// The number of the partition.
const PARTITION: &str = "ringlane-partition";
/// The offset of the message in its partition.
const OFFSET: &str = "ringlane-offset";
/// When the broker accepted it (Unix time, ms).
const TIME: &str = "ringlane-time";
/// Where a later subscription goes on behind this message.
const TOKEN: &str = "ringlane-token";
/// What could not be read, or why reading goes on elsewhere.
const NOTE: &str = "ringlane-note";

/// Where a message lies.
pub(super) fn put_place(out: &mut Vec<u8>, partition: PartitionId, head: &RecordHead) {
    user_property(out, PARTITION, &partition.0.to_string());
    user_property(out, OFFSET, &head.offset.0.to_string());
    user_property(out, TIME, &head.unix_ms.to_string());
}

pub(super) fn put_token(out: &mut Vec<u8>, token: &str) {
    user_property(out, TOKEN, token);
}

pub(super) fn put_note(out: &mut Vec<u8>, note: &str) {
    user_property(out, NOTE, note);
}
