//! Expired messages of groups that are owed as much as they may be while nobody is there: they are let go
//! of [MQTT-3.3.2-5], from the oldest on, so that publishers need not wait for them. As
//! `durable::expiring` does for sessions.

use super::GroupId;
use crate::durable::{What, Window};
use crate::mail::Found;
use crate::service::{Broker, Turn};

/// Groups whose log is read for this at a time.
const SWEEPS_MAX: usize = 8;

impl Broker {
    /// Once a second: of the full backlogs those are looked at whose oldest message may have expired.
    pub(crate) fn sweep_groups(&mut self, turn: &mut Turn<'_>) {
        let ids = self.groups.ids();
        let mut sweeping = ids.iter().filter(|id| self.is_sweeping(**id)).count();
        for id in ids {
            if !self.is_full_and_alone(id) {
                continue;
            }
            let Some(group) = self.groups.get_mut(id) else { continue };
            let expired = group.drop_expired(turn.now);
            self.metrics.dropped_expired.add(expired);
            self.metrics.shared_pending.sub(expired);
            let may_have_expired = group.log.as_ref().is_some_and(|l| l.may_have_expired(turn.now));
            self.check_group_backlog(turn, id);
            if may_have_expired && sweeping < SWEEPS_MAX {
                self.sweep_group(turn, id);
                sweeping += 1;
            }
        }
    }

    fn is_full_and_alone(&self, id: GroupId) -> bool {
        self.groups.get(id).is_some_and(|group| group.backlog_full && !group.is_connected())
    }

    fn is_sweeping(&self, id: GroupId) -> bool {
        let log = self.groups.get(id).and_then(|group| group.log.as_ref());
        log.and_then(|log| log.window.as_ref()).is_some_and(Window::is_sweep)
    }

    /// Reads the oldest messages of a group.
    fn sweep_group(&mut self, turn: &mut Turn<'_>, id: GroupId) {
        let entries = self.group_entries(id);
        let log = self.groups.get_mut(id).and_then(|group| group.log.as_mut());
        if let Some(log) = log.filter(|_| !entries.is_empty()) {
            log.window = Some(Window::new(entries.into_iter(), true));
            self.ask_for_group(turn, id);
        }
    }

    /// The oldest messages of a group, or a part of them, are there.
    pub(super) fn on_group_swept(
        &mut self,
        turn: &mut Turn<'_>,
        id: GroupId,
        taken: Vec<(What, Found)>,
    ) {
        let goes_on = self.let_go_of_expired(turn, id, taken);
        if !goes_on || !self.is_full_and_alone(id) {
            self.close_group_window(id);
        }
        let log = self.groups.get_mut(id).and_then(|group| group.log.as_mut());
        let window = log.and_then(|log| log.window.take_if(|window| window.has_all()));
        let asks_again = window.as_ref().is_some_and(|window| !window.is_empty());
        if asks_again && let Some(log) = self.groups.get_mut(id).and_then(|g| g.log.as_mut()) {
            log.window = window;
            return self.ask_for_group(turn, id);
        }
        let is_whole = window.is_some();
        self.pump_group(turn, id);
        // All that was read had expired.
        if is_whole && self.is_full_and_alone(id) {
            self.sweep_group(turn, id);
        }
    }

    /// Passes over expired messages; false at the first that has not expired.
    fn let_go_of_expired(
        &mut self,
        turn: &Turn<'_>,
        id: GroupId,
        taken: Vec<(What, Found)>,
    ) -> bool {
        let Self { groups, metrics, .. } = self;
        let log = groups.get_mut(id).and_then(|group| group.log.as_mut());
        let Some(log) = log else { return false };
        for (what, found) in taken {
            let What::Owed(owed) = what else { continue };
            if owed.posting < log.frontier() {
                // It was let go of meanwhile.
                continue;
            }
            match found {
                Found::Message(message, _) if turn.now < message.head().expires_at => {
                    log.note_front(message.head().expires_at);
                    return false;
                }
                Found::Message(..) => metrics.dropped_expired.add(1),
                Found::Gone => metrics.dropped_postings.add(1),
                Found::Damaged => metrics.dropped_damaged.add(1),
            }
            log.set_frontier(owed.posting + 1);
            log.pass_over(owed.posting);
        }
        true
    }
}
