//! What one session has seen of one stream.

use crate::ledger::{Arrival, Ledger};
use ringlane_mqtt::QoS;

/// When a message came.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Previous {
    /// The client's connection.
    pub(super) connection: u32,
    /// The broker's life.
    pub(super) life: u32,
    /// Rests of the session before it came for the first time.
    pub(super) rests: u32,
    /// How often it came in that connection.
    pub(super) copies: u32,
}

/// A stream as one session sees it.
#[derive(Debug)]
pub(super) struct Track {
    /// Whether the session must have it.
    pub(super) is_wanted: bool,
    /// The QoS with which it must come.
    pub(super) qos: QoS,
    arrived: Ledger,
    done: Ledger,
    previous: Vec<Previous>,
}

impl Track {
    pub(super) fn new(is_wanted: bool, qos: QoS) -> Self {
        let (arrived, done) = (Ledger::default(), Ledger::default());
        Self { is_wanted, qos, arrived, done, previous: Vec::new() }
    }

    /// A PUBLISH came. Returns when it came before, if it did.
    pub(super) fn arrive(
        &mut self,
        sequence: u64,
        mut moment: Previous,
    ) -> (Arrival, Option<Previous>) {
        let arrival = self.arrived.on_redelivery(sequence);
        let place = sequence as usize;
        if place >= self.previous.len() {
            self.previous.resize(place + 1, Previous::default());
        }
        let before = self.previous[place];
        moment.copies = 1;
        if before.connection == moment.connection {
            moment.copies += before.copies;
        }
        if arrival == Arrival::Duplicate {
            moment.rests = before.rests;
        }
        self.previous[place] = moment;
        (arrival, (arrival == Arrival::Duplicate).then_some(before))
    }

    /// The message is the client's now.
    pub(super) fn release(&mut self, sequence: u64) -> Arrival {
        self.done.on_redelivery(sequence)
    }

    pub(super) fn is_done(&self, sequence: u64) -> bool {
        self.done.has(sequence)
    }

    /// Of the first `sent` messages, those that are not the client's.
    pub(super) fn missing(&self, sent: u64) -> impl Iterator<Item = u64> {
        self.done.missing(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_says_when_the_message_came_before() {
        let mut track = Track::new(true, QoS::ExactlyOnce);
        let first = Previous { connection: 1, life: 1, rests: 3, copies: 1 };
        let second = Previous { connection: 2, ..first };
        assert_eq!(track.arrive(1, first), (Arrival::Gap(1), None));
        assert_eq!(track.arrive(1, second), (Arrival::Duplicate, Some(first)));
        assert_eq!(track.arrive(1, second), (Arrival::Duplicate, Some(second)));
        let third = Previous { copies: 2, ..second };
        let rested = Previous { rests: 4, ..second };
        assert_eq!(track.arrive(1, rested), (Arrival::Duplicate, Some(third)));
        assert_eq!(track.arrive(1, rested).1.map(|it| it.rests), Some(3), "that of the first time");
        assert_eq!(track.arrive(0, second), (Arrival::Late, None));
    }

    #[test]
    fn only_what_is_released_is_done() {
        let mut track = Track::new(true, QoS::ExactlyOnce);
        track.arrive(0, Previous::default());
        assert!(!track.is_done(0));
        assert_eq!(track.release(0), Arrival::InOrder);
        assert_eq!(track.release(0), Arrival::Duplicate);
        assert!(track.is_done(0));
        assert_eq!(track.missing(3).collect::<Vec<_>>(), [1, 2]);
    }
}
