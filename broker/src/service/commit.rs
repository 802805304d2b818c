//! Commitment: the single event that causes both acknowledgement and fan-out.

use super::{Broker, Turn};
use crate::delivery::View;
use crate::mail::Mail;
use crate::session::SessionId;
use hashbrown::HashMap;
use ringlane_dataplane::batch::{Level, MessageRef, Parts, Promise};
use ringlane_dataplane::ids::{ConnectionId, CoreId, Offset, PartitionId};
use ringlane_dataplane::message::{Message, MessageHead};
use ringlane_dataplane::partition::{AcceptedBatch, Partition};
use ringlane_dataplane::planted::{self, Bug};
use ringlane_dataplane::routing::{CoreSet, RecordId};
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::ReasonCode;
use ringlane_transport_uring::failpoint::hit;

/// Who waits for a record: an entry of a connection's acknowledgements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckToken {
    pub(crate) connection: ConnectionId,
    pub(crate) seq: u64,
}

/// Retained publishes that wait for the owner of their topic.
pub(crate) type RetainWaits = HashMap<(PartitionId, Offset), AckToken>;

impl Broker {
    /// Appends a will as any other message. `is_last`: its client has no will any more, which the
    /// record says by itself.
    pub(crate) fn append_will(&mut self, partition: PartitionId, parts: &Parts<'_>, is_last: bool) {
        let index = self.partition_index(partition);
        if !is_last || self.partitions[index].log().is_none() {
            return self.append(partition, parts, None, None);
        }
        let promise = self.promise_of(index, parts);
        let unix_ms = self.clock.unix_ms(parts.head.accepted_at);
        let parts = Parts { unix_ms, ..*parts };
        hit("append.before");
        let offset = self.partitions[index].append_will(&mut self.batches, &parts, promise);
        self.metrics.records_appended.add(1);
        hit("append.after");
        if parts.head.retain && self.waits_behind_its_turn(promise) {
            self.note_retained(index, offset, parts.head.qos, None);
        }
    }

    /// Whether a record may be committed later than in the turn that accepts it: where it waits for a disk, for
    /// other nodes, or behind one that does. While it waits for a lease, nothing of QoS 0 can pass it.
    fn waits_behind_its_turn(&self, promise: Promise) -> bool {
        promise.level == Level::LocalDisk || promise.quorum || self.streams.count_memory()
    }

    fn promise_of(&mut self, index: usize, parts: &Parts<'_>) -> Promise {
        let MessageHead { qos, retain, .. } = parts.head;
        let stream = self.streams.of(parts.topic).promise;
        self.publish_promise(index, qos, retain, stream)
    }

    /// Appends a message to the log of a partition that this core owns. `session_id` is that of its
    /// publisher, if it has one; the log keeps the client identifier.
    pub(crate) fn append(
        &mut self,
        partition: PartitionId,
        parts: &Parts<'_>,
        session_id: Option<SessionId>,
        ack: Option<AckToken>,
    ) {
        let index = self.partition_index(partition);
        let MessageHead { qos, retain, .. } = parts.head;
        let promise = self.promise_of(index, parts);
        let mut parts = *parts;
        let is_logged = self.partitions[index].log().is_some();
        if is_logged {
            parts.unix_ms = self.clock.unix_ms(parts.head.accepted_at);
            if let Some(session) = session_id.and_then(|session| self.sessions.get(session)) {
                parts.client_id = session.client_id.as_bytes();
            }
        }
        if is_logged {
            hit("append.before");
        }
        let offset = self.partitions[index].append(&mut self.batches, &parts, promise, ack);
        self.metrics.records_appended.add(1);
        if is_logged {
            hit("append.after");
        }
        if is_logged && retain && self.waits_behind_its_turn(promise) {
            self.note_retained(index, offset, qos, session_id);
        }
        if is_logged
            && qos == 2
            && (promise.level == Level::LocalDisk || self.replicas.is_some())
            && let Some(session) = session_id.and_then(|session| self.sessions.get_mut(session))
        {
            session.received_qos2.end = Offset(offset.0 + 1);
        }
    }

