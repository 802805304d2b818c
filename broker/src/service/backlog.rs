//! Backlogs at their bound: the filters whose sessions can take no more.
//!
//! A session that is owed as much as its bound allows does not lose what it is owed; instead its
//! filters are announced as full, and publishers to them get 0x97 or are not read from (policy
//! `reject`). With `drop_oldest` the oldest message goes and is counted.

use super::{Broker, Turn};
use crate::config::BacklogPolicy;
use crate::mail::Mail;
use crate::session::{SessionId, SubscriptionKind};
use ringlane_dataplane::routing::FilterTree;

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
        match self.config.session.backlog_policy {
            BacklogPolicy::DropOldest => {
                while session.outbound.queue_bytes() > bound {
                    let Some(dropped) = session.outbound.pop_queue() else { break };
                    self.metrics.dropped_backlog.add(1);
                    self.metrics.queued_messages.sub(1);
                    self.metrics.queued_bytes.sub(dropped.cost_bytes() as u64);
                }
            }
            BacklogPolicy::Reject => self.set_backlog_full(turn, id, true),
        }
    }

    /// Checks a session's backlog after it shrank: room is announced below 90 % of the bound.
    pub(crate) fn check_backlog_room(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.backlog_full
            && session.outbound.queue_bytes() < self.sizes.backlog_bytes_max / 10 * 9
        {
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
        let plain = session.subscriptions.iter();
        let plain = plain.filter(|(_, held)| matches!(held.kind, SubscriptionKind::Plain { .. }));
        let filters: Vec<_> = plain.map(|(filter, _)| filter.clone()).collect();
        for filter in filters {
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
