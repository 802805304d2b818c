//! What a group is owed and does not have in memory, read from the log in windows.

use super::{GroupId, GroupLog};
use crate::delivery::View;
use crate::durable::{Place, What, Window};
use crate::mail::{Fetch, FetchBy, Fetched, Found, Mail};
use crate::service::{Broker, LET_GO_MAX, Turn, low_mark};
use crate::session::IN_STEP;

/// Messages of one window, and about what they may take in memory.
const WINDOW_MESSAGES: usize = 256;
const WINDOW_BYTES: usize = 256 * 1024;

impl Broker {
    /// The number and place that the message in hand is posted under for a group.
    pub(super) fn posted_for_group(&self, id: GroupId, view: &View<'_>) -> Option<(u64, Place)> {
        let (log, record) = (self.groups.get(id)?.log.as_ref()?, view.record?);
        let mut postings = self.scratch.postings.iter();
        let posted = postings.find(|posted| usize::from(posted.partition) == log.index)?;
        let epoch = self.durable.as_ref()?.epoch();
        let place = Place { partition: record.partition.0, epoch, offset: record.offset.0 };
        Some((posted.posting, place))
    }

    /// Nobody is there: what the log has goes out of memory.
    pub(super) fn leave_group_to_log(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        let Some(group) = self.groups.get_mut(id).filter(|group| !group.is_connected()) else {
            return;
        };
        let left = group.leave_to_log();
        self.close_group_window(id);
        self.metrics.shared_pending.sub(left as u64);
        if left > 0 {
            self.on_group_left_to_log(turn, id);
        }
    }

    /// Nobody is there for what a group has asked for.
    pub(super) fn close_group_window(&mut self, id: GroupId) {
        let log = self.groups.get_mut(id).and_then(|group| group.log.as_mut());
        let window = log.and_then(|log| log.window.take());
        if let (Some(window), Some(durable)) = (window, &mut self.durable) {
            durable.take_back(window, FetchBy::Group(id));
        }
    }

    /// Asks for the next messages of a group that has few in memory and more in the log.
    pub(super) fn read_for_group(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        if !self.groups.get(id).is_some_and(|group| group.wants_more()) {
            return;
        }
        let entries = self.group_entries(id);
        let Some(log) = self.groups.get_mut(id).and_then(|group| group.log.as_mut()) else {
            return;
        };
        if entries.is_empty() {
            return log.set_frontier(IN_STEP);
        }
        log.window = Some(Window::new(entries.into_iter(), false));
        self.ask_for_group(turn, id);
    }

    /// The next postings of a group that are neither in memory nor done with.
    pub(super) fn group_entries(&self, id: GroupId) -> Vec<(Place, What)> {
        let Some(log) = self.groups.get(id).and_then(|group| group.log.as_ref()) else {
            return Vec::new();
        };
        let mut from = log.frontier();
        loop {
            let mut owed = self.group_owed(id, log, from);
            let Some(last) = owed.last() else { return Vec::new() };
            from = last.posting + 1;
            owed.retain(|owed| !log.has(owed.posting));
            if !owed.is_empty() {
                return owed.into_iter().map(|owed| (owed.place, What::Owed(owed))).collect();
            }
        }
    }

    fn group_owed(
        &self,
        id: GroupId,
        log: &GroupLog,
        from: u64,
    ) -> Vec<crate::durable::OwedPosting> {
        let (Some(durable), Some(slot)) = (&self.durable, self.group_slot(id)) else {
            return Vec::new();
        };
        durable.partitions[log.index].state.owed(slot, from, WINDOW_MESSAGES)
    }

    pub(super) fn ask_for_group(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        let Some(request) = self.durable.as_mut().map(|durable| durable.fresh_request()) else {
            return;
        };
        let log = self.groups.get_mut(id).and_then(|group| group.log.as_mut());
        let Some(window) = log.and_then(|log| log.window.as_mut()) else { return };
        let wanted = window.ask(request);
        let bytes_max = WINDOW_BYTES / wanted.len().max(1);
        for (partition, places) in wanted {
            let owner = self.placement.owner(partition);
            let by = FetchBy::Group(id);
            let fetch = Fetch { by, request, partition, places, bytes_max };
            self.send_mail(turn, owner, Mail::Fetch(Box::new(fetch)));
        }
    }

