//! One partition of a replay, on the subscriber's side: what has come, what was handed to the client,
//! what it has acknowledged.

use super::mail::Stored;
use super::token::Position;
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use std::collections::{BTreeMap, VecDeque};

/// Messages and bytes of one partition that its owner may be ahead of the client by.
pub(crate) const WINDOW_MESSAGES: u32 = 512;
pub(crate) const WINDOW_BYTES: u64 = 128 * 1024;

/// Messages and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Amount {
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

/// A message that was handed to the client.
#[derive(Clone, Copy, Debug)]
struct Handed {
    offset: u64,
    done: bool,
}

/// One partition of a replay.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) partition: PartitionId,
    /// The epoch that offsets count in.
    epoch: u64,
    /// Below this all was handed to the client, or is not for it.
    handed: u64,
    /// Up to here the owner has read.
    read: u64,
    /// What was stored when the replay began ends here.
    stored_end: u64,
    /// Whether the owner has answered since reading began, or began again.
    is_open: bool,
    /// Whether the owner had nothing more when it last told something.
    at_end: bool,
    queue: VecDeque<Stored>,
    /// Handed with QoS 1 or 2, in order; at the front is one that is not acknowledged.
    inflight: VecDeque<Handed>,
    /// Handed with QoS 2, at or above the position, and whether the client is done with them: they
    /// are not handed again, whatever becomes of the connection.
    exact: BTreeMap<u64, bool>,
    /// Taken from the queue, and not given back to the owner as credit.
    spent: Amount,
    /// Since when nothing is known to come next.
    silent_since: Nanos,
}

impl Part {
    /// A partition whose owner is yet to say where reading begins.
    pub(crate) fn new(partition: PartitionId, epoch: u64, next: u64) -> Self {
        Self {
            partition,
            epoch,
            handed: next,
            read: next,
            stored_end: next,
            is_open: false,
            at_end: false,
            queue: VecDeque::new(),
            inflight: VecDeque::new(),
            exact: BTreeMap::new(),
            spent: Amount::default(),
            silent_since: Nanos::NEVER,
        }
    }

    /// Reading begins anew where it came to: what came and was not handed is forgotten.
    pub(crate) fn pause(&mut self) {
        self.queue.clear();
        self.spent = Amount::default();
        (self.is_open, self.at_end) = (false, false);
        self.silent_since = Nanos::NEVER;
    }

    /// A message was handed with QoS 2 before the broker was started.
    pub(crate) fn set_exact(&mut self, offset: u64, is_done: bool) {
        self.exact.insert(offset, is_done);
    }

    /// What was handed and is not acknowledged is to be handed again: nobody else does it.
    pub(crate) fn rewind(&mut self) {
        self.handed = self.done().next;
        self.inflight.clear();
    }

    /// Whether the owner has said where reading begins.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The owner begins at this offset; what is stored now ends at `stored_end`.
    pub(crate) fn on_opened(&mut self, now: Nanos, epoch: u64, next: u64, stored_end: u64) {
        (self.epoch, self.handed, self.read, self.stored_end) = (epoch, next, next, stored_end);
        (self.is_open, self.silent_since) = (true, now);
    }

    /// The owner has read up to `read`.
    pub(crate) fn on_batch(&mut self, now: Nanos, stored: Vec<Stored>, read: u64, at_end: bool) {
        self.queue.extend(stored);
        (self.read, self.at_end) = (read, at_end);
        self.settle(now);
    }

    /// What comes next.
    pub(crate) fn head(&self) -> Option<&Stored> {
        self.queue.front()
    }

