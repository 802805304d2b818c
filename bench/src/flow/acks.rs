//! Publishes that are not yet acknowledged, by packet identifier, with the moments from which their
//! latency counts.

use std::collections::VecDeque;

/// Identifiers are 1 to this, then 1 again.
const PACKET_IDS: u64 = 65_535;

/// The publishes of one stream that are in flight. Message n has packet identifier
/// `n % 65_535 + 1`.
#[derive(Default, Debug)]
pub(super) struct Acks {
    /// The oldest message in `waiting`.
    base: u64,
    waiting: VecDeque<Waiting>,
    done: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since_ns: u64,
    received: bool,
    done: bool,
}

impl Acks {
    /// The packet identifier of a message.
    pub(super) fn packet_id(sequence: u64) -> u16 {
        u16::try_from(sequence % PACKET_IDS + 1).unwrap_or(u16::MAX)
    }

    /// Enters the next message; latency counts from `since_ns`.
    pub(super) fn push(&mut self, since_ns: u64) {
        self.waiting.push_back(Waiting { since_ns, received: false, done: false });
    }

    /// PUBREC: when the message counts from, or `None` if it is none that waits for one.
    pub(super) fn on_received(&mut self, packet_id: u16) -> Option<u64> {
        let waiting = self.find(packet_id)?;
        let is_first = !waiting.received && !waiting.done;
        waiting.received = true;
        is_first.then_some(waiting.since_ns)
    }

    /// PUBACK or PUBCOMP: when the message counts from, or `None` if it is none that waits.
    pub(super) fn on_done(&mut self, packet_id: u16) -> Option<u64> {
        let waiting = self.find(packet_id).filter(|waiting| !waiting.done)?;
        waiting.done = true;
        let since_ns = waiting.since_ns;
        self.done += 1;
        while self.waiting.front().is_some_and(|waiting| waiting.done) {
            self.waiting.pop_front();
            self.base += 1;
        }
        Some(since_ns)
    }

    /// Messages that were acknowledged in full.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn find(&mut self, packet_id: u16) -> Option<&mut Waiting> {
        let place = u64::from(packet_id).checked_sub(1)?;
        let ahead = (place + PACKET_IDS - self.base % PACKET_IDS) % PACKET_IDS;
        self.waiting.get_mut(usize::try_from(ahead).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_find_their_message_in_any_order_and_around_the_end() {
        let mut acks = Acks::default();
        for sequence in 0..200_000u64 {
            acks.push(sequence);
            if sequence % 2 == 1 {
                assert_eq!(acks.on_done(Acks::packet_id(sequence)), Some(sequence));
                assert_eq!(acks.on_done(Acks::packet_id(sequence)), None);
                assert_eq!(acks.on_done(Acks::packet_id(sequence - 1)), Some(sequence - 1));
            }
        }
        assert_eq!(acks.done(), 200_000);
        assert!(acks.waiting.is_empty());
    }

    #[test]
    fn what_nobody_waits_for_is_none() {
        let mut acks = Acks::default();
        assert_eq!(acks.on_done(1), None);
        acks.push(5);
        assert_eq!(acks.on_done(0), None);
        assert_eq!(acks.on_done(2), None);
        assert_eq!(acks.on_received(1), Some(5));
        assert_eq!(acks.on_received(1), None);
        assert_eq!(acks.on_done(1), Some(5));
        assert_eq!(acks.on_received(1), None);
    }
}
