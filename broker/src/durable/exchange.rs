//! QoS 2 with a durable session, in both directions: each step is in the log before the packet that
//! promises it goes out.

use super::postings::Place;
use super::records::{Beside, SentBody, StateRecord};
use super::waits::Wait;
use crate::connection::Written;
use crate::delivery::{count_publish, write_pending};
use crate::groups::Errand;
use crate::service::{Broker, Turn};
use crate::session::{NOT_POSTED, Pending, SessionId};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{QoS, ReasonCode};

impl Broker {
    /// Begins the exchange of a message: its PUBLISH goes out under this packet identifier, also after
    /// a restart.
    pub(crate) fn record_sent(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) {
        let (what, place) = self.exchanged(id, &pending);
        let name = match pending.ticket.as_deref() {
            Some(Errand::Replay(ticket)) => self.replays.filter_of(ticket).to_owned(),
            Some(Errand::Group(_)) | None => String::new(),
        };
        let Some(session) = self.sessions.get_mut(id) else { return };
        let packet_id = session.outbound.fresh_packet_id();
        self.metrics.inflight_messages.add(1);
        let posting = if what.is_none() { pending.posting } else { NOT_POSTED };
        let sent = SentBody {
            posting: if what.is_none() { posting } else { 0 },
            place,
            retain: pending.retain,
            subscription_ids: pending.ids.as_slice().to_vec(),
        };
        session.outbound.begin_recording(packet_id, Pending { posting, ..pending });
        self.upkeep.note(turn, session);
        let record = match what {
            None => StateRecord::Sent { client_id: "", packet_id, sent },
            Some(what) => {
                StateRecord::SentBeside { client_id: "", name: &name, packet_id, what, sent }
            }
        };
        match self.record_of(turn, id, record) {
            Some(index) => self.wait_flushed(index, Wait::Publish { session: id, packet_id }),
            None => self.send_recorded(turn, id, packet_id),
        }
    }

    /// What a message is of that begins an exchange, if it is no posting, and where it lies. One
    /// whose subscription has ended since is found nowhere.
    fn exchanged(&self, id: SessionId, pending: &Pending) -> (Option<Beside>, Place) {
        if let Some(Errand::Replay(ticket)) = pending.ticket.as_deref() {
            return (Some(Beside::Replay), ticket.place());
        }
        if let Some(Errand::Group(ticket)) = pending.ticket.as_deref()
            && let Some(place) = ticket.place
        {
            return (Some(Beside::Group(ticket.hash)), place);
        }
        let place = self.recorded_index(id).and_then(|index| {
            let (session, durable) = (self.sessions.get(id)?, self.durable.as_ref()?);
            let state = &durable.partitions[index].state;
            state.place_of(state.find(session.client_id.as_str())?, pending.posting)
        });
        match place {
            Some(place) => (None, place),
            None => (Some(Beside::Unread), Place { partition: 0, epoch: 0, offset: 0 }),
        }
    }

    /// The exchange is in the log: its PUBLISH goes out, or waits for the next connection.
    pub(super) fn send_recorded(&mut self, turn: &mut Turn<'_>, id: SessionId, packet_id: u16) {
        self.tell_recorded(turn, id, packet_id);
        let Self { sessions, metrics, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return };
        let (Some(outbound), link) = (session.outbound.existing(), session.link.as_mut()) else {
            return;
        };
        let Some(pending) = outbound.on_recorded(packet_id) else { return };
        let Some(link) = link else { return self.leave_to_log(id) };
        let payload_bytes = pending.message.payload().len();
        match write_pending(link, turn, pending, packet_id, false) {
            Written::Sent | Written::Gone => {
                count_publish(metrics, QoS::ExactlyOnce, payload_bytes);
            }
            Written::TooLarge => {
                metrics.dropped_too_large.add(1);
                metrics.inflight_messages.sub(1);
                let pending = outbound.take_back(packet_id);
                self.record_completed(turn, id, packet_id);
                if let Some(pending) = pending {
                    self.settle_ticket(turn, id, &pending);
                }
            }
        }
    }

    /// A message of a group is in the log of its member.
    fn tell_recorded(&mut self, turn: &mut Turn<'_>, id: SessionId, packet_id: u16) {
        let Some(session) = self.sessions.get(id).filter(|held| held.records_exchanges()) else {
            return;
        };
        if let Some(ticket) = session.outbound.group_ticket(packet_id) {
            self.tell_taken(turn, id, &ticket);
        }
    }

    /// PUBREC was seen: PUBREL goes out once that is in the log. False if there is nothing to wait
    /// for.
    pub(crate) fn record_received(
        &mut self,
        turn: &Turn<'_>,
        connection: ConnectionId,
        id: SessionId,
        packet_id: u16,
    ) -> bool {
        let index = self.record_of(turn, id, StateRecord::Received { client_id: "", packet_id });
        let Some(index) = index else { return false };
        self.wait_flushed(index, Wait::Pubrel { connection, packet_id });
        true
    }

    /// An exchange is over. Nobody waits for that.
    pub(crate) fn record_completed(&mut self, turn: &Turn<'_>, id: SessionId, packet_id: u16) {
        self.record_of(turn, id, StateRecord::Completed { client_id: "", packet_id });
    }

    /// An incoming QoS 2 message was appended, and its packet identifier with it.
    pub(crate) fn note_incoming(&mut self, id: SessionId, packet_id: u16) {
        let Some(index) = self.recorded_index(id) else { return };
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        if let Some(session) = sessions.get(id) {
            durable.partitions[index].state.receive(session.client_id.as_str(), packet_id);
        }
    }

    /// An incoming identifier is free again.
    pub(crate) fn record_release(&mut self, turn: &Turn<'_>, id: SessionId, packet_id: u16) {
        self.record_of(turn, id, StateRecord::Release { client_id: "", packet_id });
    }

    /// PUBCOMP goes out once all that was recorded so far is in the log: the release, also if it is
    /// an earlier PUBREL's. False if there is nothing to wait for.
    pub(crate) fn wait_for_release(
        &mut self,
        connection: ConnectionId,
        id: SessionId,
        packet_id: u16,
        reason: ReasonCode,
    ) -> bool {
        let Some(index) = self.recorded_index(id) else { return false };
        self.wait_flushed(index, Wait::Pubcomp { connection, packet_id, reason });
        true
    }
}
