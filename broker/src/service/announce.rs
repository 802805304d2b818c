//! Filters are announced: the first holder of a filter on a core tells every other core, and the
//! subscriber's SUBACK waits until all of them have it (design, section 2).

use super::{Broker, Turn};
use crate::durable::SubscriptionOptions;
use crate::groups::GroupId;
use crate::mail::Mail;
use crate::session::SessionId;
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_mqtt::ReasonCode;
use std::collections::VecDeque;

/// A SUBACK that waits for other cores.
#[derive(Debug)]
pub(crate) struct PendingSuback {
    pub(crate) id: u64,
    pub(crate) connection: ConnectionId,
    pub(crate) session: SessionId,
    pub(crate) packet_id: u16,
    pub(crate) reasons: Vec<ReasonCode>,
    /// What the client is told besides.
    pub(crate) text: Option<String>,
    /// Every announcement below this must be installed everywhere.
    pub(crate) announced: u64,
    /// Groups that have not answered yet.
    pub(crate) joins_left: u32,
    /// Filters whose retained messages are to be sent, as they stand in the session.
    pub(crate) retained: Vec<Box<str>>,
    /// What is recorded of a session that outlives its connection.
    pub(crate) granted: Vec<(Box<str>, SubscriptionOptions)>,
}

/// A group's owner that waits for its filter to be installed everywhere.
#[derive(Debug)]
struct PendingJoin {
    announced: u64,
    to: CoreId,
    suback: u64,
    session: SessionId,
    group: GroupId,
}

/// Announcements made, how far each core has installed them, and who waits.
#[derive(Debug)]
pub(crate) struct Announcer {
    core: CoreId,
    next_seq: u64,
    installed: Vec<u64>,
    next_suback: u64,
    subacks: VecDeque<PendingSuback>,
    joins: VecDeque<PendingJoin>,
    /// Announcements of others that were installed here in this turn.
    owed: Vec<(CoreId, u64)>,
}

impl Announcer {
    pub(crate) fn new(core: CoreId, cores: u16) -> Self {
        Self {
            core,
            next_seq: 0,
            installed: vec![0; usize::from(cores)],
            next_suback: 0,
            subacks: VecDeque::new(),
            joins: VecDeque::new(),
            owed: Vec::new(),
        }
    }

    pub(crate) fn cores(&self) -> u16 {
        self.installed.len() as u16
    }

    /// Every announcement so far lies below this.
    pub(crate) fn announced(&self) -> u64 {
        self.next_seq
    }

    pub(crate) fn fresh_suback(&mut self) -> u64 {
        self.next_suback += 1;
        self.next_suback
    }

    pub(crate) fn push_suback(&mut self, suback: PendingSuback) {
        self.subacks.push_back(suback);
    }

    /// A group has answered for one filter of a SUBACK.
    pub(crate) fn on_joined(&mut self, suback: u64) {
        if let Some(pending) = self.subacks.iter_mut().find(|pending| pending.id == suback) {
            pending.joins_left = pending.joins_left.saturating_sub(1);
        }
    }

    /// The client that waits for a SUBACK is told something, unless it is told something else.
    pub(crate) fn note(&mut self, suback: u64, text: &str) {
        if let Some(pending) = self.subacks.iter_mut().find(|pending| pending.id == suback) {
            pending.text.get_or_insert_with(|| text.to_owned());
        }
    }

    /// The next SUBACK that waits for nothing any more.
    pub(crate) fn take_suback(&mut self) -> Option<PendingSuback> {
        let installed = self.installed_everywhere();
        // `announced` never falls along the queue.
        let mut known = self.subacks.iter().take_while(|pending| pending.announced <= installed);
        let index = known.position(|pending| pending.joins_left == 0)?;
        self.subacks.remove(index)
    }

    fn take_join(&mut self) -> Option<PendingJoin> {
        let installed = self.installed_everywhere();
        if self.joins.front()?.announced > installed {
            return None;
        }
        self.joins.pop_front()
    }

    /// Announcements that are not installed everywhere.
    pub(crate) fn unanswered(&self) -> u64 {
        self.next_seq.saturating_sub(self.installed_everywhere())
    }

