//! A core whose node follows: no client is served here.
//!
//! What its listeners accept goes to the control thread, whose proxy joins it to the leader. What the
//! replicas commit is applied, so that this core can lead at once; it does when all cores of the node can
//! ([`Following::begin`]), with the same replicas and logs.

use super::control_mail::{ToControl, ToCore};
use super::replicas::{Ground, Replicas};
use super::setup::AcceptedClient;
use crate::durable::Standby;
use crate::mail::{ControlMail, Mail};
use crate::service::{
    AckToken, Broker, CoreSetup, DiskUser, Handover, RestoredState, Sizes, Timer, Turn,
};
use hashbrown::HashMap;
use ringlane_dataplane::batch::BatchPool;
use ringlane_dataplane::disk::DiskEvent;
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_dataplane::link::LinkEvent;
use ringlane_dataplane::message::MessageMeter;
use ringlane_dataplane::net::{Close, NetEvent};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::runtime::{After, TimerId};
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::sync::Arc;

/// Mails of cores that lead already, at most. They all begin within moments of each other.
const WAITING_MAX: usize = 1 << 16;
/// Batches that are looked at in a turn, whether somebody still sends from them.
const LOOKS_PER_TURN: usize = 64;

/// The core of a node that follows.
#[derive(Debug)]
pub(crate) struct Following {
    setup: CoreSetup,
    replicas: Box<Replicas>,
    partitions: Vec<Partition<AckToken>>,
    meter: &'static MessageMeter,
    batches: BatchPool,
    /// What clients have sent that are on their way out.
    inboxes: HashMap<ConnectionId, Vec<u8>>,
    /// Mails of cores that have begun to lead, in their order.
    waiting: VecDeque<(CoreId, Mail)>,
    armed: Option<(Nanos, TimerId)>,
    /// Records applied before this turn.
    applied: u64,
    /// The core ends, at this time whatever its logs have.
    ends_by: Option<Nanos>,
}

impl Following {
    /// A follower of nobody. Gives the setup back if it is that of a node by itself.
    pub(crate) fn new(mut setup: CoreSetup, now: Nanos) -> Result<Self, Box<CoreSetup>> {
        let Some(cluster) = setup.cluster.take() else { return Err(Box::new(setup)) };
        let logs = core::mem::take(&mut setup.logs);
        let (core, cores) = (setup.core, setup.cores);
        let sessions_max = Sizes::new(&setup.config, cores).sessions_max;
        let standby = Standby::new(core, setup.placement, sessions_max);
        let (replicas, partitions) = Replicas::new(core, cores, (cluster, standby), logs, now);
        let meter = MessageMeter::leaked();
        Ok(Self {
            setup,
            replicas: Box::new(replicas),
            partitions,
            meter,
            batches: BatchPool::new(meter),
            inboxes: HashMap::new(),
            waiting: VecDeque::new(),
            armed: None,
            applied: 0,
            ends_by: None,
        })
    }

    /// The replicas of its partitions.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// The same, to have something happen to them.
    #[cfg(test)]
    pub(super) fn replicas_mut(&mut self) -> &mut Replicas {
        &mut self.replicas
    }

    fn with_replicas<R>(
        &mut self,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Replicas, &mut Ground<'_>) -> R,
    ) -> R {
        let Self { setup, replicas, partitions, batches, .. } = self;
        let unix_ms = setup.clock.unix_ms(turn.now);
        act(replicas, &mut Ground::new(turn, unix_ms, batches, partitions))
    }

    // ---- clients ----

    pub(crate) fn on_net(&mut self, turn: &mut Turn<'_>, event: NetEvent<'_>) {
        match event {
            NetEvent::Accepted { connection, .. } => {
                self.setup.metrics.sockets_opened.add(1);
                if self.ends_by.is_some() {
                    turn.sockets.close(connection, Close::Abort);
                } else {
                    turn.sockets.detach(connection);
                }
            }
            NetEvent::Received { connection, bytes } => {
                self.inboxes.entry(connection).or_default().extend_from_slice(bytes);
            }
            NetEvent::Detached { connection, socket, listener, peer } => {
                let bytes = self.inboxes.remove(&connection).unwrap_or_default();
                self.pass_on(AcceptedClient { socket, listener, peer, bytes });
            }
            NetEvent::Closed { connection, .. } => {
                self.inboxes.remove(&connection);
            }
            NetEvent::Drained { .. } => {}
        }
    }

    /// Hands a client to the proxy. Where too many wait for that it is turned away: its socket is closed.
    fn pass_on(&mut self, client: AcceptedClient) {
        let to = &self.replicas.to_control;
        let has_room = to.capacity() * 2 > to.max_capacity();
        if !has_room || to.try_send(ToControl::Client(client)).is_err() {
            self.setup.metrics.connects_refused.add(1);
        }
    }

    // ---- everything else ----

    pub(crate) fn on_link(&mut self, turn: &mut Turn<'_>, event: LinkEvent<'_>) {
        self.with_replicas(turn, |replicas, ground| replicas.on_link(ground, event));
    }

