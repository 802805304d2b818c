//! The log of a host: its end of turn, and how it is closed and opened again.

use super::apply::Apply;
use super::{Ask, Host, Outside, Turn};
use crate::ids::Offset;
use crate::log::writer::Writer;
use crate::partition::Partition;
use crate::replication::message::CheckpointStart;

/// Whether the log can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LogState {
    Open,
    /// What is below the offset is flushed, and the files are let go of; without one the log is to
    /// be replaced.
    Closing(Option<Offset>),
    /// Nobody has a file of it open.
    Closed(Option<Offset>),
}

impl LogState {
    pub(super) fn is_open(self) -> bool {
        self == Self::Open
    }
}

impl Host {
    pub(super) fn begin_closing<A>(&mut self, to: Option<Offset>, turn: &mut Turn<'_, A>) {
        self.state = LogState::Closing(to);
        self.apply.forget();
        self.close_readers(turn.disk);
        if let Some(log) = turn.partition.log_mut() {
            log.close_soon();
        }
    }

    pub(super) fn end_log_turn<A>(&mut self, turn: &mut Turn<'_, A>, outside: &mut impl Outside) {
        match self.state {
            LogState::Open => turn.partition.end_turn(turn.now, turn.unix_ms, turn.disk),
            LogState::Closing(to) => self.close_on(to, turn, outside),
            LogState::Closed(_) => {}
        }
    }

    /// What stays is flushed first, and all that is under way has ended.
    fn close_on<A>(
        &mut self,
        to: Option<Offset>,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) {
        let Some(log) = turn.partition.log() else { return };
        let flushed = log.marks().flushed;
        if to.is_some_and(|to| flushed < to) && log.fault().is_none() {
            return turn.partition.end_turn(turn.now, turn.unix_ms, turn.disk);
        }
        let are_read = self.are_readers_closed();
        let Some(log) = turn.partition.log_mut() else { return };
        if log.close(turn.disk) && are_read && !self.has_failed {
            self.state = LogState::Closed(to);
            outside.ask(match to {
                Some(to) => Ask::Truncate { to },
                None => Ask::Replace { start: self.transfers.replaced_by() },
            });
        }
    }

    /// The log has been truncated as [`Ask::Truncate`] said, and was opened again.
    ///
    /// # Panics
    /// If it was not asked for, or the log does not end there.
    pub fn on_truncated<A>(
        &mut self,
        log: Writer,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) {
        let next = log.marks().accepted;
        assert_eq!(self.state, LogState::Closed(Some(next)), "the log ends where it was cut");
        self.open_again(turn.partition, log, self.apply.next);
        self.replica.on_truncated(next);
        self.carry_out(turn, outside);
    }

    /// The log begins anew as [`Ask::Replace`] said, and the caller has the state of the checkpoint.
    ///
    /// # Panics
    /// If it was not asked for, or the log does not begin, empty, where the leader's did.
    pub fn on_reset<A>(&mut self, log: Writer, turn: &mut Turn<'_, A>, outside: &mut impl Outside) {
        assert_eq!(self.state, LogState::Closed(None), "the log was closed for a checkpoint");
        let CheckpointStart { start, epoch, next, .. } = self.transfers.end_replacing();
        let marks = log.marks();
        assert_eq!((marks.start, marks.accepted), (start, start), "it begins where it was to");
        self.open_again(turn.partition, log, next);
        self.replica.on_reset(start, epoch);
        self.carry_out(turn, outside);
    }

    fn open_again<A>(&mut self, partition: &mut Partition<A>, mut log: Writer, applied: Offset) {
        log.note_quorum(self.quorum_marks());
        *partition = Partition::with_log(partition.id(), log);
        self.state = LogState::Open;
        self.apply = Apply::new(applied);
        self.reads.clear();
    }
}
