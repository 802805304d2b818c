//! What a log had no room for at its moment, and what nobody can be asked to repeat: wills that are due,
//! ends of connections and of sessions, and retained messages. Each is kept, and tried again
//! every few milliseconds until the log takes it. Until then the log says what was before, which
//! is what a crash brings back: a will that was not published is published then.
//!
//! There is at most one entry per session of the log, and per retained topic up to a bound.

use super::live::Durable;
use super::postings::Place;
use super::records::{RetainedBody, StateRecord};
use crate::handlers::Accepted;
use crate::service::{Admission, Broker, Turn};
use crate::session::{SessionId, WillMessage};
use hashbrown::HashMap;
use ringlane_dataplane::batch::Parts;
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::log::record::RECORD_HEAD_BYTES;
use ringlane_dataplane::log::writer;
use ringlane_dataplane::message::Message;
use std::collections::BTreeMap;

/// Retained messages that wait for one log, at most. Beyond it they are refused with 0x97, as if
/// there were no room for them at all.
const RETAINED_MAX: usize = 65_536;
/// The same in bytes of a log that is full: they go before everything else that is recorded.
const RETAINED_BYTES_MAX: usize = 64 * 1024;
/// What a retained message takes in its record beside its content, with room to spare.
const RETAINED_BODY_BYTES: usize = 128;
/// Entries that are taken up at once.
const PER_RETRY: usize = 1024;

/// What waits for the log of one partition.
#[derive(Debug, Default)]
pub(crate) struct Overdue {
    /// By client identifier: what is recorded as soon as there is room for records of state.
    ended: HashMap<Box<str>, Ended>,
    /// The same, behind a will: there has to be room for a publish.
    wills: HashMap<Box<str>, (DueWill, Ended)>,
    /// The latest of each topic, in the order of their records in each log: recovery takes those
    /// before one that it finds for applied.
    retained: BTreeMap<RetainedKey, RetainedCopy>,
    topics: HashMap<Box<str>, RetainedKey>,
}

/// Partition, whether at the level `memory`, offset.
type RetainedKey = (u32, bool, u64);

/// A will that is to be published.
#[derive(Debug)]
pub(crate) struct DueWill {
    pub(crate) message: Box<WillMessage>,
    /// The keyed hash of its client identifier.
    pub(crate) publisher: u64,
    pub(crate) partition: PartitionId,
}

/// What is to be recorded of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Nothing: it has been opened again since, with another will or none.
    Reopened,
    /// Its will is gone.
    Will,
    /// It lost its connection.
    Connection { since_ms: u64, expiry_secs: u32, will_gone: bool },
    /// It is over.
    Session,
}

/// A retained message as the log of its topic will have it.
#[derive(Debug)]
pub(crate) struct RetainedCopy {
    pub(crate) message: Message,
    pub(crate) place: Place,
    pub(crate) memory: bool,
    pub(crate) accepted_ms: u64,
}

impl RetainedCopy {
    fn log_bytes(&self) -> usize {
        let Self { message, .. } = self;
        let content = message.properties().len() + message.payload().len();
        RECORD_HEAD_BYTES + message.topic().len() + content + RETAINED_BODY_BYTES
    }

    pub(super) fn record(&self) -> StateRecord<'_> {
        let retained =
            RetainedBody::of(&self.message, self.place, self.memory, |_| self.accepted_ms);
        StateRecord::Retained { topic: self.message.topic(), retained }
    }
}

impl Ended {
    /// What is to be recorded if `later` happened after this.
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Session, _) | (_, Self::Session) => Self::Session,
            (Self::Connection { since_ms, expiry_secs, .. }, Self::Will) => {
                Self::Connection { since_ms, expiry_secs, will_gone: true }
            }
            (_, later) => later,
        }
    }

    fn record(self, client_id: &str) -> Option<StateRecord<'_>> {
        match self {
            Self::Reopened => None,
            Self::Will => Some(StateRecord::WillGone { client_id }),
            Self::Connection { since_ms, expiry_secs, will_gone } => {
                Some(StateRecord::SessionClosed { client_id, since_ms, expiry_secs, will_gone })
            }
            Self::Session => Some(StateRecord::SessionEnd { client_id }),
        }
    }
}