    /// Hands out what comes next, and whether that was done before with QoS 2. With QoS 1 and 2 its end
    /// will be told.
    pub(crate) fn take(&mut self, now: Nanos, qos: QoS) -> Option<(Stored, bool)> {
        let stored = self.queue.pop_front()?;
        let offset = stored.offset;
        self.handed = offset + 1;
        self.spent.messages += 1;
        self.spent.bytes += stored.bytes();
        let known = self.exact.get(&offset).copied();
        if known.is_some() || qos != QoS::AtMostOnce {
            self.inflight.push_back(Handed { offset, done: false });
        }
        match known {
            Some(true) => self.on_done(offset),
            None if qos == QoS::ExactlyOnce => drop(self.exact.insert(offset, false)),
            Some(false) | None => {}
        }
        self.settle(now);
        Some((stored, known.is_some()))
    }

    fn settle(&mut self, now: Nanos) {
        if self.queue.is_empty() {
            self.handed = self.handed.max(self.read);
            self.silent_since = if self.at_end { Nanos::NEVER } else { now };
        }
    }

    /// The client is done with a message.
    pub(crate) fn on_done(&mut self, offset: u64) {
        if let Some(is_done) = self.exact.get_mut(&offset) {
            *is_done = true;
        }
        let at = self.inflight.partition_point(|handed| handed.offset < offset);
        if let Some(handed) = self.inflight.get_mut(at).filter(|handed| handed.offset == offset) {
            handed.done = true;
        }
        while self.inflight.front().is_some_and(|handed| handed.done) {
            self.inflight.pop_front();
        }
        if !self.exact.is_empty() {
            self.exact = self.exact.split_off(&self.done().next);
        }
    }

    /// Credit for the owner, as soon as it is worth a mail.
    pub(crate) fn take_spent(&mut self) -> Option<Amount> {
        let half =
            WINDOW_MESSAGES / 2 <= self.spent.messages || WINDOW_BYTES / 2 <= self.spent.bytes;
        half.then(|| core::mem::take(&mut self.spent))
    }

    /// Whether something may come next that is older than the heads of others; and until when that
    /// is waited for.
    pub(crate) fn awaited_since(&self) -> Option<Nanos> {
        (self.queue.is_empty() && self.silent_since != Nanos::NEVER).then_some(self.silent_since)
    }

    /// Whether a message is waiting here that was stored when the replay began.
    pub(crate) fn has_stored(&self) -> bool {
        self.queue.front().is_some_and(|stored| stored.offset < self.stored_end)
    }

    /// Whether an offset was stored when the replay began.
    pub(crate) fn was_stored(&self, offset: u64) -> bool {
        offset < self.stored_end
    }

    /// How far the client was handed everything.
    pub(crate) fn handed(&self) -> Position {
        Position { partition: self.partition.0, epoch: self.epoch, next: self.handed }
    }

