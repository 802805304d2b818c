//! What a group has in the log of its partition, and how far that is. Pure.

use super::{MemberKey, Seq};
use crate::durable::{Place, Ranges, Window};
use crate::session::IN_STEP;
use ringlane_dataplane::time::Nanos;
use std::collections::BTreeSet;

/// The log side of a group.
#[derive(Debug)]
pub(crate) struct GroupLog {
    /// Where its partition stands in this core's table.
    pub(crate) index: usize,
    /// Postings in memory or with a member, that are not done with.
    outstanding: BTreeSet<u64>,
    /// Postings at and above are read from the log, or `session::IN_STEP`.
    frontier: u64,
    /// Done with, and not in the log as such.
    done: Ranges,
    /// The position that is in the log.
    recorded: u64,
    /// Members that have a message with QoS 2, and are told once the log says that it is done with.
    unkept: Vec<(MemberKey, Place)>,
    /// When the message at a frontier expires, which is the oldest in the log.
    front: Option<(u64, Nanos)>,
    /// What is on its way out of the log.
    pub(super) window: Option<Window>,
    /// How much may have been posted before the backlog is looked at again.
    pub(super) look_at: u64,
}

/// What is to be recorded of a group.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) position: u64,
    pub(crate) done: Vec<(u64, u64)>,
    pub(crate) kept: Vec<(MemberKey, Place)>,
}

impl GroupLog {
    /// A group whose postings at and above `position` are still to be read.
    pub(crate) fn new(index: usize, position: u64, frontier: u64) -> Self {
        Self {
            index,
            outstanding: BTreeSet::new(),
            frontier,
            done: Ranges::default(),
            recorded: position,
            unkept: Vec::new(),
            front: None,
            window: None,
            look_at: 0,
        }
    }

    pub(crate) fn frontier(&self) -> u64 {
        self.frontier
    }

    pub(crate) fn set_frontier(&mut self, frontier: u64) {
        self.frontier = frontier;
    }

    /// A posting is in memory.
    pub(super) fn begin(&mut self, posting: u64) {
        self.outstanding.insert(posting);
    }

    /// A posting goes out of memory and is read again.
    pub(super) fn leave(&mut self, posting: u64) {
        self.outstanding.remove(&posting);
        self.frontier = self.frontier.min(posting);
    }

    /// Whether a posting is not to be read: it is in memory, or done with.
    pub(crate) fn has(&self, posting: u64) -> bool {
        self.outstanding.contains(&posting) || self.done.contains(posting)
    }

    /// Nobody is owed a message any more.
    pub(super) fn on_done(&mut self, seq: Seq) {
        let Some(posting) = seq.posting() else { return };
        if self.outstanding.remove(&posting) {
            self.done.insert(posting);
        }
    }

    /// The message at the frontier has not expired: until then nothing is read for that.
    pub(super) fn note_front(&mut self, expires_at: Nanos) {
        self.front = Some((self.frontier, expires_at));
    }

    /// Whether the oldest message in the log may have expired, and is not on its way out of it.
    pub(super) fn may_have_expired(&self, now: Nanos) -> bool {
        let known = self.front.filter(|(from, _)| *from == self.frontier);
        self.window.is_none()
            && self.frontier != IN_STEP
            && known.is_none_or(|(_, expires_at)| expires_at <= now)
    }

    /// Postings from the frontier up to `next` are let go of, but for those in memory.
    pub(super) fn let_go(&mut self, next: u64) {
        let mut first = self.frontier;
        for kept in self.outstanding.range(first..next).copied().collect::<Vec<_>>() {
            self.done.add(first, kept);
            first = kept + 1;
        }
        self.done.add(first, next);
        self.frontier = next;
    }

    /// A posting that was never in memory is done with.
    pub(crate) fn pass_over(&mut self, posting: u64) {
        self.done.insert(posting);
    }

    /// A member has a message in its log.
    pub(super) fn on_taken(&mut self, member: MemberKey, seq: Option<Seq>, place: Place) {
        seq.into_iter().for_each(|seq| self.on_done(seq));
        self.unkept.push((member, place));
    }

    /// Whether so many messages of members are not noted in the log that no more are to be given.
    pub(super) fn is_behind(&self) -> bool {
        UNKEPT_MAX <= self.unkept.len()
    }

    /// Everything below is done with. `next` is the number that the next posting gets.
    pub(crate) fn position(&self, next: u64) -> u64 {
        let first = self.outstanding.first().copied().unwrap_or(u64::MAX);
        first.min(self.frontier).min(next)
    }

    /// How many postings at and above a number are done with and not recorded as such.
    pub(crate) fn done_from(&self, from: u64) -> u64 {
        self.done.count_in(from, u64::MAX)
    }

    /// What is done with and not recorded, in bytes of the log.
    pub(super) fn done_bytes(&self) -> usize {
        self.done.len() * size_of::<(u64, u64)>()
    }

    /// What is to be recorded, if anything is; it counts as recorded from now on.
    pub(crate) fn take_progress(&mut self, next: u64) -> Option<Progress> {
        let position = self.position(next);
        if position == self.recorded && self.done.is_empty() && self.unkept.is_empty() {
            return None;
        }
        self.recorded = position;
        let mut done = core::mem::take(&mut self.done);
        done.trim(position);
        let kept = core::mem::take(&mut self.unkept);
        Some(Progress { position, done: done.iter().collect(), kept })
    }
}

/// Messages that members have with QoS 2 and that the log does not say so of yet.
const UNKEPT_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use ringlane_dataplane::ids::CoreId;

    const MEMBER: MemberKey =
        MemberKey { core: CoreId(1), session: SessionId { slot: 7, generation: 0 } };

    #[test]
    fn the_position_is_behind_all_that_is_not_done() {
        let mut log = GroupLog::new(0, 10, IN_STEP);
        (10..14).for_each(|posting| log.begin(posting));
        assert!(log.take_progress(14).is_none(), "nothing has happened");
        log.on_done(Seq::posted(11));
        log.on_done(Seq { at: 12, beside: 1 });
        let progress = log.take_progress(14).expect("some");
        assert_eq!((progress.position, progress.done), (10, vec![(11, 12)]));
        log.on_done(Seq::posted(10));
        log.on_done(Seq::posted(11));
        let progress = log.take_progress(14).expect("some");
        assert_eq!((progress.position, progress.done.len()), (12, 0), "11 was known");
        log.leave(13);
        assert!(!log.has(13) && log.has(12));
        assert_eq!((log.frontier(), log.position(14)), (13, 12));
        log.on_done(Seq::posted(12));
        assert_eq!(log.position(14), 13, "what is to be read is owed");
    }

    #[test]
    fn a_message_that_a_member_has_is_told_once() {
        let mut log = GroupLog::new(0, 0, IN_STEP);
        log.begin(0);
        let place = Place { partition: 1, epoch: 2, offset: 3 };
        log.on_taken(MEMBER, Some(Seq::posted(0)), place);
        log.on_done(Seq::posted(0));
        let progress = log.take_progress(1).expect("some");
        assert_eq!((progress.position, progress.kept), (1, vec![(MEMBER, place)]));
        assert!(log.take_progress(1).is_none());
    }
}
