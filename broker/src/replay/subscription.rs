//! One replay subscription, on the core of its session: its partitions merged into one order.
//!
//! The oldest head goes first, by broker time, as a best effort: a partition that is still read and
//! shows no message is waited for only briefly.

use super::mail::{ReplayId, Source, Start, Stored};
use super::outgoing::Form;
use super::part::Part;
use super::token::Position;
use crate::durable::SubscriptionOptions;
use crate::session::SessionId;
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use std::time::Duration;

/// How long the merge waits for a partition of which nothing is known.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);
/// A token comes with every so many messages, and after so long.
const TOKEN_MESSAGES: u32 = 100;
const TOKEN_EVERY: Duration = Duration::from_secs(1);
/// Notes that wait for the next message; later ones are counted.
const NOTES_MAX: usize = 8;
/// Offsets that are passed over before the position counts as changed: the record of a position is
/// one of them, and must not be the cause of the next.
const PASSED_MAX: u64 = 4096;

/// What a message that is handed out carries besides itself.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) stored: Stored,
    pub(super) partition: PartitionId,
    pub(super) qos: QoS,
    pub(super) with_token: bool,
    /// Whether it was sent before with QoS 2: its exchange goes on by itself, or is over.
    pub(super) is_known: bool,
}

/// What the merge has.
#[derive(Debug)]
pub(super) enum Merged {
    Message(usize),
    /// Nothing before this time, unless something comes.
    Wait(Nanos),
    Nothing,
}

/// A replay subscription.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(super) id: ReplayId,
    /// How often it has been paused.
    run: u32,
    pub(super) session: SessionId,
    /// As it was subscribed to last; the filter part says which replay of its session it is.
    pub(super) name: Box<str>,
    pub(super) filter: Box<str>,
    pub(super) options: SubscriptionOptions,
    pub(super) parts: Vec<Part>,
    /// The SUBACK that grants it, as long as that has not gone out.
    pub(super) suback: Option<u64>,
    /// Whether that waits until all partitions are open.
    pub(super) is_awaited: bool,
    /// The replay of the same filter whose place it takes once it is granted.
    pub(super) replaces: Option<ReplayId>,
    /// Whether another one is about to take its place.
    pub(super) is_replaced: bool,
    /// Whether SUBACK has gone out, or was in an earlier connection.
    pub(super) is_granted: bool,
    /// Whether partitions are being read for it.
    pub(super) is_active: bool,
    /// Whether its session's log knows that it has begun.
    pub(super) is_recorded: bool,
    notes: Vec<String>,
    notes_left_out: u64,
    since_token: u32,
    token_at: Nanos,
    has_moved: bool,
    /// The sum of all positions when they were recorded last.
    recorded: u64,
}

impl Replay {
    pub(super) fn new(
        id: ReplayId,
        session: SessionId,
        (name, filter): (&str, &str),
        options: SubscriptionOptions,
        positions: impl Iterator<Item = Position>,
    ) -> Self {
        let part = |at: Position| Part::new(PartitionId(at.partition), at.epoch, at.next);
        let parts: Vec<Part> = positions.map(part).collect();
        let recorded = sum(&parts);
        Self {
            id,
            run: 0,
            session,
            name: name.into(),
            filter: filter.into(),
            options,
            parts,
            suback: None,
            is_awaited: false,
            replaces: None,
            is_replaced: false,
            is_granted: false,
            is_active: false,
            is_recorded: false,
            notes: Vec::new(),
            notes_left_out: 0,
            since_token: 0,
            token_at: Nanos::NEVER,
            has_moved: false,
            recorded,
        }
    }

    pub(super) fn part_mut(&mut self, partition: PartitionId) -> Option<&mut Part> {
        let index = self.parts.binary_search_by_key(&partition, |part| part.partition).ok()?;
        self.parts.get_mut(index)
    }

    /// Where each partition is to be read from, to go on.
    pub(super) fn starts(&self) -> Vec<(PartitionId, Start)> {
        let start = |part: &Part| {
            let Position { epoch, next, .. } = part.handed();
            (part.partition, Start::Position { epoch, next })
        };
        self.parts.iter().map(start).collect()
    }

    /// What is read of a partition for it now.
    pub(super) fn source(&self, partition: PartitionId) -> Source {
        Source { replay: self.id, run: self.run, partition }
    }

    /// All that is read for it now.
    pub(super) fn sources(&self) -> Vec<Source> {
        self.parts.iter().map(|part| self.source(part.partition)).collect()
    }

    /// Whether its positions mean something: each partition was begun with at some time.
    pub(super) fn is_placed(&self) -> bool {
        self.run > 0 || self.suback.is_none() || self.is_open()
    }

    /// Whether it is a subscription of its session, even if SUBACK never goes out.
    pub(super) fn has_begun(&self) -> bool {
        self.is_granted || self.is_open()
    }