impl Overdue {
    fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.wills.is_empty() && self.retained.is_empty()
    }

    /// Whether something of a session waits.
    pub(super) fn has(&self, client_id: &str) -> bool {
        self.ended.contains_key(client_id) || self.wills.contains_key(client_id)
    }

    /// Whether nothing but a will waits, for room that is not the log's: a new session of its client
    /// need not wait with it.
    fn has_will_alone(&self, client_id: &str) -> bool {
        !self.ended.contains_key(client_id) && self.wills.contains_key(client_id)
    }

    fn has_will(&self, client_id: &str) -> bool {
        self.wills.contains_key(client_id)
    }

    /// Bytes of the retained messages that wait, in the log.
    pub(super) fn retained_bytes(&self) -> usize {
        self.retained.values().map(RetainedCopy::log_bytes).sum()
    }

    fn add(&mut self, client_id: &str, later: Ended) {
        match self.wills.get_mut(client_id) {
            Some((_, ended)) => *ended = ended.then(later),
            None => {
                let ended = self.ended.entry(client_id.into()).or_insert(later);
                *ended = ended.then(later);
            }
        }
    }

    /// False if an earlier will of the same client waited, which is dropped.
    fn add_will(&mut self, client_id: &str, will: DueWill) -> bool {
        let before = self.ended.remove(client_id);
        let ended = before.map_or(Ended::Will, |before| before.then(Ended::Will));
        self.wills.insert(client_id.into(), (will, ended)).is_none()
    }

    /// A record that opens the session anew stands for all that was to be recorded.
    fn reopen(&mut self, client_id: &str) {
        self.ended.remove(client_id);
        if let Some((_, ended)) = self.wills.get_mut(client_id) {
            *ended = Ended::Reopened;
        }
    }

    /// All retained messages that wait, to be appended now.
    pub(super) fn take_retained(&mut self) -> impl Iterator<Item = RetainedCopy> + use<> {
        self.topics.clear();
        core::mem::take(&mut self.retained).into_values()
    }

    fn add_retained(&mut self, copy: RetainedCopy) {
        let key = (copy.place.partition, copy.memory, copy.place.offset);
        if let Some(old) = self.topics.insert(copy.message.topic().into(), key) {
            self.retained.remove(&old);
        }
        self.retained.insert(key, copy);
    }

    fn pop_retained(&mut self) -> Option<RetainedCopy> {
        let (_, copy) = self.retained.pop_first()?;
        self.topics.remove(copy.message.topic());
        Some(copy)
    }
}

/// A few keys of a map.
fn some_keys<V>(map: &HashMap<Box<str>, V>) -> Vec<Box<str>> {
    map.keys().take(PER_RETRY).cloned().collect()
}

impl Broker {
    /// Whether something of a client's earlier session waits for the log: it comes before all that
    /// is recorded of a new one.
    pub(crate) fn is_overdue(&self, partition: PartitionId, client_id: &str) -> bool {
        let Some(index) = self.durable_index(partition) else { return false };
        let durable = self.durable.as_ref();
        durable.is_some_and(|durable| durable.partitions[index].overdue.has(client_id))
    }

    /// Whether a client that connects has to wait for what its earlier session left.
    pub(crate) fn waits_for_overdue(&self, partition: PartitionId, client_id: &str) -> bool {
        let Some(index) = self.durable_index(partition) else { return false };
        let Some(durable) = &self.durable else { return false };
        let overdue = &durable.partitions[index].overdue;
        let is_open = self.log_admission(partition) == writer::Admission::Open;
        overdue.has(client_id) && !(is_open && overdue.has_will_alone(client_id))
    }

    /// Records what became of a session, at once if its log takes it.
    pub(super) fn record_ended(&mut self, turn: &mut Turn<'_>, id: SessionId, ended: Ended) {
        let Some(index) = self.recorded_index(id) else { return };
        let Some(session) = self.sessions.get(id) else { return };
        let client_id = session.client_id.as_str().to_owned();
        if self.takes_ended(index, &client_id, ended) {
            return self.append_ended(turn, index, &client_id, ended);
        }
        if let Some(durable) = &mut self.durable {
            durable.partitions[index].overdue.add(&client_id, ended);
        }
        self.schedule_retry(turn);
    }

    /// The end of a group is recorded, and its filter is not posted for it any more.
    pub(crate) fn append_group_end(&mut self, turn: &Turn<'_>, index: usize, name: &str) {
        self.append_ended(turn, index, name, Ended::Session);
    }

    /// The same, as soon as the log takes it.
    pub(crate) fn put_off_end(&mut self, turn: &mut Turn<'_>, index: usize, name: &str) {
        if let Some(durable) = &mut self.durable {
            durable.partitions[index].overdue.add(name, Ended::Session);
        }
        self.schedule_retry(turn);
    }

