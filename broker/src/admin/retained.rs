//! Retained messages of the topics that a core owns: listed, and cleared.

use super::Page;
use crate::ctl::rows::{Outcome, RetainedRow};
use crate::handlers::{Accepted, Source};
use crate::service::{Admission, Broker, Turn};
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::routing::{QueryProgress, RecordId};
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;

/// Topics that are looked at for one page.
const TOPICS_PER_PAGE: usize = 256;

impl Broker {
    pub(super) fn list_retained(
        &self,
        turn: &Turn<'_>,
        filter: &str,
        after: Option<&str>,
    ) -> Page<(RetainedRow, Message), Box<str>> {
        let mut rows = Vec::new();
        let mut keep = |message: &Message, record: RecordId| {
            rows.push((self.retained_row(message, record), message.clone()));
        };
        let progress = self.retained.query(filter, after, TOPICS_PER_PAGE, turn.now, &mut keep);
        let next = match progress {
            QueryProgress::Done => None,
            QueryProgress::More { after } => Some(after),
        };
        Page { rows, next }
    }

    fn retained_row(&self, message: &Message, record: RecordId) -> RetainedRow {
        let head = message.head();
        let expires = Some(head.expires_at).filter(|at| *at != Nanos::NEVER);
        let logged = self.has_logs && record.partition.0 < self.placement.partitions();
        RetainedRow {
            topic: message.topic().to_owned(),
            qos: head.qos,
            payload_bytes: message.payload().len() as u64,
            accepted_ms: self.unix_ms(head.accepted_at),
            expires_ms: expires.map(|at| self.unix_ms(at)),
            partition: logged.then_some(record.partition.0),
            offset: logged.then_some(record.offset.0),
            core: self.core.0,
            payload: None,
            payload_base64: None,
        }
    }

    /// As if an empty retained message had been published to each topic.
    pub(super) fn clear_retained(
        &mut self,
        turn: &mut Turn<'_>,
        partition: PartitionId,
        topics: &[String],
    ) -> Vec<Outcome> {
        topics.iter().map(|topic| self.clear_topic(turn, partition, topic)).collect()
    }

    fn clear_topic(&mut self, turn: &mut Turn<'_>, partition: PartitionId, topic: &str) -> Outcome {
        let mut found = false;
        self.retained.query(topic, None, 1, turn.now, &mut |_, _| found = true);
        if !found {
            return Outcome::NotFound;
        }
        match self.admit(topic, partition) {
            Admission::Granted if self.post.is_congested() => return Outcome::Busy,
            Admission::Granted => {}
            Admission::Wait => return Outcome::Busy,
            Admission::Refused => return Outcome::Full,
            Admission::Failed => return Outcome::Failed,
        }
        let accepted = Accepted {
            topic,
            properties: &[],
            payload: &[],
            qos: QoS::AtLeastOnce,
            retain: true,
            expiry_secs: None,
            publisher: 0,
            partition,
        };
        self.log_accepted(turn, &accepted, Source { session: None, packet_id: 0 }, None);
        Outcome::Deleted
    }
}