    /// Whether the owner of every partition has said where it begins.
    pub(super) fn is_open(&self) -> bool {
        self.parts.iter().all(Part::is_open)
    }

    pub(super) fn qos(&self, message: u8) -> QoS {
        QoS::from_u8(self.options.qos.min(message)).unwrap_or(QoS::AtMostOnce)
    }

    /// Nothing is read any more until the session has a connection again.
    pub(super) fn pause(&mut self) {
        self.run += 1;
        self.parts.iter_mut().for_each(Part::pause);
    }

    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        } else {
            self.notes_left_out += 1;
        }
    }

    /// What the client is to know.
    pub(super) fn notes(&self) -> Vec<String> {
        let left_out = self.notes_left_out;
        let more = (left_out > 0).then(|| format!("{left_out} more that are not named here"));
        self.notes.iter().cloned().chain(more).collect()
    }

    /// A message goes out in this form, or does not go out at all: what did not fit comes later.
    pub(super) fn on_formed(&mut self, form: Option<Form>) {
        if form.is_some_and(|form| form <= Form::Notes) {
            self.notes.clear();
            self.notes_left_out = 0;
        }
        if form != Some(Form::Whole) {
            self.token_at = Nanos::NEVER;
        }
    }

    /// Which partition has what comes next.
    pub(super) fn merged(&self, now: Nanos) -> Merged {
        let (mut oldest, mut until) = (None, Nanos::NEVER);
        for (index, part) in self.parts.iter().enumerate() {
            if let Some(head) = part.head() {
                if oldest.is_none_or(|(unix_ms, _)| head.unix_ms < unix_ms) {
                    oldest = Some((head.unix_ms, index));
                }
            } else if let Some(since) = part.awaited_since().filter(|since| now < *since + PATIENCE)
            {
                until = until.min(since + PATIENCE);
            }
        }
        match oldest {
            None => Merged::Nothing,
            Some(_) if until != Nanos::NEVER => Merged::Wait(until),
            Some((_, index)) => Merged::Message(index),
        }
    }

    /// Whether the head of a partition goes out with QoS 2, which has to be recorded before.
    pub(super) fn sends_exactly_once(&self, index: usize) -> bool {
        let head = self.parts[index].head();
        head.is_some_and(|head| self.qos(head.message.head().qos) == QoS::ExactlyOnce)
    }

    /// Hands out the head of a partition.
    pub(super) fn take(&mut self, index: usize, now: Nanos) -> Option<Outgoing> {
        let qos = self.qos(self.parts[index].head()?.message.head().qos);
        let part = &mut self.parts[index];
        let (stored, is_known) = part.take(now, qos)?;
        let (partition, was_stored) = (part.partition, part.was_stored(stored.offset));
        self.has_moved = true;
        if is_known {
            return Some(Outgoing { stored, partition, qos, with_token: false, is_known });
        }
        // It may be the last stored one: none is known to follow.
        let may_be_last = was_stored && !self.parts.iter().any(Part::has_stored);
        self.since_token += 1;
        let is_due = TOKEN_MESSAGES <= self.since_token
            || self.token_at == Nanos::NEVER
            || self.token_at + TOKEN_EVERY <= now;
        let with_token = may_be_last || is_due;
        if with_token {
            (self.since_token, self.token_at) = (0, now);
        }
        Some(Outgoing { stored, partition, qos, with_token, is_known })
    }

    /// How far the client was handed everything: what a token says.
    pub(super) fn handed(&self) -> Vec<Position> {
        self.parts.iter().map(Part::handed).collect()
    }

    /// The client is done with a message.
    pub(super) fn on_done(&mut self, partition: PartitionId, offset: u64) {
        self.has_moved = true;
        if let Some(part) = self.part_mut(partition) {
            part.on_done(offset);
        }
    }

    /// A message was sent with QoS 2 before the broker was started.
    pub(super) fn set_exact(&mut self, partition: u32, offset: u64, is_done: bool) {
        if let Some(part) = self.part_mut(PartitionId(partition)) {
            part.set_exact(offset, is_done);
        }
    }

    /// How far the client is done with everything.
    pub(super) fn done(&self) -> Vec<Position> {
        self.parts.iter().map(Part::done).collect()
    }

    /// Whether the position is to be recorded; it is from now on.
    pub(super) fn take_moved(&mut self) -> bool {
        let sum = sum(&self.parts);
        let moved = self.has_moved || self.recorded.abs_diff(sum) >= PASSED_MAX;
        if moved {
            (self.has_moved, self.recorded) = (false, sum);
        }
        moved
    }

    /// The position is to be recorded whatever it is.
    pub(super) fn set_moved(&mut self) {
        self.has_moved = true;
    }
}

fn sum(parts: &[Part]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.wrapping_add(part.done().next))
}

#[cfg(test)]
mod tests {
    use super::super::mail::stored_for_tests as stored;
    use super::*;

    const NOW: Nanos = Nanos::from_secs(1);

