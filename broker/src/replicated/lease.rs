//! The lease of a node that leads, as a core looks at it.
//!
//! The control thread says until when it counts, at each keep-alive. A core compares that with
//! `CLOCK_BOOTTIME`, which unlike the clock of its turns goes on while the host sleeps; read only where
//! something depends on it, so that a node by itself never reads it.

use super::Replicas;
use ringlane_dataplane::planted::{self, Bug};
use ringlane_dataplane::replication::election::Lease;
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// Reads `CLOCK_BOOTTIME`.
pub(crate) type Boottime = fn() -> Nanos;

/// The lease, and when it was looked at.
#[derive(Debug)]
pub(super) struct HeldLease {
    lease: Lease,
    boottime: Boottime,
    /// The last turn in which somebody asked, and the answer.
    seen: (Nanos, bool),
}

impl HeldLease {
    /// None that counts yet.
    pub(super) fn new(boottime: Boottime) -> Self {
        Self { lease: Lease::default(), boottime, seen: (Nanos::NEVER, false) }
    }

    /// It ends then, and not at all any more if that is 0.
    pub(super) fn set(&mut self, until: Nanos) {
        self.lease.end();
        self.lease.on_keep_alive(until, Duration::ZERO);
        self.seen.0 = Nanos::NEVER;
    }

    fn look(&mut self, now: Nanos) -> bool {
        let counts = self.lease.is_held((self.boottime)()) || planted::is(Bug::StaleLease);
        self.seen = (now, counts);
        self.seen.1
    }
}

impl Replicas {
    /// Whether the lease counts now, by the clock: before something is acknowledged that only this node has.
    pub(crate) fn has_lease_now(&mut self, now: Nanos) -> bool {
        !self.has_ended && self.lease.look(now)
    }

    /// Whether it counts in the turn that began at `now`, as it was seen first in it: for QoS 0, of which
    /// there may be thousands in a turn.
    pub(crate) fn has_lease_in(&mut self, now: Nanos) -> bool {
        let HeldLease { seen: (turn, counts), .. } = self.lease;
        if turn == now { counts && !self.has_ended } else { self.has_lease_now(now) }
    }
}
