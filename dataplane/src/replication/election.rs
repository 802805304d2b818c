//! Who wants to lead: one per node, for all partitions that it holds.
//!
//! Nodes tell each other by heartbeats that they live, whom they obey, and whether they have heard of
//! that leader of late. A node that hears nothing of the leader for [`Setup::suspect_after`], or whose
//! link to it is reset, *suspects* it. When a majority does, the first of those who live, by
//! their numbers, asks for an epoch ([`Command::AskForEpoch`]) and campaigns with it; the others wait their
//! turn and then a time that their seed says. A node that alone does not hear a leader deposes nobody.
//!
//! Nothing here decides what is acknowledged: two nodes that both think that they lead are harmless, for
//! only one of them has a majority that obeys its epoch ([`super::replica`]). A leader that hears no
//! majority gives up by itself. What needs no quorum is stopped by the [`Lease`].

use super::message::{Envelope, Heartbeat, Message, WHOLE_NODE};
use super::quorum::majority;
use crate::ids::NodeId;
use crate::time::Nanos;
use core::time::Duration;

/// What does not change while a node runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// This node.
    pub node: NodeId,
    /// All nodes, this one included.
    pub members: Vec<NodeId>,
    /// How often a node says that it lives.
    pub heartbeat_every: Duration,
    /// How long a leader may be silent.
    pub suspect_after: Duration,
    /// How long a takeover may take before its candidate gives up.
    pub campaign_for: Duration,
    /// Random, different on each node: how long who failed waits.
    pub seed: u64,
}

/// What a node is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Puts a message on the link to a node; without room it is dropped.
    Send {
        /// The node.
        to: NodeId,
        /// The message.
        message: Envelope,
    },
    /// Asks etcd for a new epoch, if none newer than `observed` has been given meanwhile; then
    /// `on_epoch_given` or `on_epoch_refused` is called.
    AskForEpoch {
        /// The newest that is known here.
        observed: u64,
    },
    /// Has all partitions campaign with an epoch; then `on_leading` is called, or `on_gave_up`.
    Campaign {
        /// The epoch.
        epoch: u64,
    },
    /// Has all partitions step down.
    StepDown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Idle,
    Asking { since: Nanos },
    Campaigning { since: Nanos },
    Leading,
}

/// Another node.
#[derive(Clone, Copy, Debug)]
struct Peer {
    node: NodeId,
    is_up: bool,
    heard_at: Option<Nanos>,
    said: Heartbeat,
}

/// The election of one node.
#[derive(Debug)]
pub struct Election {
    setup: Setup,
    peers: Vec<Peer>,
    state: State,
    /// The newest that is known.
    epoch: u64,
    /// Whose that is, if anybody leads in it.
    leader: Option<NodeId>,
    /// Whether that one has said that it leads no more: nobody else does in this epoch, whatever replicas believe.
    is_over: bool,
    /// When something was heard of that leader, or of the beginning of its epoch.
    leader_heard_at: Option<Nanos>,
    /// Since when a majority suspects the leader.
    suspected_since: Option<Nanos>,
    /// Before this time it does not ask for an epoch.
    waits_until: Nanos,
    heartbeat_at: Nanos,
    is_eligible: bool,
    /// The leader hands over to this node, which may take it until then.
    called_until: Option<Nanos>,
    random: u64,
    commands: Vec<Command>,
}

impl Election {
    /// A node that knows `epoch` and of nobody who leads.
    #[must_use]
    pub fn new(setup: Setup, epoch: u64, now: Nanos) -> Self {
        let said = Heartbeat { leader: None, hears_leader: false, could_lead: false };
        let others = setup.members.iter().filter(|node| **node != setup.node);
        let peers = others.map(|&node| Peer { node, is_up: false, heard_at: None, said }).collect();
        Self {
            peers,
            state: State::Idle,
            epoch,
            leader: None,
            is_over: false,
            leader_heard_at: None,
            suspected_since: None,
            waits_until: now + setup.suspect_after,
            heartbeat_at: now,
            is_eligible: true,
            called_until: None,
            random: setup.seed | 1,
            setup,
            commands: Vec::new(),
        }
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The newest epoch that is known.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.state == State::Leading
    }

    /// A node that could not lead at once, because a replica is damaged or its state is not there, does not ask to, and
    /// says so to the others.
    pub fn set_eligible(&mut self, is_eligible: bool) {
        self.is_eligible = is_eligible;
    }

    /// The other nodes that say that they could lead at once, and are still heard.
    pub fn ready(&self, now: Nanos) -> impl Iterator<Item = NodeId> {
        let alive = self.alive(now, self.setup.suspect_after);
        alive.filter(|peer| peer.said.could_lead).map(|peer| peer.node)
    }

    /// The other nodes that a leader would count with itself: not silent for twice `suspect_after`.
    pub fn heard(&self, now: Nanos) -> impl Iterator<Item = NodeId> {
        self.alive(now, self.setup.suspect_after * 2).map(|peer| peer.node)
    }