    /// A window of a group, or a part of it, is there.
    pub(crate) fn on_group_fetched(&mut self, turn: &mut Turn<'_>, id: GroupId, fetched: Fetched) {
        let Fetched { request, partition, found, .. } = fetched;
        let log = self.groups.get_mut(id).and_then(|group| group.log.as_mut());
        let window = log.and_then(|log| log.window.as_mut());
        let Some(window) = window.filter(|window| window.is(request)) else { return };
        window.take_in(partition, found);
        let (has_all, taken) = (window.has_all(), window.take_found());
        if window.is_sweep() {
            return self.on_group_swept(turn, id, taken);
        }
        let is_done = window.is_empty();
        for (what, found) in taken {
            if let What::Owed(owed) = what {
                self.take_in_for_group(turn, id, owed.posting, owed.place, found);
            }
        }
        if has_all && !is_done {
            self.ask_for_group(turn, id);
        } else if has_all
            && let Some(log) = self.groups.get_mut(id).and_then(|group| group.log.as_mut())
        {
            log.window = None;
        }
        self.pump_group(turn, id);
        self.leave_group_to_log(turn, id);
    }

    fn take_in_for_group(
        &mut self,
        turn: &Turn<'_>,
        id: GroupId,
        posting: u64,
        place: Place,
        found: Found,
    ) {
        let Self { groups, metrics, .. } = self;
        let Some(group) = groups.get_mut(id) else { return };
        let Some(log) = &mut group.log else { return };
        if posting < log.frontier() {
            // It was let go of meanwhile.
            return;
        }
        if log.has(posting) {
            return log.set_frontier(posting + 1);
        }
        log.set_frontier(posting + 1);
        match found {
            Found::Message(message, _) if turn.now < message.head().expires_at => {
                metrics.shared_pending.add(1);
                return group.take_in(posting, place, message);
            }
            Found::Message(..) => metrics.dropped_expired.add(1),
            Found::Gone => metrics.dropped_postings.add(1),
            Found::Damaged => metrics.dropped_damaged.add(1),
        }
        log.pass_over(posting);
    }

    /// The number of a group among the sessions of its partition.
    pub(crate) fn group_slot(&self, id: GroupId) -> Option<u32> {
        let group = self.groups.get(id)?;
        let log = group.log.as_ref()?;
        let state = &self.durable.as_ref()?.partitions[log.index].state;
        state.find(&group.key.session_name())
    }

    /// What a group is owed that is in the log only, in bytes.
    pub(crate) fn group_log_bytes(&self, id: GroupId) -> usize {
        let found = || {
            let log = self.groups.get(id)?.log.as_ref()?;
            let state = &self.durable.as_ref()?.partitions[log.index].state;
            Some(state.amount(self.group_slot(id)?, log.frontier()).bytes)
        };
        usize::try_from(found().unwrap_or(0)).unwrap_or(usize::MAX)
    }

    /// A message was left to the log: the backlog there is looked at before it can have grown above
    /// its bound.
    pub(super) fn on_group_left_to_log(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        let Some(posted) = self.durable.as_ref().map(|durable| durable.posted_bytes()) else {
            return;
        };
        let bound = self.sizes.backlog_bytes_max;
        let log = self.groups.get(id).and_then(|group| group.log.as_ref());
        if log.is_none_or(|log| posted < log.look_at) {
            return;
        }
        let mut bytes = self.group_log_bytes(id);
        let mut goes_on = false;
        if bytes > bound {
            (bytes, goes_on) = self.let_go_for_group(id, low_mark(bound as u64));
        }
        let Some(group) = self.groups.get_mut(id) else { return };
        if let Some(log) = &mut group.log {
            log.look_at = posted + bound.saturating_sub(bytes) as u64;
        }
        if bytes > bound && !goes_on && !group.backlog_full {
            group.backlog_full = true;
            let filter = group.key.filter.clone();
            self.announce_backlog(turn, &filter, true);
        }
    }

    /// Passes over the oldest messages in the log, as `Broker::let_go_of_oldest` does for a session.
    fn let_go_for_group(&mut self, id: GroupId, left_max: u64) -> (usize, bool) {
        let slot = self.group_slot(id);
        let Self { groups, durable: Some(durable), metrics, .. } = self else { return (0, false) };
        let log = groups.get_mut(id).and_then(|group| group.log.as_mut());
        let (Some(slot), Some(log)) = (slot, log) else { return (0, false) };
        let state = &durable.partitions[log.index].state;
        let (next, dropped) = state.without_oldest(slot, log.frontier(), left_max, LET_GO_MAX);
        if dropped > 0 {
            log.let_go(next);
            metrics.dropped_backlog.add(dropped);
        }
        (self.group_log_bytes(id), dropped == LET_GO_MAX as u64)
    }
}
