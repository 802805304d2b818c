//! Checkpoints of a follower, of the state that its committed records make.
//!
//! They are those of a leader with one difference: a follower's log goes on in front of its state. So the place that
//! replay begins at is noted first, where the log ends at that moment, and the pieces are taken once everything below it is
//! applied: what is in them beyond that is applied again. All that is in them is committed.

use super::{
    CHUNK_BYTES, Checkpoints, DiskEvent, Ended, LAST_TURN, LOOK_EVERY, PIECE_EVERY, Stage, TURN,
};
use crate::durable::Recovery;
use crate::durable::model::PartitionState;
use crate::durable::records::StateRecord;
use crate::durable::trimming::replayed_from;
use crate::metrics::CoreMetrics;
use ringlane_dataplane::disk::Disk;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::time::Nanos;
use std::ops::Bound;
use std::time::Duration;

const _: () = assert!(TURN.1 < LAST_TURN.1, "a follower takes small pieces");

/// A follower, as its checkpoints see it.
pub(crate) struct Followed<'a> {
    /// Its place in the table of its core.
    pub(crate) index: usize,
    /// Its state, which has all below `applied`.
    pub(crate) recovery: &'a Recovery,
    /// Up to here records are applied.
    pub(crate) applied: Offset,
    /// Its log.
    pub(crate) log: &'a Writer,
}

impl Checkpoints {
    /// Once a second: whether the next one is due, and where it begins. `trimmed` is up to where the log of the leader has
    /// been given up.
    pub(crate) fn look_as_follower(
        &mut self,
        now: Nanos,
        follower: &Followed<'_>,
        (trimmed, bytes_max): (Offset, u64),
        disk: &mut Disk,
    ) {
        let (log, marks) = (follower.log, follower.log.marks());
        self.look_after_ballast(follower.index, log, disk);
        let kept = self.older().map(|older| replayed_from(&older, log.segments().sealed().iter()));
        let could = log.segments().sealed().iter().take_while(|sealed| sealed.end <= trimmed);
        let is_held = could.last().is_some_and(|sealed| kept.unwrap_or_default() < sealed.end);
        self.want(now, is_held, log.full().is_some());
        let is_right = self.right_from <= marks.high_watermark;
        if self.mark.is_none() && is_right && self.is_due(now, log, bytes_max) {
            self.mark = Some(log.replay_from());
        }
    }

    /// End of turn: goes on with the one in the making, a bounded piece; when it is to go on without an event.
    pub(crate) fn make_as_follower(
        &mut self,
        now: Nanos,
        follower: &Followed<'_>,
        disk: &mut Disk,
    ) -> Nanos {
        if follower.log.fault().is_some() {
            self.give_up_as_follower(follower.index, disk);
            return Nanos::NEVER;
        }
        if self.making.is_none() {
            let is_applied = |from: &mut super::ReplayFrom| from.offset <= follower.applied;
            // Parts of postings count with the record behind them, which has to be in the state with them.
            let is_whole = !follower.recovery.state.has_parts();
            let Some(from) = self.mark.take_if(|from| is_whole && is_applied(from)) else {
                return Nanos::NEVER;
            };
            self.begin_behind(follower.index, from, follower.log, disk);
        }
        if now < self.step_at {
            return self.step_at;
        }
        let after = self.step_as_follower(follower, disk);
        self.step_at = after.map_or(Nanos(0), |after| now + after);
        after.map_or(Nanos::NEVER, |after| now + after)
    }