    /// Puts what is to be done behind what is in `into`.
    pub fn take_commands(&mut self, into: &mut Vec<Command>) {
        into.append(&mut self.commands);
    }

    /// There is a link to a node.
    pub fn on_link_up(&mut self, node: NodeId, now: Nanos) {
        if let Some(peer) = self.peer(node) {
            peer.is_up = true;
        }
        self.heartbeat_at = now;
    }

    /// There is none any more: whoever is behind it is not heard of. Silence is not waited for.
    pub fn on_link_down(&mut self, node: NodeId, now: Nanos) {
        if let Some(peer) = self.peer(node) {
            (peer.is_up, peer.heard_at) = (false, None);
        }
        if self.leader == Some(node) {
            self.leader_heard_at = None;
            // The others learn at once that this node does not hear the leader.
            self.heartbeat_at = now;
        }
    }

    /// A message between nodes as wholes has come.
    pub fn on_message(&mut self, from: NodeId, envelope: &Envelope, now: Nanos) {
        match envelope.message {
            Message::Heartbeat(said) => self.on_heartbeat(from, envelope.epoch, said, now),
            Message::TakeOver if self.epoch <= envelope.epoch => {
                self.called_until = Some(now + self.setup.campaign_for);
            }
            _ => {}
        }
    }

    fn on_heartbeat(&mut self, from: NodeId, epoch: u64, said: Heartbeat, now: Nanos) {
        let Some(peer) = self.peer(from) else { return };
        (peer.heard_at, peer.said) = (Some(now), said);
        self.on_epoch_seen(epoch, said.leader, now);
        if said.leader == Some(from) && self.epoch == epoch && self.leader == Some(from) {
            self.leader_heard_at = Some(now);
        } else if self.leader == Some(from) && self.epoch <= epoch && said.leader != Some(from) {
            // It has given up, or was started anew.
            (self.leader, self.leader_heard_at, self.is_over) = (None, None, true);
        }
    }

    /// An epoch was given to somebody: a message, a fence, a replica or etcd says so.
    pub fn on_epoch_seen(&mut self, epoch: u64, leader: Option<NodeId>, now: Nanos) {
        if epoch < self.epoch {
            return;
        }
        if epoch > self.epoch {
            if self.state != State::Idle {
                self.give_up(now);
            }
            self.epoch = epoch;
            (self.leader, self.leader_heard_at, self.is_over) = (None, None, false);
            // Who called leads no more.
            self.called_until = None;
            // Whoever has it is given time to begin.
            self.waits_until = self.waits_until.max(now + self.setup.suspect_after);
        }
        let is_own = leader == Some(self.setup.node);
        if self.leader.is_none() && leader.is_some() && !is_own && !self.is_over {
            (self.leader, self.leader_heard_at) = (leader, Some(now));
        }
    }

    /// etcd has given this node an epoch.
    pub fn on_epoch_given(&mut self, epoch: u64, now: Nanos) {
        let State::Asking { .. } = self.state else { return };
        if epoch <= self.epoch {
            // Something newer was seen meanwhile, or etcd was set back, which the replicas refuse.
            self.wait_longer(now);
            self.state = State::Idle;
            return;
        }
        (self.epoch, self.leader, self.leader_heard_at) = (epoch, None, None);
        self.is_over = false;
        self.state = State::Campaigning { since: now };
        self.heartbeat_at = now;
        self.commands.push(Command::Campaign { epoch });
    }

    /// etcd has given a newer epoch to another node, or cannot be reached.
    pub fn on_epoch_refused(&mut self, now: Nanos) {
        if let State::Asking { .. } = self.state {
            self.state = State::Idle;
            self.wait_longer(now);
        }
    }

    /// All partitions of this node lead.
    pub fn on_leading(&mut self, epoch: u64, now: Nanos) {
        if self.epoch == epoch && matches!(self.state, State::Campaigning { .. }) {
            self.state = State::Leading;
            self.leader = Some(self.setup.node);
            self.heartbeat_at = now;
        }
    }

    /// A partition of this node does not lead, or cannot.
    pub fn on_gave_up(&mut self, now: Nanos) {
        if !matches!(self.state, State::Idle | State::Asking { .. }) {
            self.give_up(now);
        }
    }

    /// Hands leadership over to another node, whose log has all that this one's has. Clients are
    /// to be held up before.
    pub fn transfer(&mut self, to: NodeId) {
        let message = self.envelope(Message::TakeOver);
        self.commands.push(Command::Send { to, message });
    }

    fn give_up(&mut self, now: Nanos) {
        if matches!(self.state, State::Campaigning { .. } | State::Leading) {
            self.commands.push(Command::StepDown);
        }
        self.state = State::Idle;
        if self.leader == Some(self.setup.node) {
            self.leader = None;
        }
        self.heartbeat_at = now;
        self.wait_longer(now);
    }