    /// Whether what became of a session is recorded now. Its end stands for all that was to be
    /// recorded before, but for a will.
    fn takes_ended(&mut self, index: usize, client_id: &str, ended: Ended) -> bool {
        if ended != Ended::Session {
            let waits = self.overdue(index).is_some_and(|overdue| overdue.has(client_id));
            return self.takes_state(index) && !waits;
        }
        let takes = self.takes_end(index, client_id);
        let overdue = self.overdue(index).filter(|overdue| takes && !overdue.has_will(client_id));
        overdue.map(|overdue| overdue.ended.remove(client_id)).is_some()
    }

    fn append_ended(&mut self, turn: &Turn<'_>, index: usize, client_id: &str, ended: Ended) {
        let Some(record) = ended.record(client_id) else { return };
        let filters = match (&self.durable, ended) {
            (Some(durable), Ended::Session) => {
                durable.partitions[index].state.filters_of(client_id)
            }
            _ => Vec::new(),
        };
        self.record(turn, index, &record);
        for filter in filters {
            self.sync_posted(index, &filter);
        }
    }

    /// A record that opens a session is about to be appended: whatever waits of the one before is
    /// settled by it. The filters that nobody may hold any more.
    pub(super) fn reopen_overdue(&mut self, index: usize, client_id: &str) -> Vec<Box<str>> {
        let Some(durable) = &mut self.durable else { return Vec::new() };
        let own = &mut durable.partitions[index];
        if !own.overdue.has(client_id) {
            return Vec::new();
        }
        own.overdue.reopen(client_id);
        own.state.filters_of(client_id)
    }

    /// Publishes a will through the same path as any other message, or keeps it until the log of its
    /// client takes it. What was to be recorded with it is recorded behind it.
    pub(crate) fn publish_due_will(&mut self, turn: &mut Turn<'_>, client_id: &str, will: DueWill) {
        let index = self.durable_index(will.partition);
        let Err(will) = self.try_will(turn, client_id, will, true) else { return };
        let (Some(durable), Some(index)) = (&mut self.durable, index) else {
            return self.metrics.dropped_memory.add(1);
        };
        if !durable.partitions[index].overdue.add_will(client_id, will) {
            self.metrics.dropped_memory.add(1);
        }
        self.schedule_retry(turn);
    }

    /// Gives a will back that has to wait, for its log or for room of any other kind. `is_last`: its
    /// client has not connected again with another one.
    fn try_will(
        &mut self,
        turn: &mut Turn<'_>,
        client_id: &str,
        will: DueWill,
        is_last: bool,
    ) -> Result<(), DueWill> {
        let message = &will.message;
        let accepted = Accepted {
            topic: &message.topic,
            properties: &message.properties,
            payload: &message.payload,
            qos: message.qos,
            retain: message.retain,
            expiry_secs: message.message_expiry_secs,
            publisher: will.publisher,
            partition: will.partition,
        };
        if self.is_volatile(accepted.topic, accepted.qos, accepted.retain) {
            self.metrics.wills_published.add(1);
            self.route_volatile(turn, None, &accepted, 0);
            return Ok(());
        }
        match self.admit(accepted.topic, accepted.partition) {
            Admission::Granted => {
                self.metrics.wills_published.add(1);
                let Accepted { topic, properties, payload, .. } = accepted;
                let (head, packet_id, unix_ms) = (accepted.head(turn.now), 0, 0);
                let parts = Parts {
                    head,
                    client_id: client_id.as_bytes(),
                    packet_id,
                    unix_ms,
                    topic,
                    properties,
                    payload,
                };
                self.append_will(will.partition, &parts, is_last);
                Ok(())
            }
            Admission::Wait | Admission::Refused => Err(will),
            // A log that has failed has the will, and the next start publishes it.
            Admission::Failed => {
                self.metrics.dropped_memory.add(1);
                Ok(())
            }
        }
    }

    /// Records a retained message in the log of its topic's partition, or keeps it until that takes
    /// it.
    pub(super) fn record_copy(&mut self, turn: &mut Turn<'_>, index: usize, copy: RetainedCopy) {
        if self.takes_state(index) {
            return self.record(turn, index, &copy.record());
        }
        if let Some(durable) = &mut self.durable {
            durable.partitions[index].overdue.add_retained(copy);
        }
        self.schedule_retry(turn);
    }