    /// How far the client is done with everything.
    pub(crate) fn done(&self) -> Position {
        let next = self.inflight.front().map_or(self.handed, |handed| handed.offset);
        Position { next, ..self.handed() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mail::stored_for_tests as stored;
    use super::*;

    const NOW: Nanos = Nanos::from_secs(1);
    const ONE: QoS = QoS::AtLeastOnce;
    const ZERO: QoS = QoS::AtMostOnce;
    const TWO: QoS = QoS::ExactlyOnce;

    fn open() -> Part {
        let mut part = Part::new(PartitionId(3), 1, 0);
        part.on_opened(NOW, 2, 10, 15);
        part
    }

    #[test]
    fn the_position_follows_what_the_client_is_done_with() {
        let mut part = open();
        assert_eq!((part.done().next, part.done().epoch), (10, 2));
        part.on_batch(NOW, vec![stored(11, 0), stored(13, 0)], 14, false);
        assert_eq!(part.handed().next, 10, "the one at 11 is not handed yet");
        assert!(part.take(NOW, ONE).is_some_and(|(stored, _)| stored.offset == 11));
        assert!(part.take(NOW, ONE).is_some());
        assert_eq!((part.handed().next, part.done().next), (14, 11));
        part.on_done(13);
        assert_eq!(part.done().next, 11, "out of order");
        part.on_done(11);
        assert_eq!(part.done().next, 14);
        part.on_batch(NOW, Vec::new(), 20, true);
        assert_eq!(part.done().next, 20, "what is not for the client is passed over");
    }

    #[test]
    fn a_pause_forgets_what_was_not_handed() {
        let mut part = open();
        part.on_batch(NOW, vec![stored(11, 0), stored(13, 0)], 14, false);
        part.take(NOW, ZERO);
        part.pause();
        assert!(part.head().is_none() && !part.is_open());
        assert_eq!(part.done().next, 12);
    }

    #[test]
    fn what_was_not_acknowledged_can_be_handed_again() {
        let mut part = open();
        part.on_batch(NOW, vec![stored(11, 0), stored(13, 0)], 14, false);
        part.take(NOW, ONE);
        part.take(NOW, ONE);
        part.on_done(11);
        part.pause();
        part.rewind();
        assert_eq!((part.handed().next, part.done().next), (13, 13));
    }

    #[test]
    fn what_was_sent_with_qos_2_is_not_handed_again() {
        let offsets = [11, 12, 13, 14];
        let read = |part: &mut Part| {
            part.on_batch(NOW, offsets.map(|offset| stored(offset, 0)).into(), 15, false);
        };
        let mut part = open();
        read(&mut part);
        for qos in [ONE, TWO, TWO, ONE] {
            assert!(part.take(NOW, qos).is_some_and(|(_, is_known)| !is_known));
        }
        part.on_done(12);
        part.pause();
        part.rewind();
        part.on_opened(NOW, 2, 11, 15);
        read(&mut part);
        let known = offsets.map(|_| part.take(NOW, ONE).is_some_and(|(_, is_known)| is_known));
        assert_eq!(known, [false, true, true, false]);
        part.on_done(11);
        assert_eq!(part.done().next, 13, "its exchange goes on");
        part.on_done(13);
        part.on_done(14);
        assert_eq!((part.done().next, part.exact.len()), (15, 0));
    }

    #[test]
    fn what_was_completed_before_a_start_is_passed_over() {
        let mut part = open();
        part.set_exact(11, false);
        part.set_exact(12, true);
        part.on_done(11);
        part.on_batch(NOW, vec![stored(11, 0), stored(12, 0), stored(13, 0)], 14, true);
        assert!(part.take(NOW, TWO).is_some_and(|(_, is_known)| is_known));
        assert!(part.take(NOW, TWO).is_some_and(|(_, is_known)| is_known));
        assert_eq!(part.done().next, 13);
        assert!(part.take(NOW, TWO).is_some_and(|(_, is_known)| !is_known));
    }

    #[test]
    fn credit_goes_back_in_halves() {
        let mut part = open();
        let many = (0..u64::from(WINDOW_MESSAGES)).map(|n| stored(10 + n, 0)).collect();
        part.on_batch(NOW, many, 10 + u64::from(WINDOW_MESSAGES), false);
        let mut given = 0;
        for taken in 1..=WINDOW_MESSAGES {
            assert!(part.take(NOW, ZERO).is_some());
            given += part.take_spent().map_or(0, |amount| amount.messages);
            assert!(taken - given < WINDOW_MESSAGES / 2, "half of the window is always free");
        }
        assert_eq!(given, WINDOW_MESSAGES);
    }

    #[test]
    fn a_partition_that_is_at_its_end_is_not_waited_for() {
        let mut part = open();
        assert_eq!(part.awaited_since(), Some(NOW));
        part.on_batch(NOW, vec![stored(11, 0)], 12, true);
        assert!(part.has_stored() && part.awaited_since().is_none());
        part.take(NOW, ZERO);
        assert!(part.awaited_since().is_none());
        part.on_batch(NOW, vec![stored(20, 0)], 21, false);
        assert!(!part.has_stored(), "it came since");
        part.take(NOW, ZERO);
        assert_eq!(part.awaited_since(), Some(NOW));
    }
}
