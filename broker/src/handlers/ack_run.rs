//! Acknowledgements one behind the other: a client that works through a window sends them so, and
//! they are taken in one pass.

use super::Flow;
use crate::groups::{MemberKey, queue_ticket};
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{AckKind, ReasonCode, encode, short_ack};
use ringlane_transport_uring::failpoint::hit;

/// Acknowledgements taken in one pass; what a group's members answer waits for mailboxes, which
/// are looked at between passes.
const RUN_MAX: usize = 256;

impl Broker {
    /// Takes the acknowledgements of one kind at the front of `bytes`; `None` if there are none in
    /// the short form, or if it is not the time for them.
    pub(crate) fn take_ack_run(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        bytes: &[u8],
    ) -> Option<Flow> {
        let (kind, _) = short_ack(bytes)?;
        // What is to be in a log is recorded packet by packet.
        let recorded = kind != AckKind::Puback
            && self.sessions.get(session).is_some_and(|session| session.recorded);
        if recorded || self.post.is_congested() {
            return None;
        }
        let packets = bytes.chunks_exact(4).take(RUN_MAX);
        let run = packets.map_while(|packet| short_ack(packet).filter(|(other, _)| *other == kind));
        let ids = run.map(|(_, packet_id)| packet_id);
        let taken = match kind {
            AckKind::Puback | AckKind::Pubcomp => self.end_exchanges(session, kind, ids)?,
            AckKind::Pubrec | AckKind::Pubrel => self.answer_run(turn, id, session, kind, ids)?,
        };
        self.metrics.packets_received.add(taken as u64);
        Some(Flow::Next(taken * 4))
    }

    /// PUBACK and PUBCOMP. Returns how many there were.
    fn end_exchanges(
        &mut self,
        session: SessionId,
        kind: AckKind,
        ids: impl Iterator<Item = u16>,
    ) -> Option<usize> {
        let Self { sessions, post, replays, metrics, core, .. } = self;
        let held = sessions.get_mut(session)?;
        let member = MemberKey { core: *core, session };
        let (mut taken, mut ended) = (0, 0);
        for packet_id in ids {
            taken += 1;
            let pending = match kind {
                AckKind::Puback => held.outbound.on_puback(packet_id),
                _ => held.outbound.on_pubcomp(packet_id),
            };
            let Some(pending) = pending else { continue };
            ended += 1;
            queue_ticket(post, replays, member, &pending);
        }
        if ended > 0 {
            metrics.inflight_messages.sub(ended);
            self.note_moved(session);
            self.pump_at_end(session);
        }
        Some(taken)
    }

    /// PUBREC and PUBREL, each answered at once. Returns how many there were.
    fn answer_run(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        kind: AckKind,
        ids: impl Iterator<Item = u16>,
    ) -> Option<usize> {
        let connection = self.connections.get(id)?;
        if connection.is_websocket() {
            return None;
        }
        let version = connection.version;
        let held = self.sessions.get_mut(session)?;
        let out = &mut turn.sockets.output(id)?.bytes;
        let mut taken = 0;
        for packet_id in ids {
            taken += 1;
            let known = match kind {
                AckKind::Pubrec => held.outbound.on_pubrec(packet_id),
                _ => held.received_qos2.remove(packet_id),
            };
            let reason = match known {
                true => ReasonCode::SUCCESS,
                false => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            };
            match kind {
                AckKind::Pubrec => {
                    hit("pubrel.before");
                    encode::pubrel(out, version, packet_id, reason, None);
                }
                _ => {
                    hit("pubcomp.before");
                    encode::pubcomp(out, version, packet_id, reason, None);
                    hit("pubcomp.after");
                }
            }
        }
        self.metrics.packets_sent.add(taken as u64);
        Some(taken)
    }
}
