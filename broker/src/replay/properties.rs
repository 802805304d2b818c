//! The user properties that tell a client of MQTT 5 what it is reading (docs/replay.md).

use ringlane_dataplane::ids::PartitionId;
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
pub(super) fn put_place(out: &mut Vec<u8>, partition: PartitionId, offset: u64, unix_ms: u64) {
    user_property(out, PARTITION, &partition.0.to_string());
    user_property(out, OFFSET, &offset.to_string());
    user_property(out, TIME, &unix_ms.to_string());
}

/// Takes the place off again, which is the last thing there.
pub(super) fn cut_place(from: &mut Vec<u8>, partition: PartitionId, offset: u64, unix_ms: u64) {
    let mut place = Vec::new();
    put_place(&mut place, partition, offset, unix_ms);
    if from.ends_with(&place) {
        from.truncate(from.len() - place.len());
    }
}

pub(super) fn put_token(out: &mut Vec<u8>, token: &str) {
    user_property(out, TOKEN, token);
}

pub(super) fn put_note(out: &mut Vec<u8>, note: &str) {
    user_property(out, NOTE, note);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_put_and_cut() {
        let mut properties = b"own".to_vec();
        put_place(&mut properties, PartitionId(3), 7, 1_700_000_000_000);
        let with_place = properties.clone();
        cut_place(&mut properties, PartitionId(3), 7, 1_700_000_000_000);
        assert_eq!(properties, b"own");
        cut_place(&mut properties, PartitionId(3), 7, 1_700_000_000_000);
        assert_eq!(properties, b"own", "it is there once");
        properties.clone_from(&with_place);
        cut_place(&mut properties, PartitionId(3), 8, 1_700_000_000_000);
        assert_eq!(properties, with_place, "another one");
    }
}
