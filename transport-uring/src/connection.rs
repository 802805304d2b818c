//! The state of one connection, and the table of all of a core.

use crate::engine::ReceiveEnd;
use crate::sending::Sending;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::net::{Closure, Sockets, Stage};
use ringlane_dataplane::time::Nanos;
use std::os::fd::OwnedFd;

/// How far a connection is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It is not.
    Open,
    /// It leaves this core once nothing is in flight, queued or held back.
    Detaching,
    /// Sending is broken (an `errno` value): what had arrived before is still delivered.
    Broken(i32),
    /// What is queued is sent, what arrives is dropped.
    Flushing(Closure),
    /// FIN is sent, what arrives is dropped until the peer's FIN.
    Lingering(Closure),
    /// Operations in flight are being stopped; then it is closed.
    Closing(Closure),
    /// The socket is closed or handed over; the event that says so waits to be delivered.
    Over,
}

/// Where the one receive of a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Receiving {
    /// None is in flight.
    Idle,
    /// One is in flight.
    Armed,
    /// One is in flight and was told to stop.
    Stopping,
}

/// Whether a connection receives into large buffers, by how it filled the last ones.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Appetite {
    bulk: bool,
    /// Receives in a row that spoke for the other size.
    run: u8,
}

impl Appetite {
    /// Full buffers in a row after which a connection gets large ones: a single packet that is
    /// longer than a few buffers is not worth the change.
    const FULL_RUN: u8 = 4;
    /// Receives in a row of at most [`Appetite::SMALL_BYTES`] after which it goes back.
    const SMALL_RUN: u8 = 64;
    const SMALL_BYTES: usize = 4096;

    /// Whether large buffers are wanted.
    pub(crate) fn is_bulk(self) -> bool {
        self.bulk
    }

    /// Takes one receive into account; whether the other size is wanted from now on.
    pub(crate) fn changes(&mut self, bytes: usize, full: bool) -> bool {
        let (other, limit) = match self.bulk {
            false => (full, Self::FULL_RUN),
            true => (bytes <= Self::SMALL_BYTES, Self::SMALL_RUN),
        };
        self.run = if other { self.run + 1 } else { 0 };
        let changes = self.run >= limit;
        if changes {
            *self = Self { bulk: !self.bulk, run: 0 };
        }
        changes
    }
}

/// What to do with bytes that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Deliver,
    HoldBack,
    Drop,
}

/// Bytes that wait to be delivered; no more than a pointer where none ever do.
#[derive(Debug, Default)]
pub(crate) struct Held(
    #[expect(clippy::box_collection, reason = "few connections have any, all have the place")]
    Option<Box<Vec<u8>>>,
);

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|bytes| bytes.is_empty())
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.get_or_insert_default().extend_from_slice(bytes);
    }

    /// Takes all of them out.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.0.take().map(|bytes| *bytes).unwrap_or_default()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) socket: Option<OwnedFd>,
    pub(crate) stage: Stage,
    pub(crate) phase: Phase,
    pub(crate) paused: bool,
    pub(crate) receiving: Receiving,
    pub(crate) appetite: Appetite,
    /// The output being sent; the kernel reads it while `send_in_flight`.
    pub(crate) sending: Option<Box<Sending>>,
    pub(crate) send_in_flight: bool,
    /// Bytes that arrived while nobody wanted them. Bounded by what the kernel had already put
    /// into receive buffers when receiving was stopped.
    pub(crate) held: Held,
    /// The end of receiving, once it was seen.
    pub(crate) end: Option<ReceiveEnd>,
    /// When the current phase is over; tells a valid deadline from an outdated one.
    pub(crate) deadline: Nanos,
    pub(crate) drained_is_queued: bool,
    pub(crate) held_is_queued: bool,
}

impl Connection {
    fn new(id: ConnectionId, socket: OwnedFd) -> Self {
        Self {
            id,
            socket: Some(socket),
            stage: Stage::Greeting,
            phase: Phase::Open,
            paused: false,
            receiving: Receiving::Idle,
            appetite: Appetite::default(),
            sending: None,
            send_in_flight: false,
            held: Held::default(),
            end: None,
            deadline: Nanos::NEVER,
            drained_is_queued: false,
            held_is_queued: false,
        }
    }

    /// Whether a receive should be in flight now.
    pub(crate) fn wants_bytes(&self) -> bool {
        if self.end.is_some() {
            return false;
        }
        match self.phase {
            Phase::Open | Phase::Broken(_) => !self.paused && self.held.is_empty(),
            Phase::Flushing(_) | Phase::Lingering(_) => true,
            Phase::Detaching | Phase::Closing(_) | Phase::Over => false,
        }
    }

    /// Whether output may be handed to the kernel.
    pub(crate) fn may_send(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Detaching | Phase::Flushing(_))
    }

    /// What to do with bytes that arrive now. The table is asked too, because what the broker
    /// asked for in this turn is carried out only at its end. A close drops them then, a move
    /// delivers them first, so both hold them back until it is known which it is.
    pub(crate) fn fate_of_bytes(&self, sockets: &Sockets) -> Fate {
        let unwanted = match self.phase {
            Phase::Open | Phase::Broken(_) => {
                self.paused || sockets.is_paused(self.id) || sockets.is_closing(self.id)
            }
            Phase::Detaching => false,
            Phase::Flushing(_) | Phase::Lingering(_) | Phase::Closing(_) | Phase::Over => {
                return Fate::Drop;
            }
        };
        if unwanted || !self.held.is_empty() { Fate::HoldBack } else { Fate::Deliver }
    }
}

/// The connections of a core by slot; a slot's generation guards against late completions.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Connection>>,
}

impl Connections {
    /// Puts a connection in.
    ///
    /// # Panics
    /// If the slot is taken: a slot is released only after its connection was removed.
    pub(crate) fn insert(&mut self, id: ConnectionId, socket: OwnedFd) {
        if self.slots.len() <= id.index() {
            self.slots.resize_with(id.index() + 1, || None);
        }
        let slot = &mut self.slots[id.index()];
        assert!(slot.is_none(), "one connection per slot");
        *slot = Some(Connection::new(id, socket));
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) {
        if self.get(id).is_some()
            && let Some(slot) = self.slots.get_mut(id.index())
        {
            *slot = None;
        }
    }

    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.slots.get_mut(id.index())?.as_mut().filter(|connection| connection.id == id)
    }

    /// Everything that is in the table.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receives(appetite: &mut Appetite, bytes: usize, full: bool, count: u8) -> u8 {
        (0..count).map(|_| u8::from(appetite.changes(bytes, full))).sum()
    }

    #[test]
    fn buffers_grow_for_those_who_fill_them_and_shrink_again() {
        let mut appetite = Appetite::default();
        assert_eq!(receives(&mut appetite, 4096, true, Appetite::FULL_RUN - 1), 0);
        assert_eq!(receives(&mut appetite, 100, false, 1), 0, "the run begins anew");
        assert_eq!(receives(&mut appetite, 4096, true, Appetite::FULL_RUN), 1);
        assert!(appetite.is_bulk());
        assert_eq!(receives(&mut appetite, 100, false, Appetite::SMALL_RUN - 1), 0);
        assert_eq!(receives(&mut appetite, 30_000, false, 1), 0, "the run begins anew");
        assert_eq!(receives(&mut appetite, 100, false, Appetite::SMALL_RUN), 1);
        assert!(!appetite.is_bulk());
    }

    #[test]
    fn an_idle_connection_takes_little_of_the_table() {
        assert!(size_of::<Option<Connection>>() <= 64, "{}", size_of::<Option<Connection>>());
    }
}
