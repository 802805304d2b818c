//! Backlogs at their bound: the filters whose sessions can take no more.
//!
//! What a session is owed counts in memory where it is in memory, and in bytes of the log where it is
//! there. A session that is owed as much as its bound allows does not lose what it is owed; instead its
//! filters are announced as full, and publishers to them get 0x97 or are not read from (policy
//! `reject`). In a stream with `drop_oldest` the oldest message goes and is counted; a message of
//! another stream is never dropped for it.

use super::{Broker, Timer, Turn};
use crate::config::WhenFull;
use crate::durable::Durable;
use crate::mail::Mail;
use crate::session::{SessionId, SubscriptionKind};
use ringlane_dataplane::routing::FilterTree;
use std::time::Duration;

/// How often full backlogs are looked through for expired messages.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Messages in the log that are let go of in one step.
pub(crate) const LET_GO_MAX: usize = 1024;

/// Where `drop_oldest` lets go to: below its bound, so that not each further message is counted and let
/// go of by itself.
pub(crate) fn low_mark(bound: u64) -> u64 {
    bound - bound / 8
}

/// Filters of full backlogs on any core, with the number of backlogs behind each.
#[derive(Debug, Default)]
pub(crate) struct FullFilters(FilterTree<u32>);

impl FullFilters {
    pub(crate) fn add(&mut self, filter: &str) {
        *self.0.entry(filter, || 0) += 1;
    }

    pub(crate) fn remove(&mut self, filter: &str) {
        if let Some(count) = self.0.get_mut(filter) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(filter);
            }
        }
    }

    /// Whether a message of this topic is owed to a session that can take no more.
    pub(crate) fn matches(&self, topic: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut full = false;
        self.0.for_each_match(topic, &mut |_| full = true);
        full
    }
}

impl Broker {
    /// Checks a session's backlog against its bound after it grew.
    pub(crate) fn check_backlog(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let bound = self.sizes.backlog_bytes_max;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.outbound.queue_bytes() <= bound {
            return;
        }
        self.drop_oldest(id, bound);
        if self.sessions.get(id).is_some_and(|session| !session.backlog_full) {
            self.drop_expired(turn, id);
            self.announce_if_full(turn, id);
        }
    }

    /// A message was left to the log: what a session is owed there is looked at before it can have
    /// grown above its bound. What it has in memory besides is little.
    pub(crate) fn on_left_to_log(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let is_due = |durable: &&Durable| durable.backlog_is_due(id);
        if self.durable.as_ref().filter(is_due).is_none() {
            return;
        }
        let bound = self.sizes.backlog_bytes_max as u64;
        let mut bytes = self.log_backlog_bytes(id);
        let mut goes_on = false;
        if bytes > bound {
            (bytes, goes_on) = self.let_go_of_oldest(id, low_mark(bound));
        }
        if let Some(durable) = &mut self.durable {
            durable.set_backlog_room(id, bound.saturating_sub(bytes));
        }
        // With the next message that is left to the log it goes on.
        if bytes > bound && !goes_on {
            self.set_backlog_full(turn, id, true);
        }
    }

    /// What a session is owed that is in the log only, in bytes.
    pub(crate) fn log_backlog_bytes(&self, id: SessionId) -> u64 {
        let found = || {
            let from = self.frontier(id)?;
            let session = self.sessions.get(id)?;
            let index = self.durable_index(session.partition)?;
            let state = &self.durable.as_ref()?.partitions[index].state;
            let slot = state.find(session.client_id.as_str())?;
            Some(state.amount(slot, from).bytes)
        };
        found().unwrap_or(0)
    }

    /// Passes over the oldest messages in the log until so many bytes are left, as far as their streams
    /// allow it and one step takes. What is left, in bytes, and whether the step was too small.
    fn let_go_of_oldest(&mut self, id: SessionId, left_max: u64) -> (u64, bool) {
        let nothing = (0, false);
        let Some(from) = self.frontier(id) else { return nothing };
        let partition = self.sessions.get(id).map(|session| session.partition);
        let Some(index) = partition.and_then(|p| self.durable_index(p)) else { return nothing };
        let (Some(durable), Some(session)) = (&self.durable, self.sessions.get_mut(id)) else {
            return nothing;
        };
        let state = &durable.partitions[index].state;
        let Some(slot) = state.find(session.client_id.as_str()) else { return nothing };
        let (next, dropped) = state.without_oldest(slot, from, left_max, LET_GO_MAX);
        if dropped > 0 {
            session.outbound.set_frontier(next);
            self.metrics.dropped_backlog.add(dropped);
            self.note_moved(id);
        }
        (self.log_backlog_bytes(id), dropped == LET_GO_MAX as u64)
    }