    /// Some time between one and two times of silence, another one on each node.
    fn wait_longer(&mut self, now: Nanos) {
        // xorshift64: enough to part two nodes.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let silence = self.setup.suspect_after.as_nanos() as u64;
        let wait = silence + self.random % silence.max(1);
        self.waits_until = now + Duration::from_nanos(wait);
    }

    /// Does what is due.
    pub fn end_turn(&mut self, now: Nanos) {
        self.watch(now);
        self.suspect(now);
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + self.setup.heartbeat_every;
            self.say_alive(now);
        }
    }

    /// When the end of a turn has something to do although nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        self.heartbeat_at
    }

    /// What is under way ends some time.
    fn watch(&mut self, now: Nanos) {
        let Setup { campaign_for, .. } = self.setup;
        match self.state {
            State::Idle => {}
            State::Asking { since } if since + campaign_for <= now => {
                self.state = State::Idle;
                self.wait_longer(now);
            }
            State::Campaigning { since } if since + campaign_for <= now => self.give_up(now),
            State::Asking { .. } | State::Campaigning { .. } => {}
            State::Leading => {
                // Twice as long as others wait: who is just slow is not deposed by itself.
                let heard = self.heard(now).count();
                if heard + 1 < majority(self.setup.members.len()) {
                    self.give_up(now);
                }
            }
        }
    }

    fn suspect(&mut self, now: Nanos) {
        let is_idle = self.state == State::Idle && self.is_eligible;
        let is_called = self.called_until.is_some_and(|until| now < until);
        if is_idle && is_called {
            self.called_until = None;
            return self.ask(now);
        }
        if !is_idle || !self.is_suspected(now) {
            self.suspected_since = None;
            return;
        }
        let since = *self.suspected_since.get_or_insert(now);
        let turn = since + self.setup.suspect_after / 2 * self.rank(now);
        if turn.max(self.waits_until) <= now {
            self.ask(now);
        }
    }

    fn ask(&mut self, now: Nanos) {
        (self.state, self.suspected_since) = (State::Asking { since: now }, None);
        self.commands.push(Command::AskForEpoch { observed: self.epoch });
    }

    fn hears_leader(&self, now: Nanos) -> bool {
        let is_own = self.is_in_office();
        let silent_from = self.leader_heard_at.map(|at| at + self.setup.suspect_after);
        is_own || silent_from.is_some_and(|at| now < at)
    }

    /// Whether it leads, or is about to: the others wait for it as for a leader.
    fn is_in_office(&self) -> bool {
        matches!(self.state, State::Campaigning { .. } | State::Leading)
    }

    /// Whether a majority, this node included, lives and hears no leader.
    fn is_suspected(&self, now: Nanos) -> bool {
        if self.hears_leader(now) {
            return false;
        }
        let suspecting = self.alive(now, self.setup.suspect_after);
        let suspecting = suspecting.filter(|peer| !peer.said.hears_leader).count();
        suspecting + 1 >= majority(self.setup.members.len())
    }

    fn alive(&self, now: Nanos, silence: Duration) -> impl Iterator<Item = &Peer> {
        let is_alive = move |peer: &&Peer| peer.heard_at.is_some_and(|at| now < at + silence);
        self.peers.iter().filter(is_alive)
    }

    /// How many of those that live and could lead come before this node.
    fn rank(&self, now: Nanos) -> u32 {
        let able = self.alive(now, self.setup.suspect_after).filter(|peer| peer.said.could_lead);
        able.filter(|peer| peer.node < self.setup.node).count() as u32
    }

    fn say_alive(&mut self, now: Nanos) {
        let hears_leader = self.hears_leader(now);
        let leader = if self.is_in_office() { Some(self.setup.node) } else { self.leader };
        let said = Heartbeat { leader, hears_leader, could_lead: self.is_eligible };
        let message = self.envelope(Message::Heartbeat(said));
        let up = self.peers.iter().filter(|peer| peer.is_up);
        let sends = up.map(|peer| Command::Send { to: peer.node, message: message.clone() });
        self.commands.extend(sends);
    }

    fn envelope(&self, message: Message) -> Envelope {
        Envelope { partition: WHOLE_NODE, epoch: self.epoch, message }
    }

    fn peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.node == node)
    }
}

/// Until when a leader may answer for what needs no quorum: QoS 0, `memory` and `local_disk`.
///
/// Times are those of a clock that goes on while the machine sleeps (`CLOCK_BOOTTIME`, clock_gettime(2)).
/// Whoever answers asks [`Lease::is_held`] after the flush, with the time of then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    until: Nanos,
}

impl Lease {
    /// A keep-alive that was sent at `sent` was answered: etcd keeps the lease for `time_to_live`
    /// from some later time on. A tenth of it is left for clocks that go at different speeds.
    pub fn on_keep_alive(&mut self, sent: Nanos, time_to_live: Duration) {
        self.until = self.until.max(sent + time_to_live * 9 / 10);
    }

    /// The lease is given back, or etcd says that it is lost.
    pub fn end(&mut self) {
        self.until = Nanos(0);
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_held(&self, now: Nanos) -> bool {
        now < self.until
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
