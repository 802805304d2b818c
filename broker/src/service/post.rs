//! The way out to other cores. No core ever waits for a mailbox.
//!
//! Control mails wait in order behind a full mailbox (their number is bounded by stopping to read
//! clients). QoS 0 messages wait at most 10 ms, during which their publishers are not read from,
//! and are then dropped and counted until the mailbox takes mail again. Logged messages do not
//! wait here: their partition's cursor stops.

use super::sizes::{CONTROL_OVERFLOW_MAX, VOLATILE_WAITING_BYTES_MAX};
use super::{Broker, Turn};
use crate::mail::{Mail, Volatile};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::routing::CoreSet;
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a full mailbox may hold up the publishers of QoS 0 messages (design, section 2).
const VOLATILE_WAIT: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Destination {
    control: VecDeque<Mail>,
    volatile: VecDeque<Volatile>,
    volatile_bytes: usize,
    deadline: Nanos,
    /// The 10 ms are over and the mailbox has not taken anything since.
    dropping: bool,
}

/// What became of a QoS 0 message for another core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VolatileSent {
    Sent,
    /// It waits, and its publisher has to wait with it.
    Waiting,
    Dropped,
}

/// What waits for other cores' mailboxes, and this core's mails to itself.
#[derive(Debug)]
pub(crate) struct Post {
    core: CoreId,
    own: VecDeque<Mail>,
    destinations: Vec<Destination>,
    waiting: usize,
    /// Who came first at the mailboxes in the last turn.
    cursors_first: bool,
}

impl Post {
    pub(crate) fn new(core: CoreId, cores: u16) -> Self {
        let destination = || Destination {
            control: VecDeque::new(),
            volatile: VecDeque::new(),
            volatile_bytes: 0,
            deadline: Nanos::NEVER,
            dropping: false,
        };
        let destinations = (0..cores).map(|_| destination()).collect();
        Self { core, own: VecDeque::new(), destinations, waiting: 0, cursors_first: false }
    }

    /// Sends a control mail: now, or in order as soon as the mailbox takes it.
    pub(crate) fn send(&mut self, turn: &mut Turn<'_>, to: CoreId, mail: Mail) {
        if to == self.core {
            self.own.push_back(mail);
            return;
        }
        let destination = &mut self.destinations[to.index()];
        if destination.control.is_empty() {
            match turn.mesh.send(to, mail) {
                Ok(()) => return,
                Err(mail) => destination.control.push_back(mail),
            }
        } else {
            destination.control.push_back(mail);
        }
        self.waiting += 1;
    }

    /// Queues a control mail for the end of the turn.
    pub(crate) fn queue(&mut self, to: CoreId, mail: Mail) {
        if to == self.core {
            self.own.push_back(mail);
        } else {
            self.destinations[to.index()].control.push_back(mail);
            self.waiting += 1;
        }
    }

    pub(crate) fn take_own(&mut self) -> Option<Mail> {
        self.own.pop_front()
    }

    /// Sends QoS 0 messages; order per destination is kept. `behind_log` says that records for
    /// this core wait for its mailbox: the message waits with them.
    pub(crate) fn send_volatile(
        &mut self,
        turn: &mut Turn<'_>,
        to: CoreId,
        volatile: Volatile,
        behind_log: bool,
    ) -> VolatileSent {
        let destination = &mut self.destinations[to.index()];
        if destination.volatile.is_empty() && !behind_log {
            match turn.mesh.send(to, Mail::Volatile(volatile)) {
                Ok(()) => {
                    destination.dropping = false;
                    return VolatileSent::Sent;
                }
                Err(_) if destination.dropping => return VolatileSent::Dropped,
                Err(Mail::Volatile(volatile)) => {
                    destination.deadline = turn.now + VOLATILE_WAIT;
                    destination.volatile_bytes = volatile.message.memory_bytes();
                    destination.volatile.push_back(volatile);
                    self.waiting += 1;
                    return VolatileSent::Waiting;
                }
                Err(_) => return VolatileSent::Dropped,
            }
        }
        if destination.dropping || destination.volatile_bytes >= VOLATILE_WAITING_BYTES_MAX {
            return VolatileSent::Dropped;
        }
        if destination.volatile.is_empty() {
            destination.deadline = turn.now + VOLATILE_WAIT;
        }
        destination.volatile_bytes += volatile.message.memory_bytes();
        destination.volatile.push_back(volatile);
        self.waiting += 1;
        VolatileSent::Waiting
    }

