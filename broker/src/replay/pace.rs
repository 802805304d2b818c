//! How much of a turn replays take: little beside live traffic, much where there is none.
//!
//! A message that comes during a turn waits for the end of it, and what is sent goes out at the end of
//! its turn. So replays work in turns that bring nothing live, in small pieces as long as live
//! messages came of late: one turn reads, the next hands out. Where every turn brings something
//! live, they work in each fourth.

use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// How long after a live message another one is reckoned with.
const LIVE_FOR: Duration = Duration::from_secs(1);
/// Turns in a row with live messages in which replays do nothing.
const PUT_OFF_MAX: u8 = 3;

/// Bounds of the work of one turn, in bytes of messages and what looking after them costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Share {
    /// Of records that are looked at, for all replays together.
    pub(super) read: usize,
    /// The same for one of them.
    pub(super) read_one: usize,
    /// Handed out, to all clients together.
    pub(super) hand_out: usize,
    /// The same for one session, before others have their part.
    pub(super) hand_out_one: usize,
}

/// It is the next turn's work; that one does not wait for anything.
const NOTHING: Share = Share { read: 0, read_one: 0, hand_out: 0, hand_out_one: 0 };

/// Nobody waits for the end of the turn: large pieces cost less.
const ALONE: Share =
    Share { read: 96 * 1024, read_one: 64 * 1024, hand_out: 256 * 1024, hand_out_one: 32 * 1024 };

/// Some 30 us (`scripts/bench/cold-replays.py`).
const READ: Share = Share { read: 16 * 1024, read_one: 16 * 1024, ..NOTHING };
/// Likewise, for one client at a time: a send costs as much as many of the messages in it.
const HAND_OUT: Share = Share { hand_out: 16 * 1024, hand_out_one: 16 * 1024, ..NOTHING };

/// When replays work, and how much.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Whether this turn has brought something live.
    is_live: bool,
    /// When a turn last did.
    live_at: Option<Nanos>,
    /// Turns in a row in which replays did nothing for it.
    put_off: u8,
    /// Whether what was read is handed out next, beside live traffic.
    hands_out: bool,
}

impl Pace {
    /// A message came that is no replay's.
    pub(crate) fn note_live(&mut self) {
        self.is_live = true;
    }

    /// There are no replays in the turn that ends.
    pub(super) fn rest(&mut self) {
        self.is_live = false;
    }

    /// What replays may do in the turn that ends.
    pub(super) fn share(&mut self, now: Nanos) -> Share {
        let is_live = core::mem::take(&mut self.is_live);
        if is_live {
            self.live_at = Some(now);
            if self.put_off < PUT_OFF_MAX {
                self.put_off += 1;
                return NOTHING;
            }
        }
        self.put_off = 0;
        let is_beside = self.live_at.is_some_and(|at| now.since(at) < LIVE_FOR);
        if !is_beside {
            return ALONE;
        }
        self.hands_out = !self.hands_out;
        if self.hands_out { HAND_OUT } else { READ }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_messages_come_first_and_replays_go_on() {
        let (mut pace, now) = (Pace::default(), Nanos::from_secs(5));
        assert_eq!(pace.share(now), ALONE);
        for share in [HAND_OUT, READ, HAND_OUT] {
            let turns = [0; 4].map(|_| {
                pace.note_live();
                pace.share(now)
            });
            assert_eq!(turns, [NOTHING, NOTHING, NOTHING, share], "each turn brings something");
        }
        pace.note_live();
        assert_eq!([0; 3].map(|_| pace.share(now)), [NOTHING, READ, HAND_OUT]);
        pace.note_live();
        assert_eq!(pace.share(now), NOTHING, "the turn before this one worked");
    }

    #[test]
    fn what_came_before_there_were_replays_does_not_count() {
        let mut pace = Pace::default();
        pace.note_live();
        pace.rest();
        assert_eq!(pace.share(Nanos::from_secs(5)), ALONE);
    }

    #[test]
    fn pieces_are_small_until_live_messages_have_stayed_away() {
        let (mut pace, now) = (Pace::default(), Nanos::from_secs(5));
        pace.note_live();
        assert_eq!(pace.share(now), NOTHING);
        assert_eq!(pace.share(now + (LIVE_FOR - Duration::from_nanos(1))), HAND_OUT);
        assert_eq!(pace.share(now + LIVE_FOR), ALONE);
    }
}