    /// Makes room as far as the oldest messages are of streams that allow it.
    fn drop_oldest(&mut self, id: SessionId, bound: usize) {
        while let Some(session) = self.sessions.get_mut(id)
            && session.outbound.queue_bytes() > bound
            && let Some(topic) = session.outbound.oldest_queued_topic()
            && self.streams.of(topic).when_full == WhenFull::DropOldest
        {
            let Some(dropped) = session.outbound.pop_queue() else { break };
            self.metrics.dropped_backlog.add(1);
            self.metrics.queued_messages.sub(1);
            self.metrics.queued_bytes.sub(dropped.cost_bytes() as u64);
            self.owe_ticket(id, &dropped);
        }
    }

    fn announce_if_full(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let bound = self.sizes.backlog_bytes_max;
        if self.sessions.get(id).is_some_and(|session| session.outbound.queue_bytes() > bound) {
            self.set_backlog_full(turn, id, true);
        }
    }

    /// Takes expired messages out of a backlog [MQTT-3.3.2-5].
    fn drop_expired(&mut self, turn: &Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        for expired in session.outbound.take_expired(turn.now) {
            self.metrics.dropped_expired.add(1);
            self.metrics.queued_messages.sub(1);
            self.metrics.queued_bytes.sub(expired.cost_bytes() as u64);
            self.owe_ticket(id, &expired);
        }
    }

    /// Backlogs that are full of expired messages have room.
    pub(crate) fn on_backlog_sweep(&mut self, turn: &mut Turn<'_>) {
        for id in core::mem::take(&mut self.full_sessions) {
            if self.sessions.get(id).is_some_and(|session| session.backlog_full) {
                self.full_sessions.push(id);
                self.drop_expired(turn, id);
                self.check_backlog_room(turn, id);
            }
        }
        let full = core::mem::take(&mut self.full_sessions);
        self.sweep_expired(turn, &full);
        self.full_sessions.extend(full);
        if !self.full_sessions.is_empty() {
            turn.timers.schedule(turn.now + SWEEP_EVERY, Timer::BacklogSweep);
        }
    }

    /// Checks a session's backlog after it shrank: room is announced below 90 % of the bound.
    pub(crate) fn check_backlog_room(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id).filter(|session| session.backlog_full) else {
            return;
        };
        let low = self.sizes.backlog_bytes_max / 10 * 9;
        if session.outbound.queue_bytes() < low && self.log_backlog_bytes(id) < low as u64 {
            self.set_backlog_full(turn, id, false);
        }
    }

    /// Announces all filters of a session as full or free, once per change.
    pub(crate) fn set_backlog_full(&mut self, turn: &mut Turn<'_>, id: SessionId, full: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.backlog_full == full {
            return;
        }
        session.backlog_full = full;
        if full {
            if self.full_sessions.is_empty() {
                turn.timers.schedule(turn.now + SWEEP_EVERY, Timer::BacklogSweep);
            }
            self.full_sessions.push(id);
        }
        let plain = session.subscriptions.collect(|filter, held| match held.kind {
            SubscriptionKind::Plain { .. } => Some(filter.clone()),
            SubscriptionKind::Shared { .. } => None,
        });
        if !full {
            self.forget_front(id);
        }
        for filter in plain {
            self.announce_backlog(turn, &filter, full);
        }
    }

    /// Tells every core, this one included, that a filter's backlog is full or free again.
    pub(crate) fn announce_backlog(&mut self, turn: &mut Turn<'_>, filter: &str, full: bool) {
        if full {
            self.full_filters.add(filter);
            self.broadcast(turn, || Mail::BacklogFull { filter: filter.into() });
        } else {
            self.full_filters.remove(filter);
            self.broadcast(turn, || Mail::BacklogFree { filter: filter.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_full_until_the_last_backlog_behind_it_has_room() {
        let mut full = FullFilters::default();
        assert!(!full.matches("a/b"));
        full.add("a/+");
        full.add("a/+");
        assert!(full.matches("a/b"));
        full.remove("a/+");
        assert!(full.matches("a/b"));
        full.remove("a/+");
        assert!(!full.matches("a/b"));
        full.remove("a/+");
    }
}
