//! The state of a partition as the records of a checkpoint, in pieces.
//!
//! The pieces are taken over many turns while records are appended, and that is fine as long as
//! (1) what is matched was appended before each piece is taken, (2) recovery replays the log from
//! where the checkpoint began, and (3) the checkpoint becomes valid only after the log is flushed up
//! to where the last piece was taken: then the log says again all that the pieces say too early.

use super::model::PartitionState;
use super::postings::PostingRange;
use super::ranges::Ranges;
use super::records::{FilterPostings, StateRecord, SubscriptionOptions};
use super::session::{Presence, SessionState};
use ringlane_dataplane::planted::{self, Bug};

/// Where the next piece begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Piece {
    /// Epochs and cursors.
    #[default]
    Head,
    /// Sessions from this slot on.
    Sessions(u32),
    /// Postings from this number on of the filter `number`, and all of those behind it.
    Filters {
        number: u32,
        posting: u64,
    },
    Done,
}

impl PartitionState {
    /// Calls `each` with the records of a piece of at most `size` sessions or filters; where the next
    /// piece begins.
    ///
    /// A number is used again when its filter has gone: what the new one has is behind `posting`,
    /// because it was made later.
    pub(crate) fn snapshot(
        &self,
        piece: Piece,
        size: u32,
        each: &mut impl FnMut(&StateRecord<'_>),
    ) -> Piece {
        match piece {
            Piece::Head => {
                each(&StateRecord::Epochs { epochs: self.epochs.clone() });
                let (next, cursors) = (self.next_posting, self.cursors.clone());
                each(&StateRecord::Postings { next, cursors, filters: Vec::new() });
                Piece::Sessions(0)
            }
            Piece::Sessions(from) => {
                let end = from.saturating_add(size).min(self.sessions.slots());
                let sessions = (from..end).filter_map(|slot| self.sessions.get(slot));
                sessions.for_each(|session| self.snapshot_session(session, each));
                match end < self.sessions.slots() {
                    true => Piece::Sessions(end),
                    false => Piece::Filters { number: 0, posting: 0 },
                }
            }
            Piece::Filters { number, posting } => {
                self.snapshot_filters(number, posting, size, each)
            }
            Piece::Done => Piece::Done,
        }
    }

    fn snapshot_session(&self, session: &SessionState, each: &mut impl FnMut(&StateRecord<'_>)) {
        let client_id = &*session.client_id;
        let expiry_secs = session.expiry_secs;
        let will = session.will.as_ref().map(|will| will.body());
        each(&StateRecord::SessionOpen { client_id, clean: true, expiry_secs, will });
        if let Presence::Closed(since_ms) = session.presence {
            let will_gone = false;
            each(&StateRecord::SessionClosed { client_id, since_ms, expiry_secs, will_gone });
        }
        let skipped = usize::from(planted::is(Bug::SubscriptionSkipped));
        for held in session.subscriptions.iter().skip(skipped) {
            let Some(filter) = self.filters.get(held.filter) else { continue };
            let (filter, options, since) = (&*filter.name, held.options, held.since);
            for tail in session.tails().filter(|tail| tail.before.filter == held.filter) {
                let (options, since) = (tail.before.options, tail.before.since);
                each(&StateRecord::Subscribe { client_id, filter, options, since });
                let (options, since) = (SubscriptionOptions { qos: 0, ..options }, tail.until);
                each(&StateRecord::Subscribe { client_id, filter, options, since });
            }
            each(&StateRecord::Subscribe { client_id, filter, options, since });
        }
        each(&StateRecord::Positions { positions: vec![(client_id, session.position)] });
        for state in session.sent() {
            let (packet_id, sent) = (state.packet_id, state.sent.clone());
            each(&match &state.beside {
                None => StateRecord::Sent { client_id, packet_id, sent },
                Some((what, name)) => {
                    let what = *what;
                    StateRecord::SentBeside { client_id, name, packet_id, what, sent }
                }
            });
            if state.received {
                each(&StateRecord::Received { client_id, packet_id });
            }
        }
        for replay in &session.replays {
            let (name, done) = (&*replay.name, replay.delivered());
            each(&StateRecord::Replay { client_id, name, replay: replay.body() });
            if !done.is_empty() {
                each(&StateRecord::ReplayDelivered { client_id, name, done });
            }
        }
        let packet_ids = session.incoming();
        if !packet_ids.is_empty() {
            each(&StateRecord::Incoming { client_id, packet_ids });
        }
        let ranges: Vec<_> = session.delivered().into_iter().flat_map(Ranges::iter).collect();
        for ranges in ranges.chunks(RANGES_PER_PIECE) {
            each(&StateRecord::DeliveredRanges { client_id, ranges: ranges.to_vec() });
        }
        let held = session.completed_of_groups();
        if !held.is_empty() {
            each(&StateRecord::GroupHeld { client_id, held });
        }
    }

    fn snapshot_filters(
        &self,
        from: u32,
        mut posting: u64,
        size: u32,
        each: &mut impl FnMut(&StateRecord<'_>),
    ) -> Piece {
        let end = from.saturating_add(size).min(self.filters.slots());
        let mut left = RANGES_PER_PIECE;
        for number in from..end {
            let Some(filter) = self.filters.get(number) else { continue };
            let ranges: Vec<_> = filter.postings.from(posting).take(left).collect();
            left -= ranges.len();
            let next = ranges.last().map_or(posting, PostingRange::end);
            if !ranges.is_empty() {
                let filters = vec![FilterPostings { filter: &filter.name, ranges }];
                each(&StateRecord::Postings { next: 0, cursors: Vec::new(), filters });
            }
            if left == 0 {
                return Piece::Filters { number, posting: next };
            }
            posting = 0;
        }
        if end < self.filters.slots() {
            Piece::Filters { number: end, posting: 0 }
        } else {
            Piece::Done
        }
    }
}

/// Ranges in one piece, and so in one record: 32 KiB.
const RANGES_PER_PIECE: usize = 1024;
