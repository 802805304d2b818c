//! What a core runs: it follows, or it is a broker.

use super::following::Following;
#[cfg(any(test, feature = "simulation"))]
use super::replicas::Replicas;
use crate::mail::Mail;
use crate::service::{Broker, CoreSetup, Timer, Turn};
use ringlane_dataplane::disk::DiskEvent;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::link::LinkEvent;
use ringlane_dataplane::net::NetEvent;
use ringlane_dataplane::runtime::{After, Service};
use ringlane_dataplane::time::Nanos;

/// The service of a core. On a node by itself it is a broker from the start; in a cluster it follows
/// first, and stays a broker once it has become one.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per core, and a broker is used in place"
)]
pub(crate) enum NodeCore {
    /// The node follows.
    Following(Box<Following>),
    /// The node leads, or is by itself.
    Leading(Broker),
    /// Between both, within one call.
    Turning,
}

impl NodeCore {
    /// What a core begins as.
    pub(crate) fn new(setup: CoreSetup, now: Nanos) -> Self {
        match Following::new(setup, now) {
            Ok(following) => Self::Following(Box::new(following)),
            Err(setup) => Self::Leading(Broker::new(*setup, now)),
        }
    }

    /// The replicas of its partitions, where its node is one of a cluster.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn replicas(&self) -> Option<&Replicas> {
        match self {
            Self::Following(following) => Some(following.replicas()),
            Self::Leading(broker) => broker.replicas.as_deref(),
            Self::Turning => None,
        }
    }

    /// The same, to have something happen to them.
    #[cfg(test)]
    pub(super) fn replicas_mut(&mut self) -> Option<&mut Replicas> {
        match self {
            Self::Following(following) => Some(following.replicas_mut()),
            Self::Leading(broker) => broker.replicas.as_deref_mut(),
            Self::Turning => None,
        }
    }

    fn on_following_mail(&mut self, turn: &mut Turn<'_>, from: CoreId, mail: Mail) {
        let Self::Following(following) = self else { return };
        let Some(state) = following.on_mail(turn, from, mail) else { return };
        let Self::Following(following) = core::mem::replace(self, Self::Turning) else { return };
        let (mut broker, waiting) = following.begin(turn, state);
        for (from, mail) in waiting {
            broker.on_mail(turn, from, mail);
        }
        *self = Self::Leading(broker);
    }
}

impl Service for NodeCore {
    type Mail = Mail;
    type Timer = Timer;

    fn on_net(&mut self, turn: &mut Turn<'_>, event: NetEvent<'_>) {
        match self {
            Self::Leading(broker) => broker.on_net(turn, event),
            Self::Following(following) => following.on_net(turn, event),
            Self::Turning => {}
        }
    }

    fn on_link(&mut self, turn: &mut Turn<'_>, event: LinkEvent<'_>) {
        match self {
            Self::Leading(broker) => broker.on_link(turn, event),
            Self::Following(following) => following.on_link(turn, event),
            Self::Turning => {}
        }
    }

    fn on_mail(&mut self, turn: &mut Turn<'_>, from: CoreId, mail: Mail) {
        match self {
            Self::Leading(broker) => broker.on_mail(turn, from, mail),
            Self::Following(_) => self.on_following_mail(turn, from, mail),
            Self::Turning => {}
        }
    }

    fn on_disk(&mut self, turn: &mut Turn<'_>, event: DiskEvent) {
        match self {
            Self::Leading(broker) => broker.on_disk(turn, event),
            Self::Following(following) => following.on_disk(turn, event),
            Self::Turning => {}
        }
    }

    fn on_timer(&mut self, turn: &mut Turn<'_>, key: Timer) {
        match self {
            Self::Leading(broker) => broker.on_timer(turn, key),
            Self::Following(following) => following.on_timer(),
            Self::Turning => {}
        }
    }

    fn end_turn(&mut self, turn: &mut Turn<'_>) -> After {
        match self {
            Self::Leading(broker) => broker.end_turn(turn),
            Self::Following(following) => following.end_turn(turn),
            Self::Turning => After::Stop,
        }
    }
}