    fn installed_everywhere(&self) -> u64 {
        let others = self.installed.iter().enumerate();
        let others = others.filter(|(core, _)| *core != self.core.index());
        others.map(|(_, seq)| *seq).min().unwrap_or(u64::MAX)
    }
}

impl Broker {
    /// A filter is held on this core, which the other cores were not told of.
    pub(crate) fn announce_filter(&mut self, turn: &mut Turn<'_>, filter: &str) {
        if self.cores() == 1 || !self.note_told(filter) {
            return;
        }
        let seq = self.announcer.next_seq;
        self.announcer.next_seq += 1;
        self.broadcast(turn, || Mail::FilterAdd { seq, filter: filter.into() });
    }

    /// The last holder of a filter on this core has gone.
    pub(crate) fn withdraw_filter(&mut self, turn: &mut Turn<'_>, filter: &str) {
        if !self.note_withdrawn(filter) {
            return;
        }
        self.broadcast(turn, || Mail::FilterRemove { filter: filter.into() });
    }

    /// A group was joined: its owner answers once the group's filter is installed everywhere.
    pub(crate) fn answer_join(
        &mut self,
        turn: &mut Turn<'_>,
        to: CoreId,
        suback: u64,
        (session, group): (SessionId, GroupId),
    ) {
        let announced = self.announcer.announced();
        let join = PendingJoin { announced, to, suback, session, group };
        self.announcer.joins.push_back(join);
        self.settle_announcements(turn);
    }

    pub(super) fn on_filter_add(&mut self, from: CoreId, seq: u64, filter: &str) {
        self.routes.add_remote(from, filter);
        match self.announcer.owed.iter_mut().find(|(core, _)| *core == from) {
            Some((_, owed)) => *owed = seq + 1,
            None => self.announcer.owed.push((from, seq + 1)),
        }
    }

    /// End of turn: one answer per core for all announcements that were installed.
    pub(super) fn acknowledge_filters(&mut self, turn: &mut Turn<'_>) {
        while let Some((to, seq)) = self.announcer.owed.pop() {
            // A durable subscription begins where this core's logs are now.
            let marks = self.log_marks(to);
            if !marks.is_empty() {
                self.send_mail(turn, to, Mail::LogMarks { marks });
            }
            self.send_mail(turn, to, Mail::FilterAck { seq });
        }
    }

    pub(super) fn on_filter_ack(&mut self, turn: &mut Turn<'_>, from: CoreId, seq: u64) {
        let installed = &mut self.announcer.installed[from.index()];
        *installed = (*installed).max(seq);
        self.settle_announcements(turn);
    }

    /// Sends what no longer waits for an announcement.
    pub(crate) fn settle_announcements(&mut self, turn: &mut Turn<'_>) {
        while let Some(join) = self.announcer.take_join() {
            self.finish_join(turn, join.to, join.suback, (join.session, join.group));
        }
        while let Some(suback) = self.announcer.take_suback() {
            self.record_subscriptions(turn, suback);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suback(id: u64, announced: u64, joins_left: u32) -> PendingSuback {
        PendingSuback {
            id,
            connection: ConnectionId { slot: 0, generation: 0 },
            session: SessionId { slot: 0, generation: 0 },
            packet_id: 1,
            reasons: Vec::new(),
            text: None,
            announced,
            joins_left,
            retained: Vec::new(),
            granted: Vec::new(),
        }
    }

    #[test]
    fn a_suback_waits_for_the_slowest_core_and_for_its_groups() {
        let mut announcer = Announcer::new(CoreId(1), 3);
        announcer.push_suback(suback(2, 1, 1));
        announcer.push_suback(suback(1, 2, 0));
        announcer.installed = vec![2, 0, 1];
        assert!(announcer.take_suback().is_none());
        announcer.on_joined(2);
        assert_eq!(announcer.take_suback().map(|s| s.id), Some(2));
        announcer.installed[2] = 2;
        assert_eq!(announcer.take_suback().map(|s| s.id), Some(1));
    }

    #[test]
    fn a_single_core_waits_for_nobody() {
        let mut announcer = Announcer::new(CoreId(0), 1);
        announcer.push_suback(suback(1, 100, 0));
        assert!(announcer.take_suback().is_some());
    }
}
