//! What a core that follows has ready to lead with.

use super::replicas::{Own, Replicas};
use crate::delivery::PostedFilters;
use crate::durable::Standby;
use ringlane_dataplane::time::Nanos;

/// Subscriptions and filters of a state that is there as a whole which are taken in in one turn.
const FILLED_PER_TURN: usize = 256;

/// Committed records that a node which campaigns may have to apply still.
const LAG_MAX: u64 = 4096;

impl Own {
    /// Whether it has applied what it knows to be committed, but for a little.
    pub(super) fn is_in_step(&self) -> bool {
        let replica = self.host.replica();
        let committed = replica.high_watermark().min(replica.next_offset());
        self.recovery.is_none() || committed.0 <= self.host.applied().0 + LAG_MAX
    }
}

impl Replicas {
    /// Takes in more of the states. A core that has not had all of them since it began, or got a checkpoint, does not
    /// campaign: it would have to do the rest in one piece, and be taken for dead meanwhile.
    pub(super) fn fill_standby(&mut self, now: Nanos) {
        let Self { own, standby, .. } = self;
        let mut left = FILLED_PER_TURN;
        let has_all = self.gave_state || own.iter().all(|own| own.recovery.is_some());
        let states = own.iter().map(|own| own.recovery.as_ref());
        let mut states = states.enumerate().filter_map(|(at, own)| Some((at, &own?.state)));
        let is_full = states.all(|(index, state)| standby.fill(index, state, &mut left));
        self.is_filling = !is_full;
        if is_full && has_all && !core::mem::replace(&mut self.is_warm, true) {
            let (core, sessions) = (self.core.0, self.standby.sessions.len());
            let subscriptions = self.standby.subscriptions;
            let took = now.since(self.fills_since);
            tracing::info!(
                core,
                sessions,
                subscriptions,
                ?took,
                "this core has taken in its sessions"
            );
        }
        if !self.has_said_ready && self.is_ready() {
            self.has_said_ready = true;
            let (core, took) = (self.core.0, now.since(self.fills_since));
            tracing::info!(
                core,
                ?took,
                "this core has applied what it knows to be committed: it could lead at once"
            );
        }
    }

    /// Whether all of the states were taken in, and what is known to be committed was applied.
    pub(super) fn is_ready(&self) -> bool {
        self.is_warm && self.own.iter().all(Own::is_in_step)
    }

    /// The filters of this core that records are posted for. They are away until it leads.
    pub(super) fn take_posted(&mut self) -> PostedFilters {
        let Self { own, standby, .. } = self;
        let states = own.iter().map(|own| own.recovery.as_ref());
        standby.take_posted(states.enumerate().filter_map(|(at, own)| Some((at, &own?.state))))
    }

    /// Gives away what there is, and begins anew with what the replicas have.
    pub(super) fn take_standby(&mut self) -> Standby {
        let fresh = self.standby.emptied();
        core::mem::replace(&mut self.standby, fresh)
    }
}