    /// Whether QoS 0 messages wait for some mailbox.
    pub(crate) fn volatile_waits(&self) -> bool {
        self.waiting > 0 && self.destinations.iter().any(|d| !d.volatile.is_empty())
    }

    /// Whether so many control mails wait that clients must not cause more of them.
    pub(crate) fn is_congested(&self) -> bool {
        if self.own.len() > CONTROL_OVERFLOW_MAX {
            return true;
        }
        self.waiting > CONTROL_OVERFLOW_MAX
            && self.destinations.iter().any(|d| d.control.len() > CONTROL_OVERFLOW_MAX)
    }

    /// Whether anything waits for a later turn.
    pub(crate) fn has_work(&self) -> bool {
        self.waiting > 0 || !self.own.is_empty()
    }

    /// Hands over what the mailboxes take now. Returns the messages dropped per destination.
    fn flush(
        &mut self,
        turn: &mut Turn<'_>,
        behind_log: CoreSet,
        mut dropped: impl FnMut(CoreId, usize),
    ) {
        if self.waiting == 0 {
            return;
        }
        for (index, destination) in self.destinations.iter_mut().enumerate() {
            let to = CoreId(index as u16);
            self.waiting -= destination.flush(turn, to, behind_log.contains(to));
            if !destination.volatile.is_empty() && destination.deadline <= turn.now {
                dropped(to, destination.volatile.iter().map(Volatile::count).sum());
                self.waiting -= destination.volatile.len();
                destination.volatile.clear();
                destination.volatile_bytes = 0;
                destination.dropping = true;
            }
        }
    }
}

impl Destination {
    /// Returns how many mails went out.
    fn flush(&mut self, turn: &mut Turn<'_>, to: CoreId, behind_log: bool) -> usize {
        let mut sent = 0;
        while let Some(mail) = self.control.pop_front() {
            if let Err(mail) = turn.mesh.send(to, mail) {
                self.control.push_front(mail);
                return sent;
            }
            sent += 1;
        }
        if behind_log {
            return sent;
        }
        while let Some(volatile) = self.volatile.pop_front() {
            let bytes = volatile.message.memory_bytes();
            if let Err(Mail::Volatile(volatile)) = turn.mesh.send(to, Mail::Volatile(volatile)) {
                self.volatile.push_front(volatile);
                return sent;
            }
            self.volatile_bytes -= bytes;
            sent += 1;
        }
        sent
    }
}

impl Broker {
    /// Sends to another core, or to this one.
    pub(crate) fn send_mail(&mut self, turn: &mut Turn<'_>, to: CoreId, mail: Mail) {
        self.post.send(turn, to, mail);
    }

    /// Sends the same mail to all other cores.
    pub(crate) fn broadcast(&mut self, turn: &mut Turn<'_>, mail: impl Fn() -> Mail) {
        for index in 0..self.cores() {
            let to = CoreId(index);
            if to != self.core {
                self.post.send(turn, to, mail());
            }
        }
    }

    /// End of turn: stopped cursors, control mails and QoS 0 messages move on. Who comes first at
    /// a full mailbox alternates, so that neither starves the other.
    pub(super) fn flush_post(&mut self, turn: &mut Turn<'_>) {
        self.post.cursors_first = !self.post.cursors_first;
        if self.post.cursors_first {
            self.advance_cursors(turn);
            self.flush_waiting(turn);
        } else {
            self.flush_waiting(turn);
            self.advance_cursors(turn);
        }
        if !self.post.volatile_waits() {
            self.resume_mailbox_stalls(turn);
        }
    }

    fn flush_waiting(&mut self, turn: &mut Turn<'_>) {
        let cores = (0..self.cores()).map(CoreId);
        let behind_log = match self.post.volatile_waits() {
            true => cores.filter(|to| self.holds_qos0_for(*to)).collect(),
            false => CoreSet::default(),
        };
        let Self { post, metrics, .. } = self;
        post.flush(turn, behind_log, |to, count| {
            metrics.dropped_mailbox.add(count as u64);
            metrics.dropped_to(to, count as u64);
        });
    }
}
