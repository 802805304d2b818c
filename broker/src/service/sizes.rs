//! The bounds of one core, computed once from the configuration and named.

use crate::config::Config;

/// Mails to itself that a core takes per turn.
pub(crate) const OWN_MAILS_PER_TURN: usize = 1024;

/// Control mails that may wait for one full mailbox before this core stops reading its clients.
/// A mail is at most 64 bytes, so this is 1 MiB per destination.
pub(crate) const CONTROL_OVERFLOW_MAX: usize = 16 * 1024;

/// Bytes of QoS 0 messages that may wait for one full mailbox during its 10 ms.
pub(crate) const VOLATILE_WAITING_BYTES_MAX: usize = 4 << 20;

/// Bytes of committed records that may wait for a full mailbox before this core stops reading its
/// publishers.
pub(crate) const LAG_BYTES_MAX: usize = 16 << 20;

/// Retained messages looked at for one batch of a new subscription.
pub(crate) const RETAINED_BATCH: usize = 256;

/// Payloads from this size on are sent from the message itself, not copied into the output.
/// A copy of 4 KiB costs about as much as the second memory segment in the kernel.
pub(crate) const SHARE_PAYLOAD_BYTES: usize = 8 * 1024;

/// What the configuration gives this core.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub(crate) packet_bytes_max: usize,
    pub(crate) connect_bytes_max: usize,
    pub(crate) inflight_bytes_max: usize,
    /// Above this a client is slow, and its QoS 0 waits and is dropped.
    pub(crate) output_bytes_high: usize,
    /// Above this nothing is written that can wait where it is: QoS 1, QoS 2, retained messages.
    pub(crate) output_bytes_refill: usize,
    pub(crate) output_bytes_max: usize,
    pub(crate) backlog_bytes_max: usize,
    pub(crate) sessions_max: usize,
    pub(crate) retained_messages_max: usize,
    pub(crate) replays_max: usize,
    pub(crate) retained_bytes_max: usize,
}

impl Sizes {
    pub(crate) fn new(config: &Config, cores: u16) -> Self {
        // A core gets its share and a quarter more: hashing does not spread evenly.
        let share = |total: u64| {
            let cores = u64::from(cores.max(1));
            let share = total.div_ceil(cores);
            let slack = if cores == 1 { 0 } else { share / 4 + 1 };
            to_usize(share.saturating_add(slack).min(total))
        };
        Self {
            packet_bytes_max: config.mqtt.max_packet_size as usize,
            connect_bytes_max: config.mqtt.max_connect_size as usize,
            inflight_bytes_max: to_usize(config.mqtt.max_inflight_bytes),
            output_bytes_high: config.limits.write_buffer_high as usize,
            output_bytes_refill: config.limits.write_buffer_high as usize / 4,
            output_bytes_max: config.limits.write_buffer_max as usize,
            backlog_bytes_max: to_usize(config.session.max_backlog),
            sessions_max: share(config.session.max_sessions),
            replays_max: share(u64::from(config.limits.max_replays)),
            retained_messages_max: share(config.retained.max_messages),
            retained_bytes_max: share(config.retained.max_bytes),
        }
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