    /// Takes and writes some of it; after which time it goes on, unless the disk has to answer first.
    fn step_as_follower(&mut self, follower: &Followed<'_>, disk: &mut Disk) -> Option<Duration> {
        let committed = follower.log.marks().high_watermark;
        let making = self.making.as_mut().filter(|making| making.asked.is_none())?;
        let taken = making.encoder.len();
        for _ in 0..TURN.0 {
            let is_taken = matches!(making.stage, Stage::Flushing(_) | Stage::Publishing);
            if is_taken || CHUNK_BYTES.min(taken + TURN.1) <= making.encoder.len() {
                break;
            }
            let stage = core::mem::replace(&mut making.stage, Stage::Publishing);
            let mut append = |record: &StateRecord<'_>| making.encoder.append(record);
            making.stage =
                next_piece(stage, &follower.recovery.state, follower.applied, &mut append);
        }
        let (is_empty, is_long) = (making.encoder.len() == 0, CHUNK_BYTES <= making.encoder.len());
        match making.stage {
            Stage::Flushing(end) if is_empty && end <= committed => {
                self.publish(follower.index, committed, disk);
            }
            Stage::Flushing(_) if is_empty => return Some(LOOK_EVERY),
            Stage::Flushing(_) => self.write_taken(follower.index, disk),
            _ if is_long => self.write_taken(follower.index, disk),
            _ => return Some(PIECE_EVERY),
        }
        None
    }

    /// What was begun is of no use: the state or the log goes.
    pub(crate) fn give_up_as_follower(&mut self, index: usize, disk: &mut Disk) {
        self.mark = None;
        self.let_go(index, disk);
    }

    /// Up to where a follower may trim its log, which is not to go further than its leader's: `trimmed`.
    pub(crate) fn trim_as_follower(&self, log: &Writer, trimmed: Offset) -> Offset {
        let kept = self.older().map(|older| replayed_from(&older, log.segments().sealed().iter()));
        trimmed.min(kept.unwrap_or_default()).min(log.marks().high_watermark)
    }

    /// Something that a follower's checkpoint asked of the disk has ended.
    pub(crate) fn on_event_as_follower(
        &mut self,
        (index, partition): (usize, u32),
        event: &DiskEvent,
        now: Nanos,
        (disk, metrics): (&mut Disk, &CoreMetrics),
    ) {
        let ended: Ended = self.on_event(index, event, now, disk);
        ended.tell(partition, metrics);
    }
}

/// Takes the next piece of a state; what comes behind it.
fn next_piece(
    stage: Stage,
    state: &PartitionState,
    applied: Offset,
    append: &mut impl FnMut(&StateRecord<'_>),
) -> Stage {
    match stage {
        Stage::State(super::Piece::Done) => Stage::Retained(None),
        Stage::State(piece) => Stage::State(state.snapshot(piece, 1, append)),
        Stage::Retained(after) => {
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            match state.retained.range::<str, _>((from, Bound::Unbounded)).next() {
                Some((topic, retained)) => {
                    append(&StateRecord::Retained { topic, retained: retained.body() });
                    Stage::Retained(Some(topic.clone()))
                }
                None => {
                    append(&StateRecord::RetainedCursors { cursors: state.retained_cursors() });
                    Stage::Flushing(applied)
                }
            }
        }
        taken => taken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::postings::Place;
    use crate::durable::records::RetainedBody;

    #[test]
    fn all_of_a_state_is_taken_in_pieces() {
        let mut state = PartitionState::new(1);
        let client_id = "c";
        let open = StateRecord::SessionOpen { client_id, clean: true, expiry_secs: 9, will: None };
        state.apply(&open);
        for (offset, topic) in [(1, "b"), (2, "a"), (3, "c")] {
            let place = Place { partition: 0, epoch: 1, offset };
            let retained = RetainedBody {
                place,
                memory: false,
                publisher: 0,
                accepted_ms: 0,
                expiry_secs: None,
                qos: 1,
                properties: &[],
                payload: b"x",
            };
            state.apply(&StateRecord::Retained { topic, retained });
        }
        let (mut stage, mut kinds) = (Stage::State(super::super::Piece::Head), Vec::new());
        while !matches!(stage, Stage::Flushing(_)) {
            let mut append = |record: &StateRecord<'_>| kinds.push(record.topic().to_owned());
            stage = next_piece(stage, &state, Offset(7), &mut append);
        }
        assert!(matches!(stage, Stage::Flushing(Offset(7))));
        kinds.retain(|topic| !topic.is_empty());
        assert_eq!(kinds, ["a", "b", "c"]);
    }
}