    /// A replay of two partitions with ten stored records each.
    fn replay() -> Replay {
        let session = SessionId { slot: 0, generation: 0 };
        let options =
            SubscriptionOptions { qos: 1, no_local: false, retain_as_published: false, id: 0 };
        let at = |partition| Position { partition, epoch: 1, next: 0 };
        let name = ("$replay/earliest/#", "#");
        let mut replay = Replay::new(1, session, name, options, [at(0), at(3)].into_iter());
        for part in &mut replay.parts {
            part.on_opened(NOW, 1, 0, 10);
        }
        replay
    }

    fn feed(replay: &mut Replay, partition: u32, times: &[(u64, u64)], read: u64, at_end: bool) {
        let stored = times.iter().map(|(offset, unix_ms)| stored(*offset, *unix_ms)).collect();
        let part = replay.part_mut(PartitionId(partition)).expect("a partition of it");
        part.on_batch(NOW, stored, read, at_end);
    }

    fn drain(replay: &mut Replay, now: Nanos) -> Vec<(u32, u64, bool)> {
        let mut taken = Vec::new();
        while let Merged::Message(index) = replay.merged(now) {
            let outgoing = replay.take(index, now).expect("a head");
            taken.push((outgoing.partition.0, outgoing.stored.offset, outgoing.with_token));
        }
        taken
    }

    #[test]
    fn partitions_are_merged_by_time() {
        let mut replay = replay();
        feed(&mut replay, 0, &[(0, 100), (5, 300)], 10, true);
        assert!(matches!(replay.merged(NOW), Merged::Wait(until) if until == NOW + PATIENCE));
        feed(&mut replay, 3, &[(2, 200), (4, 400)], 10, true);
        let taken = drain(&mut replay, NOW);
        assert_eq!(taken, [(0, 0, true), (3, 2, false), (0, 5, false), (3, 4, true)]);
    }

    #[test]
    fn a_silent_partition_is_not_waited_for_long() {
        let mut replay = replay();
        feed(&mut replay, 3, &[(2, 200)], 3, false);
        assert!(drain(&mut replay, NOW).is_empty());
        assert_eq!(drain(&mut replay, NOW + PATIENCE), [(3, 2, true)]);
        assert!(matches!(replay.merged(NOW + PATIENCE), Merged::Nothing));
    }

    #[test]
    fn a_token_comes_with_what_may_be_the_last_and_with_every_hundredth() {
        let mut replay = replay();
        feed(&mut replay, 0, &[(9, 1)], 10, true);
        feed(&mut replay, 3, &[(9, 2)], 10, true);
        let (first, last) = (true, true);
        assert_eq!(drain(&mut replay, NOW), [(0, 9, first), (3, 9, last)]);
        let live: Vec<(u64, u64)> = (10..350).map(|offset| (offset, offset)).collect();
        feed(&mut replay, 0, &live, 350, true);
        let tokens: Vec<u64> = drain(&mut replay, NOW)
            .into_iter()
            .filter_map(|(_, offset, token)| token.then_some(offset))
            .collect();
        assert_eq!(tokens, [109, 209, 309]);
        feed(&mut replay, 0, &[(350, 350), (351, 351)], 352, true);
        let later = NOW + TOKEN_EVERY;
        assert_eq!(drain(&mut replay, later), [(0, 350, true), (0, 351, false)]);
        assert_eq!(replay.handed().iter().map(|at| at.next).collect::<Vec<_>>(), [352, 10]);
        assert_eq!(replay.done(), replay.handed(), "with QoS 0 nobody answers");
    }

    #[test]
    fn notes_wait_for_a_message_and_have_a_bound() {
        let mut replay = replay();
        (0..20).for_each(|n| replay.note(format!("note {n}")));
        feed(&mut replay, 0, &[(0, 1)], 10, true);
        feed(&mut replay, 3, &[(0, 2)], 10, true);
        assert!(replay.take(0, NOW).is_some_and(|outgoing| outgoing.with_token));
        let notes = replay.notes();
        assert_eq!((notes.len(), &*notes[8]), (9, "12 more that are not named here"));
        replay.on_formed(Some(Form::Place));
        assert_eq!(replay.notes(), notes, "they did not fit, nor did the token");
        assert!(replay.take(1, NOW).is_some_and(|outgoing| outgoing.with_token));
        replay.on_formed(Some(Form::Whole));
        assert!(replay.notes().is_empty());
    }

    #[test]
    fn a_position_is_recorded_when_it_means_something() {
        let mut replay = replay();
        assert!(!replay.take_moved());
        feed(&mut replay, 0, &[], 10, true);
        assert!(!replay.take_moved(), "a few records that are not for it");
        feed(&mut replay, 0, &[], 10 + PASSED_MAX, true);
        assert!(replay.take_moved() && !replay.take_moved());
        feed(&mut replay, 3, &[(10, 1)], 11, true);
        drain(&mut replay, NOW);
        assert!(replay.take_moved());
    }
}
