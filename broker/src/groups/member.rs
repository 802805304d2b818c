//! The member's side of a group, within the broker: deliver, and answer for every message.

use super::{Errand, GroupKey, MEMBER_WINDOW, Member, MemberKey, Seq, Ticket};
use crate::durable::{Place, StateRecord};
use crate::mail::{GroupMail, Mail};
use crate::replay::Replays;
use crate::service::{Broker, Post, Turn};
use crate::session::{
    NOT_POSTED, Outbound, Pending, Session, SessionId, SubscriptionIds, SubscriptionKind,
};
use ringlane_dataplane::message::Message;
use ringlane_mqtt::QoS;

impl Broker {
    pub(crate) fn member_key(&self, session: SessionId) -> MemberKey {
        MemberKey { core: self.core, session }
    }

    /// Messages of one group that a session takes at once before it has answered any: never more
    /// than its own window.
    pub(crate) fn member_window(&self, session: SessionId) -> u16 {
        let link = self.sessions.get(session).and_then(|session| session.link.as_ref());
        link.map_or(0, |link| link.window.min(MEMBER_WINDOW))
    }

    pub(crate) fn send_join(
        &mut self,
        turn: &mut Turn<'_>,
        key: GroupKey,
        member: Member,
        suback: u64,
    ) {
        let owner = self.placement.group_owner(&key.name, &key.filter);
        let join = GroupMail::Join { key, member, suback };
        self.send_mail(turn, owner, Mail::Group(Box::new(join)));
    }

    pub(crate) fn send_leave(&mut self, turn: &mut Turn<'_>, key: GroupKey, session: SessionId) {
        let owner = self.placement.group_owner(&key.name, &key.filter);
        let leave = GroupMail::Leave { key, member: self.member_key(session) };
        self.send_mail(turn, owner, Mail::Group(Box::new(leave)));
    }

    /// Tells the owners of a session's groups that its connection came or went.
    pub(crate) fn set_presence(&mut self, turn: &mut Turn<'_>, id: SessionId, window: u16) {
        let Some(session) = self.sessions.get(id) else { return };
        let keys = session.subscriptions.collect(|_, held| match &held.kind {
            SubscriptionKind::Shared { key, .. } => Some(key.clone()),
            SubscriptionKind::Plain { .. } => None,
        });
        let member = self.member_key(id);
        for key in keys {
            let owner = self.placement.group_owner(&key.name, &key.filter);
            let presence = GroupMail::Presence { key: (*key).clone(), member, window };
            self.send_mail(turn, owner, Mail::Group(Box::new(presence)));
        }
    }

    /// A message for a member of this core; it goes back if the member is away.
    pub(crate) fn on_group_deliver(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        message: Message,
        qos: QoS,
        errand: Box<Errand>,
    ) {
        let Errand::Group(ticket) = *errand else { return };
        let connected = self.sessions.get(id).is_some_and(|session| session.link.is_some());
        if !connected {
            return self.return_message(turn, id, message, &ticket);
        }
        let ids = match ticket.subscription_id {
            0 => SubscriptionIds::None,
            id => SubscriptionIds::One(id),
        };
        let retain = ticket.retain;
        let (ticket, posting) = (Some(errand), NOT_POSTED);
        let pending = Pending { message, qos, retain, ids, ticket, posting };
        self.owe(turn, id, pending);
    }

    /// Whether a member's session outlives the broker.
    pub(crate) fn is_durable_member(&self, session: SessionId) -> bool {
        self.sessions.get(session).is_some_and(Session::records_exchanges)
    }

    /// This session's log has a QoS 2 message of a group: it is the group's no more.
    pub(crate) fn tell_taken(&mut self, turn: &mut Turn<'_>, id: SessionId, ticket: &Ticket) {
        let Some(place) = ticket.place else { return };
        self.send_taken(turn, id, ticket.hash, Some(ticket.seq), place);
    }

    /// The same of one that it had before the start.
    pub(crate) fn tell_held(&mut self, turn: &mut Turn<'_>, id: SessionId, held: &[(u64, Place)]) {
        for (hash, place) in held {
            self.send_taken(turn, id, *hash, None, *place);
        }
    }

    fn send_taken(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        group: u64,
        seq: Option<Seq>,
        place: Place,
    ) {
        let owner = self.placement.owner(self.placement.partition_of(group));
        let taken = GroupMail::Taken { group, member: self.member_key(id), seq, place };
        self.send_mail(turn, owner, Mail::Group(Box::new(taken)));
    }

    /// A group's log says that messages were given to this session: nobody needs to be told again. If
    /// the session's log does not take that now, the next start tells it once more.
    pub(crate) fn on_kept(
        &mut self,
        turn: &Turn<'_>,
        session: SessionId,
        group: u64,
        places: Vec<Place>,
    ) {
        if !self.state_waits(session) {
            self.record_of(turn, session, StateRecord::GroupKept { client_id: "", group, places });
        }
    }

    /// The connection went: what another member may get goes back to the group.
    pub(crate) fn return_group_messages(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let queued = (session.outbound.queue_len(), session.outbound.queue_bytes());
        let inflight = session.outbound.inflight_len();
        let taken =
            session.outbound.existing().map(Outbound::take_group_messages).unwrap_or_default();
        let queued_gone = queued.0 - session.outbound.queue_len();
        self.metrics.queued_messages.sub(queued_gone as u64);
        self.metrics.queued_bytes.sub((queued.1 - session.outbound.queue_bytes()) as u64);
        self.metrics.inflight_messages.sub((inflight - session.outbound.inflight_len()) as u64);
        for pending in taken {
            if let Some(Errand::Group(ticket)) = pending.ticket.as_deref() {
                self.return_message(turn, id, pending.message, ticket);
            }
        }
    }

    fn return_message(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        message: Message,
        ticket: &Ticket,
    ) {
        let Ticket { group, seq, place, .. } = *ticket;
        let back = GroupMail::Return { group, member: self.member_key(id), seq, place, message };
        self.send_mail(turn, ticket.owner, Mail::Group(Box::new(back)));
    }

    /// Tells the owner that a message of its group is done with.
    pub(crate) fn settle_ticket(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: &Pending) {
        match pending.ticket.as_deref() {
            Some(Errand::Group(ticket)) => {
                let (group, seq) = (ticket.group, ticket.seq);
                let mail = Mail::GroupDone { group, member: self.member_key(id), seq };
                self.send_mail(turn, ticket.owner, mail);
            }
            Some(Errand::Replay(ticket)) => self.replays.on_done(ticket),
            None => {}
        }
    }

    /// As [`Broker::settle_ticket`], at the end of the turn.
    pub(crate) fn owe_ticket(&mut self, id: SessionId, pending: &Pending) {
        let member = self.member_key(id);
        queue_ticket(&mut self.post, &mut self.replays, member, pending);
    }
}

/// Queues the answer for a message of a group, if it is one; a replay is told at once.
pub(crate) fn queue_ticket(
    post: &mut Post,
    replays: &mut Replays,
    member: MemberKey,
    pending: &Pending,
) {
    match pending.ticket.as_deref() {
        Some(Errand::Group(ticket)) => {
            let (group, seq) = (ticket.group, ticket.seq);
            post.queue(ticket.owner, Mail::GroupDone { group, member, seq });
        }
        Some(Errand::Replay(ticket)) => replays.on_done(ticket),
        None => {}
    }
}
