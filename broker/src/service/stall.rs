//! Back-pressure: connections that are not read from until there is room again.

use super::sizes::LAG_BYTES_MAX;
use super::{Broker, Timer, Turn};
use crate::delivery::{OUTPUT_WAIT, has_room_again};
use crate::session::SessionId;
use hashbrown::HashSet;
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::log::writer;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::UserProperties;
use std::time::Duration;

/// How long a connection that met a bound waits before it is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// How long a publisher of 3.1 or 3.1.1, which cannot be told that a quota is used up, waits for
/// room. Its acknowledgements wait behind its publish, so this must end by itself.
pub(crate) const QUOTA_WAIT_MAX: Duration = Duration::from_secs(30);

/// Whether a message may be taken in now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Granted,
    /// A quota is used up: 0x97 where the client can be told, back-pressure where it cannot.
    Refused,
    /// Another core, or the disk, is behind: the publisher waits, whatever its version.
    Wait,
    /// The log has failed: nothing is acknowledged any more.
    Failed,
}

/// Connections whose packets wait in their inbox.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// Until the quota or the bound that stopped them has room.
    retry: Vec<ConnectionId>,
    /// Sessions whose next message waits for the log to take its record.
    pumps: HashSet<SessionId>,
    retry_set: bool,
    /// Until the QoS 0 messages that wait for a mailbox are gone (at most 10 ms).
    mailbox: Vec<ConnectionId>,
    /// Until a subscriber has taken half of what its output holds (at most 10 ms).
    output: Vec<OutputStall>,
}

/// A publisher that waits for a subscriber.
#[derive(Clone, Copy, Debug)]
struct OutputStall {
    publisher: ConnectionId,
    subscriber: ConnectionId,
    since: Nanos,
}

impl Broker {
    /// Whether a message that is kept (QoS above 0, or retained) may be taken in.
    pub(crate) fn admit(&self, topic: &str, partition: PartitionId) -> Admission {
        match self.log_admission(partition) {
            writer::Admission::Open => {}
            writer::Admission::Busy => return Admission::Wait,
            writer::Admission::Full => return Admission::Refused,
            writer::Admission::Poisoned => return Admission::Failed,
        }
        if self.meter.bytes() > self.memory_bytes || self.full_filters.matches(topic) {
            return Admission::Refused;
        }
        // Without a core that lags, which is nearly always, there is nothing to add up.
        if self.partitions.iter().any(|p| p.cursors().has_lag()) {
            let lag_bytes: usize = self.partitions.iter().map(|p| p.cursors().kept_bytes()).sum();
            if lag_bytes > LAG_BYTES_MAX {
                return Admission::Wait;
            }
        }
        Admission::Granted
    }

    /// Whether a packet's user properties are within their bounds, in number and in bytes.
    pub(crate) fn allows_user_properties(&self, properties: UserProperties<'_>) -> bool {
        let mqtt = &self.config.mqtt;
        let (mut count, mut bytes) = (0, 0);
        for (name, value) in properties.iter() {
            count += 1;
            bytes += name.len() + value.len();
            if count > usize::from(mqtt.max_user_properties)
                || bytes > mqtt.max_user_properties_size as usize
            {
                return false;
            }
        }
        true
    }

    /// Stops reading from a connection; its packets are tried again soon.
    pub(crate) fn stall_for_retry(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        if self.begin_stall(turn, id) {
            self.stalls.retry.push(id);
            self.schedule_retry(turn);
        }
    }

    /// Sends what a session is owed a little later.
    pub(crate) fn pump_at_retry(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        self.stalls.pumps.insert(session);
        self.schedule_retry(turn);
    }

    pub(crate) fn schedule_retry(&mut self, turn: &mut Turn<'_>) {
        if !self.stalls.retry_set {
            self.stalls.retry_set = true;
            turn.timers.schedule(turn.now + RETRY, Timer::Retry);
        }
    }

    /// Stops reading from a publisher until a subscriber with a full output has taken some of it.
    pub(crate) fn stall_for_output(
        &mut self,
        turn: &mut Turn<'_>,
        publisher: ConnectionId,
        subscriber: ConnectionId,
    ) {
        if self.begin_stall(turn, publisher) {
            self.stalls.output.push(OutputStall { publisher, subscriber, since: turn.now });
            self.schedule_retry(turn);
        }
    }

    /// Stops reading from a publisher until no QoS 0 message waits for a mailbox.
    pub(crate) fn stall_for_mailbox(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        if self.begin_stall(turn, id) {
            self.stalls.mailbox.push(id);
        }
    }

    fn begin_stall(&mut self, turn: &mut Turn<'_>, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        if connection.stalled {
            return false;
        }
        connection.stalled = true;
        turn.sockets.pause(id);
        self.metrics.backpressure_pauses.add(1);
        true
    }

    pub(super) fn on_retry(&mut self, turn: &mut Turn<'_>) {
        self.stalls.retry_set = false;
        for id in core::mem::take(&mut self.stalls.retry) {
            self.end_stall(turn, id);
        }
        for session in core::mem::take(&mut self.stalls.pumps) {
            self.pump_at_end(session);
        }
        self.retry_overdue(turn);
    }

    pub(super) fn resume_mailbox_stalls(&mut self, turn: &mut Turn<'_>) {
        if self.stalls.mailbox.is_empty() {
            return;
        }
        for id in core::mem::take(&mut self.stalls.mailbox) {
            self.end_stall(turn, id);
        }
    }

    /// End of turn: publishers whose subscriber has room again, or has had its time, go on.
    pub(super) fn resume_output_stalls(&mut self, turn: &mut Turn<'_>) {
        if self.stalls.output.is_empty() {
            return;
        }
        for stall in core::mem::take(&mut self.stalls.output) {
            let unsent_bytes = turn.sockets.unsent_bytes(stall.subscriber);
            let over = turn.now.since(stall.since) >= OUTPUT_WAIT;
            if over || has_room_again(unsent_bytes, self.sizes.output_bytes_high) {
                self.end_stall(turn, stall.publisher);
            } else {
                self.stalls.output.push(stall);
            }
        }
        if !self.stalls.output.is_empty() {
            self.schedule_retry(turn);
        }
    }

    /// Stops reading from a connection whose CONNECT waits for the log.
    pub(crate) fn stall_for_record(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        self.begin_stall(turn, id);
    }

    pub(crate) fn end_stall(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.stalled = false;
        self.consume_inbox(turn, id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.stalled {
            return;
        }
        let farewell = connection.websocket().and_then(|state| state.farewell.take());
        turn.sockets.resume(id);
        if let Some(farewell) = farewell {
            self.end_websocket(turn, id, farewell);
        }
    }
}
