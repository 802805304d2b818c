//! What the layer above does with the events of a turn.

use super::mesh::Endpoint;
use super::timer::TimerWheel;
use crate::disk::{Disk, DiskEvent};
use crate::ids::CoreId;
use crate::link::{LinkEvent, Links};
use crate::net::{NetEvent, Sockets};
use crate::time::Nanos;

/// What a handler may use during a turn.
#[derive(Debug)]
pub struct Turn<'a, M, K: Copy> {
    /// The time: one reading per turn, taken after the wait if the core slept.
    pub now: Nanos,
    /// The connections of this core.
    pub sockets: &'a mut Sockets,
    /// What this core asks of the disk.
    pub disk: &'a mut Disk,
    /// The timers of this core.
    pub timers: &'a mut TimerWheel<K>,
    /// The mailboxes to the other cores.
    pub mesh: &'a mut Endpoint<M>,
    /// The links of this core to cores of other nodes.
    pub links: &'a mut Links,
}

/// What the core does after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// The service has nothing left: the core may sleep until the next event.
    Idle,
    /// The same, but something is likely to happen before this time, and whoever waits for it would
    /// also wait for the core to be woken. A core that spins before it sleeps spins until then.
    Soon(Nanos),
    /// The service has work left that it did not do for fairness: the next turn does not wait.
    MoreWork,
    /// The core ends after this turn.
    Stop,
}

/// The layer above a core: it is called by one thread and never blocks.
pub trait Service {
    /// What cores send each other.
    type Mail: Send;
    /// What a timer carries back when it fires.
    type Timer: Copy;

    /// Something happened to a connection.
    fn on_net(&mut self, turn: &mut Turn<'_, Self::Mail, Self::Timer>, event: NetEvent<'_>);

    /// Something happened to a link. A node by itself has none.
    fn on_link(&mut self, _turn: &mut Turn<'_, Self::Mail, Self::Timer>, _event: LinkEvent<'_>) {}

    /// A mail arrived.
    fn on_mail(
        &mut self,
        turn: &mut Turn<'_, Self::Mail, Self::Timer>,
        from: CoreId,
        mail: Self::Mail,
    );

    /// A command to the disk ended. Commands end in any order; each comes back once.
    fn on_disk(&mut self, turn: &mut Turn<'_, Self::Mail, Self::Timer>, event: DiskEvent);

    /// A timer fired.
    fn on_timer(&mut self, turn: &mut Turn<'_, Self::Mail, Self::Timer>, key: Self::Timer);

    /// Everything of this turn has been handed in: commit, fan out, flush. Called every turn.
    fn end_turn(&mut self, turn: &mut Turn<'_, Self::Mail, Self::Timer>) -> After;
}
