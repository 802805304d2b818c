//! Records and times as text.

use crate::websocket::base64;
use ringlane_dataplane::log::record::{EXPIRY_NONE, Record, RecordKind};
use serde::Serialize;

/// A record as a line of JSON. Bytes that are no UTF-8 come as base64, under another name.
#[derive(Serialize)]
struct RecordLine<'a> {
    partition: u32,
    offset: u64,
    epoch: u64,
    unix_ms: u64,
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    client_id: &'a str,
    topic: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    packet_id: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry_secs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// A record as a line of JSON, with its line end.
pub(super) fn json(partition: u32, record: &Record<'_>) -> String {
    let head = &record.head;
    let is_message = head.kind == RecordKind::PUBLISH;
    let payload = core::str::from_utf8(record.payload).ok().filter(|_| is_message);
    let line = RecordLine {
        partition,
        offset: head.offset.0,
        epoch: head.epoch,
        unix_ms: head.unix_ms,
        kind: head.kind.0,
        qos: is_message.then(|| head.flags.qos()),
        retain: is_message.then(|| head.flags.retain()),
        level: is_message.then(|| if head.flags.memory() { "memory" } else { "local_disk" }),
        client_id: record.client_id,
        topic: record.topic,
        packet_id: head.packet_id,
        expiry_secs: (head.expiry_secs != EXPIRY_NONE).then_some(head.expiry_secs),
        properties_base64: (!record.properties.is_empty()).then(|| base64::text(record.properties)),
        payload,
        payload_base64: payload.is_none().then(|| base64::text(record.payload)),
    };
    let mut text = serde_json::to_string(&line).unwrap_or_default();
    text.push('\n');
    text
}

/// A record as a line for people.
pub(super) fn line(partition: u32, record: &Record<'_>) -> String {
    let head = &record.head;
    let (place, when) = (format!("p{partition}@{}", head.offset.0), time(head.unix_ms));
    if head.kind != RecordKind::PUBLISH {
        let (kind, bytes) = (head.kind.0, record.payload.len());
        let (client, topic) = (record.client_id.escape_debug(), record.topic.escape_debug());
        return format!(
            "{place} {when} state {kind} client={client} topic={topic} {bytes} bytes\n"
        );
    }
    let retain = if head.flags.retain() { " retain" } else { "" };
    format!(
        "{place} {when} qos{}{retain} client={} {} {}\n",
        head.flags.qos(),
        record.client_id.escape_debug(),
        record.topic.escape_debug(),
        record.payload.escape_ascii()
    )
}

/// A Unix time in milliseconds as RFC 3339 in UTC.
///
/// Source of the calendar: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
pub(crate) fn time(unix_ms: u64) -> String {
    let (secs, millis) = (unix_ms / 1000, unix_ms % 1000);
    let (days, in_day) = (secs / 86_400 + 719_468, secs % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, (shifted + 2) % 12 + 1);
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(time(unix_ms), text);
        }
    }
}
