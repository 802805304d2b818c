//! The counters of one core: written by that core alone, read by any thread.
//!
//! A counter is a relaxed load and store, never a locked instruction. Names and help texts stand
//! here once, for `/metrics`, `/status` and `$SYS`.

use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::log::writer::Flushed;
use ringlane_dataplane::runtime::{Counter, Log2Histogram};

/// How a metric behaves over time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

macro_rules! core_metrics {
    ($($field:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        /// What one core counts for the broker; see the help texts.
        #[derive(Default, Debug)]
        pub struct CoreMetrics {
            $(#[doc = $help] pub $field: Counter,)*
            /// QoS 0 messages dropped before each other core's mailbox.
            pub dropped_mailbox_to: Vec<Counter>,
            /// How long rounds of the log took, in nanoseconds.
            pub flush_ns: Log2Histogram,
        }

        impl CoreMetrics {
            /// Counters at zero for one of `cores` cores.
            #[must_use]
            pub fn new(cores: u16) -> Self {
                let dropped_mailbox_to = (0..cores).map(|_| Counter::default()).collect();
                Self { dropped_mailbox_to, ..Self::default() }
            }

            /// Counts a round of a log that has ended.
            pub(crate) fn count_flushed(&self, flushed: &Flushed) {
                self.log_rounds.add(1);
                self.log_flushed_records.add(flushed.records);
                self.log_flushed_bytes.add(flushed.bytes);
                self.flush_ns.record(flushed.took.as_nanos() as u64);
            }

            /// Counts messages dropped because the mailbox of `to` stayed full.
            pub(crate) fn dropped_to(&self, to: CoreId, count: u64) {
                if let Some(counter) = self.dropped_mailbox_to.get(to.index()) {
                    counter.add(count);
                }
            }

            /// Calls `each` with name (without prefix), kind, help text and value of every metric.
            pub fn each(&self, mut each: impl FnMut(&'static str, MetricKind, &'static str, u64)) {
                $(each($name, MetricKind::$kind, $help, self.$field.get());)*
            }
        }
    };
}

core_metrics! {
    connections, Gauge, "connections", "Clients connected now (CONNECT accepted).";
    sockets, Gauge, "sockets", "Sockets open now, those before CONNECT included.";
    sockets_opened, Counter, "sockets_opened_total", "Sockets accepted.";
    connects_accepted, Counter, "connects_accepted_total", "CONNECT packets answered with success.";
    connects_refused, Counter, "connects_refused_total", "CONNECT packets answered with a refusal.";
    connect_timeouts, Counter, "connect_timeouts_total", "Sockets closed because CONNECT did not come in time.";
    keep_alive_timeouts, Counter, "keep_alive_timeouts_total", "Connections closed after 1.5 keep alive intervals of silence.";
    takeovers, Counter, "session_takeovers_total", "Connections closed because their client identifier connected again.";
    connections_moved, Counter, "connections_moved_total", "Connections handed to the core that owns their client identifier.";
    disconnects_clean, Counter, "disconnects_clean_total", "Connections that ended with DISCONNECT from the client.";
    disconnects_unclean, Counter, "disconnects_unclean_total", "Connections that ended without DISCONNECT from the client.";
    malformed_packets, Counter, "malformed_packets_total", "Connections closed because of a malformed packet or a protocol error.";
    sessions, Gauge, "sessions", "Sessions held, connected or not.";
    sessions_expired, Counter, "sessions_expired_total", "Sessions removed because their expiry interval passed.";
    sessions_refused, Counter, "sessions_refused_total", "CONNECT packets refused because the session table is full.";
    subscriptions, Gauge, "subscriptions", "Subscriptions held by sessions of this core, shared ones included.";
    shared_subscriptions, Gauge, "shared_subscriptions", "Shared subscriptions held by sessions of this core.";
    shared_groups, Gauge, "shared_groups", "Shared-subscription groups owned by this core.";
    shared_redispatched, Counter, "shared_redispatched_total", "Messages of a shared group given to another member.";
    shared_pending, Gauge, "shared_pending", "Messages of shared groups in memory that wait for a member with a free window.";
    packets_received, Counter, "packets_received_total", "MQTT packets received.";
    packets_sent, Counter, "packets_sent_total", "MQTT packets sent.";
    publishes_received_qos0, Counter, "publishes_received_qos0_total", "PUBLISH packets received with QoS 0.";
    publishes_received_qos1, Counter, "publishes_received_qos1_total", "PUBLISH packets received with QoS 1.";
    publishes_received_qos2, Counter, "publishes_received_qos2_total", "PUBLISH packets received with QoS 2.";
    publishes_sent_qos0, Counter, "publishes_sent_qos0_total", "PUBLISH packets sent with QoS 0.";
    publishes_sent_qos1, Counter, "publishes_sent_qos1_total", "PUBLISH packets sent with QoS 1.";
    publishes_sent_qos2, Counter, "publishes_sent_qos2_total", "PUBLISH packets sent with QoS 2.";
    publish_received_bytes, Counter, "publish_received_bytes_total", "Payload bytes of PUBLISH packets received.";
    publish_sent_bytes, Counter, "publish_sent_bytes_total", "Payload bytes of PUBLISH packets sent.";
    publishes_rejected, Counter, "publishes_rejected_total", "PUBLISH packets answered with an error reason code.";
    no_subscribers, Counter, "publishes_without_subscribers_total", "Messages that no subscription matched.";
    dropped_slow, Counter, "messages_dropped_slow_subscriber_total", "QoS 0 messages dropped because a subscriber's output was full.";
    dropped_mailbox, Counter, "messages_dropped_mailbox_total", "QoS 0 messages dropped because another core's mailbox stayed full for 10 ms.";
    dropped_lease, Counter, "messages_dropped_lease_total", "QoS 0 messages dropped because this leader's lease had run out: another node may lead.";
    dropped_backlog, Counter, "messages_dropped_backlog_total", "Messages dropped from a session's backlog at its bound (drop_oldest).";
    dropped_postings, Counter, "postings_dropped_total", "Messages that a session was owed and whose record was lost in a crash (level memory), or dropped since.";
    dropped_damaged, Counter, "messages_dropped_damaged_total", "Messages that a session was owed and whose place in the log cannot be read.";
    sessions_behind, Counter, "sessions_behind_total", "Times the messages of a connected client were more than its queue takes, and it went on from the log.";
    dropped_expired, Counter, "messages_dropped_expired_total", "Messages dropped because their expiry interval passed before delivery.";
    dropped_too_large, Counter, "messages_dropped_too_large_total", "Messages not delivered because of the subscriber's Maximum Packet Size.";
    dropped_memory, Counter, "messages_dropped_memory_total", "QoS 0 messages dropped because the memory budget was spent.";
    retained_messages, Gauge, "retained_messages", "Retained messages owned by this core.";
    retained_bytes, Gauge, "retained_bytes", "Bytes of retained messages owned by this core.";
    retained_refused, Counter, "retained_refused_total", "Retained messages refused at the bound.";
    queued_messages, Gauge, "queued_messages", "Messages that wait for their sessions in memory; what is in the log only does not count.";
    queued_bytes, Gauge, "queued_bytes", "Bytes of those messages.";
    message_bytes, Gauge, "message_bytes", "Bytes of messages that the core keeps, whole batches counted: what limits.memory bounds.";
    inflight_messages, Gauge, "inflight_messages", "QoS 1 and 2 messages sent and not yet acknowledged.";
    backpressure_pauses, Counter, "backpressure_pauses_total", "Times a connection was not read from because of back-pressure.";
    slow_disconnects, Counter, "slow_disconnects_total", "Connections closed because their output stayed above the hard bound.";
    wills_published, Counter, "wills_published_total", "Will messages published.";
    records_appended, Counter, "records_appended_total", "Records appended to this core's partitions.";
    log_rounds, Counter, "log_rounds_total", "Rounds of a write and a sync of this core's logs.";
    log_flushed_records, Counter, "log_flushed_records_total", "Records made durable by those rounds.";
    log_flushed_bytes, Counter, "log_flushed_bytes_total", "Bytes written to this core's logs.";
    log_segments, Gauge, "log_segments", "Segments with records of this core's logs.";
    log_bytes, Gauge, "log_bytes", "Bytes of the segment files of this core's logs.";
    log_segments_trimmed, Counter, "log_segments_trimmed_total", "Segments given up because nobody needs them and retention lets them go.";
    checkpoints_written, Counter, "checkpoints_written_total", "Checkpoints of this core's partitions written while it ran.";
    checkpoints_failed, Counter, "checkpoints_failed_total", "Checkpoints that could not be written, and are tried again.";
    checkpoint_bytes, Gauge, "checkpoint_bytes", "Bytes of the newest checkpoints of this core's partitions.";
    fetches_waiting, Gauge, "log_fetches_waiting", "Windows of messages that sessions are owed and that wait for a reader of this core's logs.";
    checkpoint_lag_bytes, Gauge, "checkpoint_lag_bytes", "Bytes of this core's logs behind their newest checkpoints: what a start reads.";
    checkpoint_age_secs, Gauge, "checkpoint_age_seconds", "Seconds since this core wrote a checkpoint, or since its start.";
    log_full, Gauge, "log_full_partitions", "Partitions whose log finds no room on the disk: their publishers get 0x97 or wait.";
    log_poisoned, Gauge, "log_poisoned_partitions", "Partitions whose log has failed for good: their clients are turned away.";
    log_failed_jobs, Gauge, "log_failed_jobs", "Indexes not written and files not removed because of an error; made good at the next start.";
    log_recovered_records, Gauge, "log_recovered_records", "Records that were read at start.";
    log_torn_bytes, Gauge, "log_torn_bytes", "Bytes behind the last durable record that were cut at start.";
    replays, Gauge, "replays", "Replay subscriptions of connected sessions of this core.";
    replayed_messages, Counter, "replayed_messages_total", "Stored messages of this core's partitions that were read again for replay subscriptions.";
    replay_read_bytes, Counter, "replay_read_bytes_total", "Bytes of this core's logs that were read for replay subscriptions.";
    replay_lost_ranges, Counter, "replay_lost_ranges_total", "Ranges of offsets that a replay subscription was told it misses: trimmed, or unreadable.";
    fanout_mails, Counter, "fanout_mails_total", "Messages handed to other cores.";
    fanout_stalls, Counter, "fanout_stalls_total", "Turns in which a fan-out cursor stood still before a full mailbox.";
    net_received_bytes, Counter, "network_received_bytes_total", "Bytes received from sockets.";
    net_sent_bytes, Counter, "network_sent_bytes_total", "Bytes sent to sockets.";
    system_calls, Counter, "system_calls_total", "System calls of the socket driver.";
    completions, Counter, "completions_total", "Completions (io_uring) or readiness events (epoll) taken.";
    zero_copy_sends, Counter, "zero_copy_sends_total", "Sends that the kernel took without a copy.";
    buffer_shortages, Counter, "receive_buffer_shortages_total", "Times the kernel found no receive buffer.";
    link_received_messages, Counter, "link_received_messages_total", "Messages that came from other nodes of the cluster.";
    link_received_bytes, Counter, "link_received_bytes_total", "Their bytes.";
    link_moved_bytes, Counter, "link_moved_bytes_total", "Bytes of them that were moved once more because they did not fit, or could not stay, where they had begun.";
    link_sends, Counter, "link_sends_total", "Sends to other nodes, each of all that waited for one.";
    link_sent_bytes, Counter, "link_sent_bytes_total", "Bytes sent to other nodes.";
    accepts_refused, Counter, "accepts_refused_total", "Connections turned away because a table or the descriptors were exhausted.";
    links_tcp, Gauge, "replication_links_tcp", "Links to cores of other nodes over TCP that are up.";
    links_rdma, Gauge, "replication_links_rdma", "Links to cores of other nodes over RDMA that are up.";
    rdma_requests, Counter, "rdma_requests_total", "Work requests posted for links over RDMA: writes, credits and receives.";
    rdma_doorbells, Counter, "rdma_doorbells_total", "Calls that posted them, each with any number.";
    rdma_completions, Counter, "rdma_completions_total", "Work completions taken.";
    rdma_sent_bytes, Counter, "rdma_sent_bytes_total", "Bytes written into rings of other nodes.";
    rdma_received_bytes, Counter, "rdma_received_bytes_total", "Bytes copied out of this node's rings.";
    rdma_assembled_bytes, Counter, "rdma_assembled_bytes_total", "Bytes of bodies that were put together outside of the ring first, and are copied again by whoever keeps them.";
    rdma_copied_heads_bytes, Counter, "rdma_copied_heads_bytes_total", "Bytes of heads of messages copied into registered memory, or into requests.";
    rdma_copied_bodies_bytes, Counter, "rdma_copied_bodies_bytes_total", "Bytes of records copied into registered memory: those of batches that are in none.";
    rdma_exhausted, Counter, "rdma_credit_exhausted_total", "Turns that ended with bytes left to write and no credit for them.";
}