    pub(super) fn retained_overdue(&self, index: usize) -> usize {
        let durable = self.durable.as_ref();
        durable.map_or(0, |durable| durable.partitions[index].overdue.retained.len())
    }

    /// Whether too many retained messages wait for the log that a topic belongs to.
    pub(crate) fn refuses_retained(&self, topic: &str) -> bool {
        let index = self.durable_index(self.placement.topic_partition(topic));
        let is_full = index.is_some_and(|index| self.is_full(index));
        let overdue = |index: usize| Some(&self.durable.as_ref()?.partitions[index].overdue);
        index.and_then(overdue).is_some_and(|overdue| {
            RETAINED_MAX <= overdue.retained.len()
                || (is_full && RETAINED_BYTES_MAX <= overdue.retained_bytes())
        })
    }

    /// Tries everything again that waits.
    pub(crate) fn retry_overdue(&mut self, turn: &mut Turn<'_>) {
        let partitions = self.durable.as_ref().map_or(0, |durable| durable.partitions.len());
        for index in 0..partitions {
            if !self.is_due(index) {
                continue;
            }
            self.retry_retained(turn, index);
            self.retry_wills(turn, index);
            self.retry_ended(turn, index);
            if self.is_due(index) {
                self.schedule_retry(turn);
            }
        }
    }

    fn is_due(&self, index: usize) -> bool {
        let durable = self.durable.as_ref();
        durable.is_some_and(|durable| !durable.partitions[index].overdue.is_empty())
    }

    fn overdue(&mut self, index: usize) -> Option<&mut Overdue> {
        let durable: &mut Durable = self.durable.as_mut()?;
        Some(&mut durable.partitions[index].overdue)
    }

    fn retry_retained(&mut self, turn: &Turn<'_>, index: usize) {
        for _ in 0..PER_RETRY {
            if !self.takes_retained(index) {
                return;
            }
            let Some(copy) = self.overdue(index).and_then(Overdue::pop_retained) else { return };
            self.record(turn, index, &copy.record());
        }
    }

    fn retry_wills(&mut self, turn: &mut Turn<'_>, index: usize) {
        let partition = self.partitions[index].id();
        let keys = match self.log_admission(partition) {
            writer::Admission::Busy | writer::Admission::Full => return,
            writer::Admission::Open | writer::Admission::Poisoned => {
                self.overdue(index).map_or_else(Vec::new, |overdue| some_keys(&overdue.wills))
            }
        };
        for client_id in keys {
            let due = self.overdue(index).and_then(|overdue| overdue.wills.remove(&client_id));
            let Some((will, ended)) = due else { continue };
            let is_last = ended != Ended::Reopened;
            match self.try_will(turn, &client_id, will, is_last) {
                Ok(()) => self.append_ended(turn, index, &client_id, ended),
                Err(will) => {
                    if let Some(overdue) = self.overdue(index) {
                        overdue.wills.insert(client_id, (will, ended));
                    }
                }
            }
        }
    }

    fn retry_ended(&mut self, turn: &Turn<'_>, index: usize) {
        let takes = |broker: &Self, client_id: &str, ended: Ended| match ended {
            Ended::Session => broker.takes_end(index, client_id),
            _ => broker.takes_state(index),
        };
        let takes_all = self.takes_state(index);
        let is_due = |ended: &Ended| takes_all || *ended == Ended::Session;
        let keys = self.overdue(index).map_or_else(Vec::new, |overdue| {
            let due = overdue.ended.iter().filter(|(_, ended)| is_due(ended));
            due.take(PER_RETRY).map(|(client_id, ended)| (client_id.clone(), *ended)).collect()
        });
        for (client_id, ended) in keys {
            if !takes(self, &client_id, ended) {
                return;
            }
            if let Some(overdue) = self.overdue(index) {
                overdue.ended.remove(&client_id);
            }
            self.append_ended(turn, index, &client_id, ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_later_counts_with_what_came_before() {
        let closed = |will_gone| Ended::Connection { since_ms: 7, expiry_secs: 9, will_gone };
        assert_eq!(closed(false).then(Ended::Will), closed(true));
        assert_eq!(closed(true).then(Ended::Session), Ended::Session);
        assert_eq!(Ended::Session.then(closed(true)), Ended::Session);
        assert_eq!(Ended::Will.then(closed(true)), closed(true));
        assert_eq!(Ended::Reopened.then(closed(false)), closed(false));
    }
}
