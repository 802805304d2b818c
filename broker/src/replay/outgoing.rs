//! A replayed message on its last way, with what the client is told besides as far as its Maximum
//! Packet Size has room for it: a message that fits without is never left out.

use super::mail::{Credit, ReplayId, ReplayMail, Source, Stored};
use super::name;
use super::part::Amount;
use super::properties;
use super::subscription::{Outgoing, Replay};
use super::table::Ticket;
use super::token;
use crate::groups::Errand;
use crate::service::{Broker, Turn};
use crate::session::{NOT_POSTED, Pending, SessionId, SubscriptionIds};
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::message::Message;
use ringlane_mqtt::QoS;

/// What a message is to carry.
struct Load {
    stored: Stored,
    partition: PartitionId,
    token: Option<String>,
    notes: Vec<String>,
}

/// With what of it a message goes out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Form {
    Whole,
    /// Without the token.
    Notes,
    /// With the place of the message alone.
    Place,
    /// As it was published.
    Bare,
}

impl Broker {
    /// Sends a message to a client that takes more.
    pub(super) fn send_replayed(&mut self, turn: &mut Turn<'_>, id: ReplayId, outgoing: Outgoing) {
        let Outgoing { stored, partition, qos, with_token, is_known } = outgoing;
        let Some(replay) = self.replays.get_mut(id) else { return };
        let (session, source) = (replay.session, replay.source(partition));
        let credit = replay.part_mut(partition).and_then(|part| part.take_spent());
        if is_known {
            return self.give_credit(turn, source, credit);
        }
        let (offset, epoch) = (stored.offset, stored.epoch);
        let ticket = Ticket { replay: id, partition, offset, epoch };
        let mut pending = pending(replay, &stored.message, qos, ticket);
        let token = with_token.then(|| token::encode(&replay.handed(), self.replay_seed));
        let token = token.filter(|token| name::has_room_for(token, &replay.filter));
        let load = Load { stored, partition, token, notes: replay.notes() };
        let form = [Form::Whole, Form::Notes, Form::Place, Form::Bare].into_iter().find(|form| {
            pending.message = self.message_in(*form, &load);
            self.is_small_enough(turn.now, session, &pending)
        });
        self.on_formed(ticket, form);
        if form.is_some() {
            self.send_now(turn, session, pending);
        }
        self.give_credit(turn, source, credit);
    }

    fn give_credit(&mut self, turn: &mut Turn<'_>, source: Source, credit: Option<Amount>) {
        if let Some(amount) = credit {
            let credit = ReplayMail::Credit(Credit { source, amount });
            self.send_to_owner(turn, source.partition, credit);
        }
    }

    /// The message of an exchange was read again: as far as the client takes it, it says where it
    /// lies, as it did before.
    pub(crate) fn with_place(
        &mut self,
        turn: &Turn<'_>,
        session: SessionId,
        ticket: &Ticket,
        message: Message,
        unix_ms: u64,
    ) -> Message {
        let link = self.sessions.get(session).and_then(|held| held.link.as_ref());
        if link.is_none_or(|link| !link.version.is_v5()) {
            return message;
        }
        let mut all = message.properties().to_vec();
        properties::put_place(&mut all, ticket.partition, ticket.offset, unix_ms);
        let placed = self.maker.make(*message.head(), message.topic(), &all, message.payload());
        let (qos, ids, posting) = (QoS::ExactlyOnce, SubscriptionIds::None, NOT_POSTED);
        let pending = Pending { message: placed, qos, retain: false, ids, ticket: None, posting };
        match self.is_small_enough(turn.now, session, &pending) {
            true => pending.message,
            false => message,
        }
    }

    /// What did not fit comes with a later message. One that does not fit itself is passed over, and
    /// that is told too.
    fn on_formed(&mut self, ticket: Ticket, form: Option<Form>) {
        let Some(replay) = self.replays.get_mut(ticket.replay) else { return };
        replay.on_formed(form);
        if form.is_none() {
            let (partition, offset) = (ticket.partition.0, ticket.offset);
            replay.note(format!("p{partition}@{offset}: larger than the Maximum Packet Size"));
            self.metrics.dropped_too_large.add(1);
            self.replays.on_done(&ticket);
        }
    }

    fn message_in(&mut self, form: Form, load: &Load) -> Message {
        let Load { stored, partition, token, notes } = load;
        let message = &stored.message;
        let (token, notes) = match form {
            Form::Whole => (token.as_deref(), &notes[..]),
            Form::Notes => (None, &notes[..]),
            Form::Place | Form::Bare => (None, &[][..]),
        };
        if token.is_none() && notes.is_empty() && form != Form::Bare {
            return message.clone();
        }
        let mut properties = message.properties().to_vec();
        if let Some(token) = token {
            properties::put_token(&mut properties, token);
        }
        for note in notes {
            properties::put_note(&mut properties, note);
        }
        if form == Form::Bare {
            properties::cut_place(&mut properties, *partition, stored.offset, stored.unix_ms);
        }
        self.maker.make(*message.head(), message.topic(), &properties, message.payload())
    }
}

fn pending(replay: &Replay, message: &Message, qos: QoS, ticket: Ticket) -> Pending {
    let ids = match replay.options.id {
        0 => SubscriptionIds::None,
        id => SubscriptionIds::One(id),
    };
    let ticket = (qos != QoS::AtMostOnce).then(|| Box::new(Errand::Replay(ticket)));
    let message = message.clone();
    Pending { message, qos, retain: false, ids, ticket, posting: NOT_POSTED }
}