    /// Whether all QoS 2 messages that a session was ever sent are durable, as far as they have to
    /// be before PUBREC.
    pub(crate) fn has_flushed_qos2(&self, session: SessionId) -> bool {
        let Some(session) = self.sessions.get(session) else { return true };
        let marks = self.partitions[self.partition_index(session.partition)].marks();
        session.received_qos2.end <= marks.high_watermark
    }

    /// Whether records of this partition wait for the end of the turn.
    pub(crate) fn has_committable(&self, partition: PartitionId) -> bool {
        let index = self.partition_index(partition);
        self.partitions.get(index).is_some_and(|partition| partition.has_committable())
    }

    /// End of turn: everything is committed that has reached its level.
    pub(crate) fn commit_all(&mut self, turn: &mut Turn<'_>) {
        self.look_at_lease(turn.now);
        for index in 0..self.partitions.len() {
            while let Some(mut batch) = self.partitions[index].take_committed() {
                while let Some(at) = batch.next_committed() {
                    let ack =
                        batch.take_ack(at).filter(|_| !self.is_early(index, batch.offset(at)));
                    if batch.is_publish(at) {
                        self.on_committed(turn, index, &batch, at, ack);
                    } else {
                        self.acknowledge(ack, ReasonCode::SUCCESS);
                    }
                }
                self.partitions[index].finish(&mut self.batches, batch);
            }
        }
    }

    /// In a cluster: whether what one node alone has may be committed now. What was flushed is known already.
    fn look_at_lease(&mut self, now: Nanos) {
        let Some(replicas) = &mut self.replicas else { return };
        if self.partitions.iter().any(Partition::has_queued) {
            let counts = replicas.has_lease_now(now);
            self.partitions.iter_mut().for_each(|partition| partition.note_lease(counts));
        }
    }

    /// Whether QoS 0 that is in no log goes to its subscribers in this turn: a leader whose lease has run out
    /// may have been deposed without knowing.
    pub(crate) fn sends_qos0(&mut self, now: Nanos) -> bool {
        self.replicas.as_mut().is_none_or(|replicas| replicas.has_lease_in(now))
    }

    /// Whether a bug was planted that commits what a majority does not have.
    fn is_early(&self, index: usize, offset: Offset) -> bool {
        planted::is(Bug::PostingEarly) && self.partitions[index].marks().high_watermark <= offset
    }

    fn on_committed(
        &mut self,
        turn: &mut Turn<'_>,
        index: usize,
        batch: &AcceptedBatch<AckToken>,
        at: u32,
        ack: Option<AckToken>,
    ) {
        let message = batch.message(at);
        let (partition, offset) = (self.partitions[index].id(), batch.offset(at));
        let record = RecordId { partition, offset, level: batch.level_now() };
        let retain_owner = self.retain_owner(message);
        // Before it is matched: the log must not say that it was matched and lack it.
        let stored = retain_owner != Some(self.core)
            || self.apply_retained(turn, &message.to_message(), record);
        let matched = {
            let mut view = View::of_record(message, record);
            self.fan_out(turn, &mut view)
        };
        let mut targets = matched.cores;
        if let Some(owner) = retain_owner
            && owner != self.core
        {
            targets.insert(owner);
        }
        let missed = self.mail_record(turn, index, record, message, targets);
        self.partitions[index].commit(batch, at, missed);
        let matched = matched.here || !matched.cores.is_empty();
        if !matched {
            self.metrics.no_subscribers.add(1);
        }
        let reason = match (stored, matched) {
            (false, _) => ReasonCode::QUOTA_EXCEEDED,
            (true, true) => ReasonCode::SUCCESS,
            (true, false) => ReasonCode::NO_MATCHING_SUBSCRIBERS,
        };
        self.settle_ack(record, ack, retain_owner, reason);
    }

