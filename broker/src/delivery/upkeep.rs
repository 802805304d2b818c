//! What is looked after once a second, off the way of the messages: buffers that a burst has left
//! behind, and messages that are held for long.
//!
//! A message in flight keeps the whole batch that it was accepted in. That is free while clients
//! acknowledge at once; what they leave open for a second or more is copied out, so that a client
//! that never answers holds its messages and nothing else.

use super::MessageMaker;
use crate::service::{Broker, Timer, Turn};
use crate::session::{Session, SessionId, Upkeep};
use hashbrown::HashMap;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// How often the list is gone through, and how old a message is that is copied out of its batch.
const EVERY: Duration = Duration::from_secs(1);
/// Sessions looked at in one turn, and the pause before the next ones.
const SESSIONS_PER_TURN: usize = 512;
const PAUSE: Duration = Duration::from_millis(2);
/// Bytes copied in one turn, give or take what one session has in flight.
const COPIED_BYTES_PER_TURN: usize = 256 * 1024;
/// Batches that are read, looked at in one turn and in one upkeep.
const LOOKS_PER_TURN: usize = 4;
const LOOKS_PER_UPKEEP: usize = 4096;

/// Sessions with something in flight, or with buffers that had.
#[derive(Debug, Default)]
pub(crate) struct UpkeepList {
    sessions: Vec<SessionId>,
    next: usize,
    armed: bool,
}

impl UpkeepList {
    /// A session has sent or received something with QoS 1 or 2.
    pub(crate) fn note(&mut self, turn: &mut Turn<'_>, session: &mut Session) {
        match session.upkeep {
            // Its client has yet to come: what it sends or gets by others is looked after then.
            Upkeep::Unsettled => return,
            Upkeep::Off => {
                self.sessions.push(session.id);
                self.arm(turn, EVERY);
            }
            Upkeep::Busy | Upkeep::Quiet => {}
        }
        session.upkeep = Upkeep::Busy;
    }

    fn arm(&mut self, turn: &mut Turn<'_>, after: Duration) {
        if !self.armed {
            self.armed = true;
            turn.timers.schedule(turn.now + after, Timer::Upkeep);
        }
    }
}

/// The copies made in one turn: sessions that hold the same message get the same copy.
#[derive(Default)]
struct Copies {
    made: HashMap<(usize, u32), (Message, Message)>,
    bytes: usize,
}

impl Copies {
    fn lasting(&mut self, message: &Message, maker: &mut MessageMaker) -> Message {
        let Self { made, bytes } = self;
        // The original stays in the map, so that no other message comes to lie in its place.
        let make = || {
            *bytes += message.memory_bytes();
            (message.clone(), maker.lasting(message))
        };
        made.entry(message.identity()).or_insert_with(make).1.clone()
    }
}

impl Broker {
    /// Takes batches back that nobody reads any more: also those whose last reader was another
    /// core, and where nobody publishes any more.
    pub(crate) fn take_back_batches(&mut self, turn: &mut Turn<'_>) {
        if self.batches.read_count() > 0 {
            self.batches.look(LOOKS_PER_TURN);
            self.upkeep.arm(turn, EVERY);
        }
    }

    pub(crate) fn on_upkeep(&mut self, turn: &mut Turn<'_>) {
        self.upkeep.armed = false;
        let mut copies = Copies::default();
        for _ in 0..SESSIONS_PER_TURN {
            if copies.bytes >= COPIED_BYTES_PER_TURN {
                break;
            }
            let Some(&id) = self.upkeep.sessions.get(self.upkeep.next) else { break };
            if self.look_after(turn.now, id, &mut copies) {
                self.upkeep.next += 1;
            } else {
                self.upkeep.sessions.swap_remove(self.upkeep.next);
            }
        }
        drop(copies);
        if self.upkeep.next < self.upkeep.sessions.len() {
            return self.upkeep.arm(turn, PAUSE);
        }
        self.upkeep.next = 0;
        self.batches.look(LOOKS_PER_UPKEEP);
        // For batches that are still read, the end of the turn sees to it.
        if !self.upkeep.sessions.is_empty() {
            self.upkeep.arm(turn, EVERY);
        }
    }

    /// False if the session is done with.
    fn look_after(&mut self, now: Nanos, id: SessionId, copies: &mut Copies) -> bool {
        let Self { sessions, connections, maker, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return false };
        let before = Nanos(now.0.saturating_sub(EVERY.as_nanos() as u64));
        session.outbound.make_lasting(before, |message| copies.lasting(message, maker));
        if session.upkeep == Upkeep::Busy || session.outbound.inflight_len() > 0 {
            session.upkeep = Upkeep::Quiet;
            return true;
        }
        session.upkeep = Upkeep::Off;
        session.release_idle();
        let link = session.link.as_ref();
        if let Some(connection) = link.and_then(|link| connections.get_mut(link.connection)) {
            connection.release_idle();
        }
        false
    }
}
