//! Who waits for a log to be flushed, and what happens then.

use crate::admin::Deleted;
use crate::connection::Phase;
use crate::durable::Place;
use crate::groups::MemberKey;
use crate::service::{Broker, PendingSuback, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::{ConnectionId, CoreId};
use ringlane_mqtt::{ReasonCode, encode};
use ringlane_transport_uring::failpoint::hit;

/// What follows once the log is flushed up to a record.
#[derive(Debug)]
pub(crate) enum Wait {
    /// CONNACK: the connection's CONNECT is taken again.
    Connack(ConnectionId),
    /// SUBACK, and then the retained messages.
    Suback(Box<PendingSuback>),
    Unsuback {
        connection: ConnectionId,
        packet_id: u16,
        reasons: Vec<ReasonCode>,
    },
    /// PUBLISH with QoS 2.
    Publish {
        session: SessionId,
        packet_id: u16,
    },
    Pubrel {
        connection: ConnectionId,
        packet_id: u16,
    },
    Pubcomp {
        connection: ConnectionId,
        packet_id: u16,
        reason: ReasonCode,
    },
    /// An operator is told what was deleted.
    Deleted(Deleted),
    /// A member of a group is told that it has joined.
    Joined {
        to: CoreId,
        suback: u64,
        session: SessionId,
    },
    /// Members of a group are told that its log knows what they have.
    Kept(Box<Kept>),
}

/// Messages that members of a group have with QoS 2.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The group's keyed hash.
    pub(crate) group: u64,
    pub(crate) kept: Vec<(MemberKey, Place)>,
}

/// Waits that are over, taken in one turn.
const WAITS_PER_TURN: usize = 4096;

impl Broker {
    /// An operator is told once everything that was appended to a log so far is flushed.
    pub(crate) fn tell_flushed(&mut self, index: usize, deleted: Deleted) {
        self.wait_flushed(index, Wait::Deleted(deleted));
    }

    /// A member of a group is told so once everything that was appended to a log so far is flushed.
    pub(crate) fn send_joined_when_flushed(
        &mut self,
        index: usize,
        to: CoreId,
        suback: u64,
        session: SessionId,
    ) {
        self.wait_flushed(index, Wait::Joined { to, suback, session });
    }

    /// The same for members that have messages of a group.
    pub(crate) fn tell_kept_when_flushed(&mut self, index: usize, kept: Box<Kept>) {
        self.wait_flushed(index, Wait::Kept(kept));
    }

    /// What waited for the disk and need not any more goes on.
    pub(crate) fn settle_waits(&mut self, turn: &mut Turn<'_>) {
        let Some(durable) = &self.durable else { return };
        for index in 0..durable.partitions.len() {
            for _ in 0..WAITS_PER_TURN {
                let Some(wait) = self.take_wait(index) else { break };
                self.settle_wait(turn, wait);
            }
        }
    }

    fn take_wait(&mut self, index: usize) -> Option<Wait> {
        let durable = self.durable.as_mut()?;
        let waits = &mut durable.partitions[index].waits;
        let (end, _) = waits.front()?;
        if self.partitions[index].marks().high_watermark.0 < *end {
            return None;
        }
        waits.pop_front().map(|(_, wait)| wait)
    }

    /// Whether some wait is over that was not settled.
    pub(crate) fn has_settled_waits(&self) -> bool {
        let Some(durable) = &self.durable else { return false };
        let mut logs = durable.partitions.iter().zip(&self.partitions);
        logs.any(|(own, log)| {
            own.waits.front().is_some_and(|(end, _)| *end <= log.marks().high_watermark.0)
        })
    }

    fn settle_wait(&mut self, turn: &mut Turn<'_>, wait: Wait) {
        match wait {
            Wait::Connack(connection) => {
                let opening = self.connections.get(connection);
                if opening.is_some_and(|found| matches!(found.phase, Phase::Opening { .. })) {
                    self.finish_opening(turn, connection);
                }
            }
            Wait::Deleted(deleted) => deleted.tell(),
            Wait::Joined { to, suback, session } => self.send_joined(turn, to, suback, session),
            Wait::Kept(kept) => self.tell_kept(turn, *kept),
            Wait::Suback(suback) => self.send_suback(turn, *suback),
            Wait::Unsuback { connection, packet_id, reasons } => {
                self.send_unsuback(turn, connection, packet_id, &reasons);
            }
            Wait::Publish { session, packet_id } => self.send_recorded(turn, session, packet_id),
            Wait::Pubrel { connection, packet_id } => {
                self.answer(turn, connection, |out, version| {
                    hit("pubrel.before");
                    encode::pubrel(out, version, packet_id, ReasonCode::SUCCESS, None);
                    hit("pubrel.after");
                });
            }
            Wait::Pubcomp { connection, packet_id, reason } => {
                self.answer(turn, connection, |out, version| {
                    hit("pubcomp.before");
                    encode::pubcomp(out, version, packet_id, reason, None);
                    hit("pubcomp.after");
                });
            }
        }
    }
}