    /// Acknowledges at once, or after the topic's owner has applied the retained message.
    fn settle_ack(
        &mut self,
        record: RecordId,
        ack: Option<AckToken>,
        retain_owner: Option<CoreId>,
        reason: ReasonCode,
    ) {
        if retain_owner.is_none_or(|owner| owner == self.core) {
            self.acknowledge(ack, reason);
        } else if let Some(ack) = ack {
            self.retain_waits.insert((record.partition, record.offset), ack);
        }
    }

    fn retain_owner(&self, message: MessageRef<'_>) -> Option<CoreId> {
        message.head().retain.then(|| self.placement.topic_owner(message.topic()))
    }

    /// Mails a record to the cores that want it; returns those whose mailbox is full, or that
    /// have not had earlier records yet.
    fn mail_record(
        &self,
        turn: &mut Turn<'_>,
        index: usize,
        record: RecordId,
        message: MessageRef<'_>,
        targets: CoreSet,
    ) -> CoreSet {
        let mut missed = CoreSet::default();
        for to in targets.iter() {
            if self.partitions[index].cursors().is_lagging(to)
                || !self.mail_one(turn, to, record, message)
            {
                missed.insert(to);
            }
        }
        missed
    }

    /// Mails a record to one core; false if its mailbox is full.
    fn mail_one(
        &self,
        turn: &mut Turn<'_>,
        to: CoreId,
        record: RecordId,
        message: MessageRef<'_>,
    ) -> bool {
        let retain = self.retain_owner(message) == Some(to);
        // A filter that went since the commit only costs a match at the receiver.
        let deliver = !retain || self.routes.wants(to, message.topic());
        let mail = Mail::Fanout { message: message.to_message(), record, deliver, retain };
        let sent = turn.mesh.send(to, mail).is_ok();
        if sent {
            self.metrics.fanout_mails.add(1);
        }
        sent
    }

    /// End of turn: cursors that stopped before a full mailbox move on.
    pub(super) fn advance_cursors(&mut self, turn: &mut Turn<'_>) {
        for index in 0..self.partitions.len() {
            if !self.partitions[index].cursors().has_lag() {
                continue;
            }
            let partition = self.partitions[index].id();
            let mut cursors = core::mem::take(self.partitions[index].cursors_mut());
            cursors.advance(|to, offset, level, message| {
                let record = RecordId { partition, offset, level };
                self.mail_one(turn, to, record, MessageRef::Handle(message))
            });
            if cursors.has_lag() {
                self.metrics.fanout_stalls.add(1);
            }
            *self.partitions[index].cursors_mut() = cursors;
        }
        self.answer_probes(turn);
    }

    /// Whether every record committed here has been mailed to a core, as far as it wants it.
    pub(crate) fn has_mailed_all(&self, to: CoreId) -> bool {
        !self.partitions.iter().any(|partition| partition.cursors().is_lagging(to))
    }

    /// Whether QoS 0 messages for a core have to wait behind records of QoS 0.
    pub(crate) fn holds_qos0_for(&self, to: CoreId) -> bool {
        self.partitions.iter().any(|partition| partition.cursors().holds_qos0_for(to))
    }

    /// A record of another core's partition: deliver it, keep it, or both.
    pub(super) fn on_fanout(
        &mut self,
        turn: &mut Turn<'_>,
        from: CoreId,
        message: &Message,
        record: RecordId,
        deliver: bool,
        retain: bool,
    ) {
        self.pace.note_live();
        // Kept before it is matched, as where it was committed.
        if retain {
            let stored = self.apply_retained(turn, message, record);
            let RecordId { partition, offset, .. } = record;
            if message.head().qos > 0 {
                self.send_mail(turn, from, Mail::RetainApplied { partition, offset, stored });
            }
        }
        if deliver {
            let mut view = View::of_record(MessageRef::Handle(message), record);
            self.fan_out(turn, &mut view);
        }
    }

    pub(super) fn on_retain_applied(
        &mut self,
        partition: PartitionId,
        offset: Offset,
        stored: bool,
    ) {
        let ack = self.retain_waits.remove(&(partition, offset));
        let reason = if stored { ReasonCode::SUCCESS } else { ReasonCode::QUOTA_EXCEEDED };
        self.acknowledge(ack, reason);
    }
}
