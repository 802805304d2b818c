//! Expired messages of sessions that are away and owed as much as they may be: they are let go of
//! [MQTT-3.3.2-5], from the oldest on, so that publishers need not wait for them.
//!
//! When a message expires is said in the log only, so the oldest ones are read. The first that has not expired
//! tells when to look again; until then nothing is read for that session, and where it never expires nothing
//! ever is. A few sessions at a time are looked at, and only while no client waits for a window.

use super::catch_up::{What, Window};
use crate::mail::Found;
use crate::service::{Broker, Turn};
use crate::session::{IN_STEP, SessionId};
use hashbrown::HashMap;
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;

/// Windows that are read for this at a time.
const WINDOWS_MAX: usize = 8;

/// What is known of the oldest messages of full backlogs.
#[derive(Debug, Default)]
pub(super) struct Fronts {
    /// From which posting on a session was looked at, and when the first message there expires.
    known: HashMap<SessionId, (u64, Nanos)>,
    /// Sessions that are to be looked at.
    due: VecDeque<SessionId>,
}

impl Broker {
    /// Once a second: of these full backlogs those are looked at whose oldest message may have expired.
    pub(crate) fn sweep_expired(&mut self, turn: &mut Turn<'_>, full: &[SessionId]) {
        let Some(durable) = &self.durable else { return };
        let Fronts { known, due } = &durable.catch_ups.fronts;
        if due.is_empty() {
            let may_expire = |id: &&SessionId| {
                let front = self.frontier(**id);
                let known = known.get(*id).filter(|(from, _)| front == Some(*from));
                known.is_none_or(|(_, expires_at)| *expires_at <= turn.now)
            };
            let due: Vec<SessionId> = full.iter().filter(may_expire).copied().collect();
            if let Some(durable) = &mut self.durable {
                durable.catch_ups.fronts.due.extend(due);
            }
        }
        self.open_sweeps(turn);
    }

    /// Looks at the next sessions that are to be looked at.
    pub(super) fn open_sweeps(&mut self, turn: &mut Turn<'_>) {
        while let Some(durable) = &mut self.durable
            && durable.catch_ups.has_room()
            && durable.catch_ups.open.values().filter(|open| open.is_sweep()).count() < WINDOWS_MAX
            && let Some(id) = durable.catch_ups.fronts.due.pop_front()
        {
            let session = self.sessions.get(id);
            let is_due = session.is_some_and(|held| held.backlog_full && held.link.is_none());
            if !is_due || durable.catch_ups.open.contains_key(&id) {
                continue;
            }
            let entries = self.owed_entries(id, self.frontier(id).unwrap_or(IN_STEP));
            if !entries.is_empty() {
                self.open_window(turn, id, Window::new(entries.into_iter(), true));
            }
        }
    }

    /// The oldest messages of a session that is away: those that have expired are let go of.
    pub(super) fn sweep_window(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        taken: Vec<(What, Found)>,
    ) {
        let front = self.frontier(id).unwrap_or(IN_STEP);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let mut expires_at = None;
        for (what, found) in taken {
            let What::Owed(owed) = what else { continue };
            let alive = match &found {
                Found::Message(message, _) => Some(message.head().expires_at),
                Found::Gone | Found::Damaged => None,
            };
            expires_at = alive.filter(|at| turn.now < *at);
            if expires_at.is_some() || session.link.is_some() {
                self.close_window(id);
                break;
            }
            if owed.posting < front {
                // It was let go of meanwhile.
                continue;
            }
            session.outbound.set_frontier(owed.posting + 1);
            match found {
                Found::Message(..) => self.metrics.dropped_expired.add(1),
                Found::Gone => self.metrics.dropped_postings.add(1),
                Found::Damaged => self.metrics.dropped_damaged.add(1),
            }
        }
        self.note_front(id, expires_at);
        self.note_moved(id);
        self.check_backlog_room(turn, id);
    }

    /// A session is to be looked at again when its first message has expired; at once if all that
    /// was read had.
    fn note_front(&mut self, id: SessionId, expires_at: Option<Nanos>) {
        let front = self.frontier(id);
        let Some(durable) = &mut self.durable else { return };
        let Fronts { known, due } = &mut durable.catch_ups.fronts;
        match (front, expires_at) {
            (Some(front), Some(expires_at)) => {
                known.insert(id, (front, expires_at));
            }
            _ => {
                known.remove(&id);
                due.push_front(id);
            }
        }
    }

    /// A session's backlog is not full any more.
    pub(crate) fn forget_front(&mut self, id: SessionId) {
        if let Some(durable) = &mut self.durable {
            durable.catch_ups.fronts.known.remove(&id);
        }
    }
}