    pub(crate) fn on_disk(&mut self, turn: &mut Turn<'_>, event: DiskEvent) {
        let metrics = Arc::clone(&self.setup.metrics);
        let flushed =
            self.with_replicas(turn, |replicas, ground| match DiskUser::of(event.token) {
                (DiskUser::Host, number) => replicas.on_disk(ground, number, event).1,
                (DiskUser::Checkpoint, index) => {
                    replicas.on_checkpoint_event(ground, index as usize, &event, &metrics);
                    None
                }
                (user, _) => {
                    debug_assert!(false, "{user:?} is none of a follower");
                    None
                }
            });
        if let Some(flushed) = flushed {
            metrics.count_flushed(&flushed);
        }
    }

    /// A mail. Gives back what this core is to begin with, if that has come.
    pub(crate) fn on_mail(
        &mut self,
        turn: &mut Turn<'_>,
        from: CoreId,
        mail: Mail,
    ) -> Option<RestoredState> {
        match mail {
            Mail::Cluster(mail) => {
                self.with_replicas(turn, |replicas, ground| {
                    replicas.on_core_mail(ground, from, *mail);
                });
            }
            Mail::Control(mail) => return self.on_control(turn, *mail),
            mail if self.waiting.len() < WAITING_MAX => self.waiting.push_back((from, mail)),
            _ => self.replicas.end("other cores lead for too long without this one".to_owned()),
        }
        None
    }

    fn on_control(&mut self, turn: &mut Turn<'_>, mail: ControlMail) -> Option<RestoredState> {
        match mail {
            ControlMail::Cluster(mail) => match *mail {
                ToCore::Begin { epoch, state } if self.replicas.may_begin(epoch) => {
                    return Some(*state);
                }
                // What it was made for is over: this core has said that it ends.
                ToCore::Begin { .. } => {}
                ToCore::End { .. } => self.begin_end(turn),
                mail => {
                    self.with_replicas(turn, |replicas, ground| replicas.on_control(ground, mail))
                }
            },
            ControlMail::Drain => self.replicas.say_drained(),
            // There are no sessions here: whoever asks sees the channel of the answer close. Nobody subscribes
            // to what a follower says of itself.
            ControlMail::Ask(_) | ControlMail::Publish { .. } => {}
        }
        None
    }

    fn begin_end(&mut self, turn: &Turn<'_>) {
        self.replicas.cease();
        self.ends_by.get_or_insert(turn.now + self.setup.config.mqtt.drain_timeout);
    }

    pub(crate) fn on_timer(&mut self) {
        self.armed = None;
    }

    pub(crate) fn end_turn(&mut self, turn: &mut Turn<'_>) -> After {
        let before = core::mem::replace(&mut self.applied, self.replicas.applied());
        self.with_replicas(turn, |replicas, ground| replicas.end_turn(ground));
        self.arm(turn);
        if self.batches.read_count() > 0 {
            self.batches.look(LOOKS_PER_TURN);
        }
        self.setup.metrics.log_segments_trimmed.add(self.replicas.take_trimmed());
        self.setup.metrics.sockets.set(turn.sockets.open_count() as u64);
        if self.may_stop(turn.now) {
            After::Stop
        } else if self.replicas.is_filling || self.replicas.applies_on(before) {
            After::MoreWork
        } else {
            After::Idle
        }
    }

    fn may_stop(&mut self, now: Nanos) -> bool {
        if self.replicas.is_cut_off() {
            return true;
        }
        let Some(by) = self.ends_by else { return false };
        let mut is_quiet = true;
        for log in self.partitions.iter_mut().filter_map(Partition::log_mut) {
            log.close_soon();
            is_quiet &= log.is_quiet() || log.fault().is_some();
        }
        is_quiet || by <= now
    }

    fn arm(&mut self, turn: &mut Turn<'_>) {
        let deadline = self.replicas.next_deadline(&self.partitions);
        let deadline = self.ends_by.map_or(deadline, |by| by.min(deadline));
        match self.armed {
            Some((at, _)) if at <= deadline => return,
            None if deadline == Nanos::NEVER => return,
            Some((_, later)) => {
                turn.timers.cancel(later);
            }
            None => {}
        }
        self.armed = Some((deadline, turn.timers.schedule(deadline, Timer::Log)));
    }

    /// The broker that goes on in place of this, with the mails that came too early for it.
    pub(crate) fn begin(
        mut self,
        turn: &mut Turn<'_>,
        RestoredState(mut state): RestoredState,
    ) -> (Broker, VecDeque<(CoreId, Mail)>) {
        if let Some((_, timer)) = self.armed.take() {
            turn.timers.cancel(timer);
        }
        state.checkpoints = self.replicas.take_checkpoints();
        self.setup.state = Some(RestoredState(state));
        let standby = self.replicas.take_standby();
        let Self { setup, replicas, partitions, meter, batches, waiting, .. } = self;
        tracing::info!(core = setup.core.0, "this core leads");
        let handover = Handover { partitions, meter, batches, replicas, standby };
        (Broker::leading(setup, handover), waiting)
    }
}
