//! What the broker and `ringlane ctl` say to each other: requests, and rows that come back as lines
//! of JSON. It holds between programs of one release.

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// [`SessionRow`]s.
    Sessions { choose: SessionChoice },
    /// One [`SessionRow`] and its [`SubscriptionRow`]s.
    Session { client_id: String },
    /// Ends sessions: those of these clients, or all that are chosen. [`OutcomeRow`]s.
    EndSessions { clients: Vec<String>, choose: SessionChoice, dry_run: bool },
    /// [`GroupRow`]s.
    Groups,
    /// [`SubscriptionRow`]s.
    Subscriptions { choose: SubscriptionChoice },
    /// [`RetainedRow`]s of the topics that match.
    Retained { filter: String },
    /// The [`RetainedRow`] of one topic, with its payload.
    RetainedMessage { topic: String },
    /// Clears the topics that match. [`OutcomeRow`]s.
    ClearRetained { filter: String, dry_run: bool },
    /// [`StreamsRow`]s.
    Streams,
}

/// Which sessions. What is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SessionChoice {
    /// A pattern of client identifiers; see [`super::glob`].
    pub(crate) clients: Option<String>,
    pub(crate) connected: Option<bool>,
    /// Without a connection for at least this long, in seconds.
    pub(crate) absent_secs: Option<u64>,
    /// Only those that are owed messages.
    pub(crate) owed: bool,
}

/// Which subscriptions. What is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SubscriptionChoice {
    /// Those of one client.
    pub(crate) client_id: Option<String>,
    /// Those whose filter matches a topic name.
    pub(crate) topic: Option<String>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRow {
    pub(crate) client_id: String,
    pub(crate) partition: u32,
    pub(crate) core: u16,
    pub(crate) connected: bool,
    /// Since when it has its connection (Unix time, ms; whole seconds).
    pub(crate) connected_since_ms: Option<u64>,
    /// Where its client is, as the broker sees it: address and port.
    pub(crate) address: Option<String>,
    /// Since when it has no connection (Unix time, ms), if that is known.
    pub(crate) absent_since_ms: Option<u64>,
    /// Seconds that it outlives its connection; `None`: it never expires.
    pub(crate) expiry_secs: Option<u32>,
    /// When it expires if nobody connects (Unix time, ms).
    pub(crate) expires_ms: Option<u64>,
    /// Whether the log knows it.
    pub(crate) durable: bool,
    pub(crate) subscriptions: u64,
    /// Messages sent and not acknowledged.
    pub(crate) in_flight: u64,
    /// Messages that wait behind those.
    pub(crate) pending: u64,
    /// Bytes of those that wait.
    pub(crate) pending_bytes: u64,
    /// The oldest message that it is owed and has not acknowledged.
    pub(crate) oldest: Option<OldestRow>,
    pub(crate) will: Option<WillRow>,
}

/// The oldest message that a session or a group is owed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OldestRow {
    /// Milliseconds since it was accepted, if the message is in memory.
    pub(crate) age_ms: Option<u64>,
    /// The log in which it is, if it is found again after a crash.
    pub(crate) partition: Option<u32>,
    pub(crate) offset: Option<u64>,
    /// Records of that log that were accepted since.
    pub(crate) behind: Option<u64>,
}

/// A shared-subscription group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    pub(crate) name: String,
    /// Without `$share/{name}/`.
    pub(crate) filter: String,
    pub(crate) partition: u32,
    pub(crate) core: u16,
    pub(crate) members: u64,
    /// Members that are there.
    pub(crate) connected: u64,
    /// Whether the log knows it: a member's session outlives its connection.
    pub(crate) durable: bool,
    /// Messages that members have and have not answered.
    pub(crate) in_flight: u64,
    /// Messages that wait behind those.
    pub(crate) pending: u64,
    /// Bytes of those that wait.
    pub(crate) pending_bytes: u64,
    /// The oldest message that it is owed.
    pub(crate) oldest: Option<OldestRow>,
}

/// A will that was not published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WillRow {
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) delay_secs: u32,
    pub(crate) payload_bytes: u64,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubscriptionRow {
    pub(crate) client_id: String,
    /// As it was subscribed to, `$share/...` included.
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// The subscription identifier.
    pub(crate) id: Option<u32>,
    /// The shared-subscription group.
    pub(crate) group: Option<String>,
}

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetainedRow {
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) payload_bytes: u64,
    /// When it was accepted (Unix time, ms).
    pub(crate) accepted_ms: u64,
    /// When it expires (Unix time, ms), if ever.
    pub(crate) expires_ms: Option<u64>,
    /// The log in which it was published; `None` for what the broker publishes itself.
    pub(crate) partition: Option<u32>,
    pub(crate) offset: Option<u64>,
    pub(crate) core: u16,
    /// Only if one message was asked for, as text or in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload_base64: Option<String>,
}

/// What became of something that was to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutcomeRow {
    /// The client identifier or the topic.
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
}

/// What became of something that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is gone, and stays so after a crash.
    Deleted,
    /// It would be deleted.
    WouldDelete,
    /// There is none.
    NotFound,
    /// It is no longer among those that were chosen.
    NotChosen,
    /// The log, or a core, is behind: it may be tried again.
    Busy,
    /// There is no room in the log, or for the message that clears a topic.
    Full,
    /// The log of its partition has failed.
    Failed,
}

/// A stream, or a partition: all streams share the logs of the partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum StreamsRow {
    Stream(StreamRow),
    Partition(PartitionRow),
}

/// A stream as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamRow {
    pub(crate) name: String,
    pub(crate) filters: Vec<String>,
    pub(crate) level: String,
    /// Seconds; `None`: without end.
    pub(crate) retention_secs: Option<u64>,
    /// Bytes on the whole node; `None`: without end.
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) capture_qos0: bool,
    pub(crate) when_full: String,
}

/// The log of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionRow {
    pub(crate) partition: u32,
    pub(crate) core: u16,
    /// `open`, `full` or `failed`.
    pub(crate) state: String,
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    pub(crate) first_offset: u64,
    pub(crate) next_offset: u64,
    pub(crate) flushed_offset: u64,
    /// The lowest offsets that are still needed, by who needs them.
    pub(crate) needed: Vec<NeedRow>,
}

/// Who keeps the segments from an offset on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NeedRow {
    pub(crate) offset: u64,
    pub(crate) by: Need,
    /// The client identifier of a session, the shared filter of a group, or the number of a partition that
    /// matches.
    pub(crate) name: String,
}

/// What needs a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Need {
    /// A session is owed it.
    Session,
    /// A shared-subscription group is owed it.
    Group,
    /// A partition has not matched it, as far as its own log says.
    Cursor,
    /// A start would read it: the older of the two checkpoints that are kept.
    Checkpoint,
}

/// The last line of an answer that is not whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErrorRow {
    pub(crate) error: String,
}
