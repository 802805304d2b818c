//! The way out of a session: the in-flight window and what waits behind it.
//!
//! The order of both is the order in which messages matched; a resend keeps it [MQTT-4.6.0-1].
//!
//! A session that is in the log keeps only so much of that in memory. It has a *frontier*: postings
//! below it are here, were acknowledged, or are exchanges; all others are read from the log
//! (`durable::catch_up`). Nothing is in memory of what comes at or behind it.

use crate::durable::Place;
use crate::groups::{Errand, Ticket as GroupTicket};
use crate::lazy::Empty;
use crate::replay::Ticket as ReplayTicket;
use hashbrown::HashSet;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use std::collections::VecDeque;

/// Entries that an empty queue keeps room for while its session is busy.
const KEPT_CAPACITY: usize = 64;

/// The subscription identifiers that a delivery carries.
#[derive(Clone, Debug, Default)]
pub(crate) enum SubscriptionIds {
    #[default]
    None,
    One(u32),
    Many(Box<[u32]>),
}

impl SubscriptionIds {
    pub(crate) fn from_slice(ids: &[u32]) -> Self {
        match ids {
            [] => Self::None,
            [one] => Self::One(*one),
            many => Self::Many(many.into()),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(id) => core::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// A message that a session is owed.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) message: Message,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) ids: SubscriptionIds,
    /// Set if somebody is told when the session is done with it.
    pub(crate) ticket: Option<Box<Errand>>,
    /// Its posting number, or [`NOT_POSTED`].
    pub(crate) posting: u64,
}

/// The posting number of a message that nobody finds again after a crash.
pub(crate) const NOT_POSTED: u64 = u64::MAX;

impl Pending {
    /// Whether it comes from a shared-subscription group.
    fn is_of_group(&self) -> bool {
        matches!(self.ticket.as_deref(), Some(Errand::Group(_)))
    }

    /// What it counts against the bounds, in bytes.
    pub(crate) fn cost_bytes(&self) -> usize {
        self.message.memory_bytes() + size_of::<Self>()
    }
}

/// The frontier of a session that has all that it is owed in memory.
pub(crate) const IN_STEP: u64 = u64::MAX;

/// How far an exchange has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// PUBLISH goes out once its record is durable.
    Recording,
    /// To be sent again, with DUP, on the present connection.
    Resend,
    /// PUBLISH sent.
    Sent,
    /// PUBREC seen; PUBREL sent.
    Released,
}

/// A message that was sent and is not yet acknowledged.
#[derive(Debug)]
pub(crate) struct Inflight {
    pub(crate) packet_id: u16,
    pub(crate) phase: Phase,
    /// Where the message has to be read before it is sent again. Kept here, because the
    /// subscription that it came from may end before that.
    pub(crate) away: Option<Place>,
    pub(crate) pending: Pending,
}

/// What a session is owed: in flight, then queued.
#[derive(Debug)]
pub(crate) struct Outbound {
    inflight: VecDeque<Inflight>,
    inflight_bytes: usize,
    /// PUBLISH packets sent on the present connection and not acknowledged [MQTT-4.9.0-1].
    unacknowledged: u16,
    queue: VecDeque<Pending>,
    queue_bytes: usize,
    last_packet_id: u16,
    /// Exchanges in [`Phase::Resend`].
    resend_left: usize,
    /// Postings at and above are read from the log, or [`IN_STEP`].
    frontier: u64,
}

impl Outbound {
    const fn new() -> Self {
        Self {
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            unacknowledged: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            last_packet_id: 0,
            resend_left: 0,
            frontier: IN_STEP,
        }
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Empty for Outbound {
    fn empty() -> &'static Self {
        const { &Self::new() }
    }
}

impl Outbound {
    /// Whether nothing is owed: whatever is kept is only room for more.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_empty() && self.frontier == IN_STEP
    }

    /// Whether nothing is in memory.
    pub(crate) fn is_empty(&self) -> bool {
        self.inflight.is_empty() && self.queue.is_empty()
    }

    /// From which posting on what is owed is in the log only, or [`IN_STEP`].
    pub(crate) fn frontier(&self) -> u64 {
        self.frontier
    }

    /// Moves the frontier: what lies below it is here now, or is not owed.
    pub(crate) fn set_frontier(&mut self, frontier: u64) {
        self.frontier = frontier;
    }

    pub(crate) fn inflight_len(&self) -> usize {
        self.inflight.len()
    }

    pub(crate) fn queue_len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Exchanges of QoS 1 that are found again after a crash.
    pub(crate) fn inflight_postings(&self) -> usize {
        let posted = |inflight: &&Inflight| {
            let Pending { qos, posting, .. } = inflight.pending;
            qos == QoS::AtLeastOnce && posting != NOT_POSTED
        };
        self.inflight.iter().filter(posted).count()
    }

    /// When the oldest message was accepted, of those in memory.
    pub(crate) fn oldest_accepted_at(&self) -> Option<Nanos> {
        let in_memory = self.inflight.iter().find(|inflight| inflight.away.is_none());
        let sent = in_memory.map(|inflight| &inflight.pending);
        let both = [sent, self.queue.front()];
        both.into_iter().flatten().map(|pending| pending.message.head().accepted_at).min()
    }

    /// Whether another PUBLISH fits into the window of `messages` and `bytes`. One message always
    /// fits into an empty window, however large it is.
    pub(crate) fn window_is_open(&self, messages: u16, bytes: usize) -> bool {
        self.unacknowledged < messages
            && (self.inflight_bytes < bytes || self.unacknowledged == 0)
            && self.inflight.len() < usize::from(u16::MAX)
    }

    pub(crate) fn push_queue(&mut self, pending: Pending) {
        self.queue_bytes += pending.cost_bytes();
        self.queue.push_back(pending);
    }

    /// The topic of the message that has waited longest.
    pub(crate) fn oldest_queued_topic(&self) -> Option<&str> {
        self.queue.front().map(|pending| pending.message.topic())
    }

    /// Whether the first message in the queue goes out with QoS 2: in a log, if the session is in one,
    /// before that.
    pub(crate) fn next_is_exactly_once(&self) -> bool {
        self.queue.front().is_some_and(|pending| pending.qos == QoS::ExactlyOnce)
    }

    pub(crate) fn pop_queue(&mut self) -> Option<Pending> {
        let pending = self.queue.pop_front()?;
        self.queue_bytes -= pending.cost_bytes();
        Some(pending)
    }

    /// Whether a new message may go out without passing another one.
    pub(crate) fn is_in_step(&self) -> bool {
        self.queue.is_empty() && self.resend_left == 0 && self.frontier == IN_STEP
    }

    /// Whether messages of an earlier connection wait to be sent again.
    pub(crate) fn has_resends(&self) -> bool {
        self.resend_left > 0
    }

    /// Puts a message into the window that goes out once its record is durable.
    pub(crate) fn begin_recording(&mut self, packet_id: u16, pending: Pending) {
        self.begin(packet_id, pending);
        if let Some(inflight) = self.inflight.back_mut() {
            inflight.phase = Phase::Recording;
        }
    }

    /// The record of an exchange is durable: what is to be sent, if a connection is there to send
    /// it; a later one sends it again, for all that anybody knows.
    pub(crate) fn on_recorded(&mut self, packet_id: u16) -> Option<&Pending> {
        let index = self.position(packet_id)?;
        let inflight = &mut self.inflight[index];
        if inflight.phase != Phase::Recording {
            return None;
        }
        inflight.phase = Phase::Sent;
        Some(&inflight.pending)
    }

    /// Puts an exchange back that was open before a restart. Its message lies `away`, or is not needed
    /// any more because PUBREC was seen.
    pub(crate) fn restore(&mut self, packet_id: u16, pending: Pending, away: Option<Place>) {
        self.inflight_bytes += pending.cost_bytes();
        self.last_packet_id = packet_id;
        let phase = if away.is_some() { Phase::Sent } else { Phase::Released };
        self.inflight.push_back(Inflight { packet_id, phase, away, pending });
    }

    /// The lowest posting number that was neither acknowledged nor recorded as an exchange.
    pub(crate) fn owed_from(&self) -> Option<u64> {
        let sent = self.inflight.iter().filter(|inflight| inflight.pending.qos == QoS::AtLeastOnce);
        let sent = sent.map(|inflight| inflight.pending.posting).min();
        let queued = self.queue.iter().map(|pending| pending.posting);
        let queued = queued.filter(|posting| *posting != NOT_POSTED).min();
        let lowest = sent.into_iter().chain(queued).chain([self.frontier]).min();
        // `NOT_POSTED` and `IN_STEP` are above all numbers.
        lowest.filter(|posting| *posting != NOT_POSTED)
    }

    /// Puts a message into the window under a fresh packet identifier, of
    /// [`Outbound::fresh_packet_id`].
    pub(crate) fn begin(&mut self, packet_id: u16, pending: Pending) {
        self.inflight_bytes += pending.cost_bytes();
        self.unacknowledged += 1;
        self.inflight.push_back(Inflight { packet_id, phase: Phase::Sent, away: None, pending });
    }

    /// The next exchange to be sent again, from now on in flight on this connection.
    pub(crate) fn begin_resend(&mut self) -> Option<&Inflight> {
        if self.resend_left == 0 {
            return None;
        }
        self.resend_left -= 1;
        self.unacknowledged += 1;
        let mut resends = self.inflight.iter_mut();
        let inflight = resends.find(|inflight| inflight.phase == Phase::Resend)?;
        inflight.phase = Phase::Sent;
        Some(inflight)
    }

    /// Whether the next exchange to be sent again waits for its message.
    pub(crate) fn next_resend_is_away(&self) -> bool {
        let next = self.inflight.iter().find(|inflight| inflight.phase == Phase::Resend);
        self.resend_left > 0 && next.is_some_and(|inflight| inflight.away.is_some())
    }

    /// The first exchanges to be sent again whose messages are in the log, at most `max`: packet
    /// identifiers and places.
    pub(crate) fn away(&self, max: usize) -> Vec<(u16, Place)> {
        let resends = self.inflight.iter().filter(|i| i.phase == Phase::Resend);
        resends.filter_map(|i| Some((i.packet_id, i.away?))).take(max).collect()
    }

    /// Which message of a replay an exchange has, if it has one.
    pub(crate) fn replayed(&self, packet_id: u16) -> Option<ReplayTicket> {
        let index = self.position(packet_id)?;
        match self.inflight[index].pending.ticket.as_deref() {
            Some(Errand::Replay(ticket)) => Some(*ticket),
            Some(Errand::Group(_)) | None => None,
        }
    }

    /// Which message of a group an exchange has, if it has one.
    pub(crate) fn group_ticket(&self, packet_id: u16) -> Option<GroupTicket> {
        let index = self.position(packet_id)?;
        match self.inflight[index].pending.ticket.as_deref() {
            Some(Errand::Group(ticket)) => Some(*ticket),
            Some(Errand::Replay(_)) | None => None,
        }
    }

    /// The message of an exchange was read.
    pub(crate) fn bring_back(&mut self, packet_id: u16, message: Message) {
        let Some(index) = self.position(packet_id) else { return };
        let inflight = &mut self.inflight[index];
        if inflight.away.take().is_some() {
            self.inflight_bytes -= inflight.pending.cost_bytes();
            inflight.pending.message = message;
            self.inflight_bytes += inflight.pending.cost_bytes();
        }
    }

    /// The message of a QoS 2 exchange cannot be read: whether the client has it is not known, and
    /// PUBREL ends the exchange in both cases. False if it is none.
    pub(crate) fn release_unread(&mut self, packet_id: u16) -> bool {
        let Some(index) = self.position(packet_id) else { return false };
        let inflight = &mut self.inflight[index];
        if inflight.pending.qos != QoS::ExactlyOnce || inflight.away.take().is_none() {
            return false;
        }
        let was_to_be_sent = inflight.phase == Phase::Resend;
        inflight.phase = Phase::Released;
        self.resend_left -= usize::from(was_to_be_sent);
        self.unacknowledged += u16::from(was_to_be_sent);
        true
    }

    /// Takes an exchange out whose message cannot be read.
    pub(crate) fn give_up(&mut self, packet_id: u16) -> Option<Pending> {
        let index =
            self.position(packet_id).filter(|index| self.inflight[*index].away.is_some())?;
        let inflight = self.inflight.remove(index)?;
        self.inflight_bytes -= inflight.pending.cost_bytes();
        self.resend_left -= usize::from(inflight.phase == Phase::Resend);
        Some(inflight.pending)
    }

    /// The session has no connection for a while: what the log has goes out of memory, and the
    /// frontier moves back to it. `place_of` says where a posting, or an exchange by its packet identifier, lies; `nothing`
    /// takes the place of messages.
    pub(crate) fn leave_to_log(
        &mut self,
        place_of: impl Fn(Option<u16>, &Pending) -> Option<Place>,
        nothing: &Message,
    ) {
        for pending in core::mem::take(&mut self.queue) {
            if pending.posting != NOT_POSTED && place_of(None, &pending).is_some() {
                self.queue_bytes -= pending.cost_bytes();
                self.frontier = self.frontier.min(pending.posting);
            } else {
                self.queue.push_back(pending);
            }
        }
        for inflight in &mut self.inflight {
            let away = match inflight.phase {
                Phase::Sent | Phase::Resend if inflight.away.is_none() => {
                    place_of(Some(inflight.packet_id), &inflight.pending)
                }
                _ => None,
            };
            if away.is_some() || inflight.phase == Phase::Released {
                self.inflight_bytes -= inflight.pending.cost_bytes();
                inflight.pending.message = nothing.clone();
                self.inflight_bytes += inflight.pending.cost_bytes();
                inflight.away = away;
            }
        }
        self.queue.shrink_to_fit();
        self.inflight.shrink_to_fit();
    }

    /// The postings in flight at and above a frontier: only those that went out before an earlier one
    /// came, from a subscription that waited for its retained messages.
    pub(crate) fn in_flight_from(&self, frontier: u64) -> HashSet<u64> {
        let postings = self.inflight.iter().map(|inflight| inflight.pending.posting);
        postings.filter(|posting| (frontier..NOT_POSTED).contains(posting)).collect()
    }

    /// Replaces the handles on messages accepted before `before` that keep more than the message.
    pub(crate) fn make_lasting(
        &mut self,
        before: Nanos,
        mut lasting: impl FnMut(&Message) -> Message,
    ) {
        for Inflight { pending, .. } in &mut self.inflight {
            if !pending.message.is_lasting() && pending.message.head().accepted_at < before {
                pending.message = lasting(&pending.message);
            }
        }
    }

    /// Exchanges whose PUBREL has to be sent again, in order.
    pub(crate) fn released(&self) -> impl Iterator<Item = u16> {
        self.inflight
            .iter()
            .filter(|inflight| inflight.phase == Phase::Released)
            .map(|inflight| inflight.packet_id)
    }

    /// A new connection begins: whatever was sent and not received has to be sent again.
    pub(crate) fn begin_connection(&mut self) {
        // An exchange in its second half still counts against Receive Maximum [MQTT-3.3.4-9].
        let counted =
            |inflight: &&Inflight| matches!(inflight.phase, Phase::Released | Phase::Recording);
        let counted = self.inflight.iter().filter(counted).count();
        self.unacknowledged = u16::try_from(counted).unwrap_or(u16::MAX);
        for inflight in &mut self.inflight {
            if inflight.phase == Phase::Sent {
                inflight.phase = Phase::Resend;
            }
        }
        let resend = self.inflight.iter().filter(|inflight| inflight.phase == Phase::Resend);
        self.resend_left = resend.count();
    }

    /// PUBACK: ends a QoS 1 exchange.
    pub(crate) fn on_puback(&mut self, packet_id: u16) -> Option<Pending> {
        let index = self.position(packet_id)?;
        let inflight = &self.inflight[index];
        if inflight.pending.qos != QoS::AtLeastOnce || inflight.phase != Phase::Sent {
            return None;
        }
        self.end(index)
    }

    /// PUBREC with success: the PUBLISH is never sent again. False if there is no such exchange.
    pub(crate) fn on_pubrec(&mut self, packet_id: u16) -> bool {
        let Some(index) = self.position(packet_id) else { return false };
        let inflight = &mut self.inflight[index];
        let sent = matches!(inflight.phase, Phase::Sent | Phase::Released);
        if inflight.pending.qos != QoS::ExactlyOnce || !sent {
            return false;
        }
        inflight.phase = Phase::Released;
        true
    }

    /// PUBREC with an error: the exchange is over [MQTT-4.3.3-4].
    pub(crate) fn on_pubrec_error(&mut self, packet_id: u16) -> Option<Pending> {
        let index = self.position(packet_id)?;
        let inflight = &self.inflight[index];
        if inflight.pending.qos != QoS::ExactlyOnce || inflight.phase != Phase::Sent {
            return None;
        }
        self.end(index)
    }

    /// PUBCOMP: ends a QoS 2 exchange.
    pub(crate) fn on_pubcomp(&mut self, packet_id: u16) -> Option<Pending> {
        let index = self.position(packet_id)?;
        if self.inflight[index].phase != Phase::Released {
            return None;
        }
        self.end(index)
    }

    /// Takes an exchange out whose PUBLISH could not be written on this connection.
    pub(crate) fn take_back(&mut self, packet_id: u16) -> Option<Pending> {
        let index = self.position(packet_id)?;
        self.end(index)
    }

    /// Takes out the messages of shared groups that another member may get: those queued, and
    /// those sent with QoS 1 [MQTT5 §4.8.2]. QoS 2 in progress stays [MQTT-4.8.2-4].
    pub(crate) fn take_group_messages(&mut self) -> Vec<Pending> {
        let mut taken = Vec::new();
        for inflight in core::mem::take(&mut self.inflight) {
            if inflight.pending.is_of_group() && inflight.pending.qos == QoS::AtLeastOnce {
                self.inflight_bytes -= inflight.pending.cost_bytes();
                self.resend_left -= usize::from(inflight.phase == Phase::Resend);
                taken.push(inflight.pending);
            } else {
                self.inflight.push_back(inflight);
            }
        }
        for pending in core::mem::take(&mut self.queue) {
            if pending.is_of_group() {
                self.queue_bytes -= pending.cost_bytes();
                taken.push(pending);
            } else {
                self.queue.push_back(pending);
            }
        }
        taken
    }

    /// Drops what was sent of replays that read it again.
    pub(crate) fn drop_read_again(&mut self, is_read_again: impl Fn(&ReplayTicket) -> bool) {
        let Self { inflight, inflight_bytes, resend_left, .. } = self;
        inflight.retain(|inflight| {
            let Some(Errand::Replay(ticket)) = inflight.pending.ticket.as_deref() else {
                return true;
            };
            let stays = inflight.pending.qos != QoS::AtLeastOnce || !is_read_again(ticket);
            if !stays {
                *inflight_bytes -= inflight.pending.cost_bytes();
                *resend_left -= usize::from(inflight.phase == Phase::Resend);
            }
            stays
        });
    }

    /// Takes out the queued messages whose interval has passed.
    pub(crate) fn take_expired(&mut self, now: Nanos) -> Vec<Pending> {
        let mut taken = Vec::new();
        for pending in core::mem::take(&mut self.queue) {
            if pending.message.head().expires_at <= now {
                self.queue_bytes -= pending.cost_bytes();
                taken.push(pending);
            } else {
                self.queue.push_back(pending);
            }
        }
        taken
    }

    /// Gives back the memory of a backlog that is gone.
    pub(crate) fn shrink(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
    }

    /// Everything that is owed, in order; the session ends.
    pub(crate) fn drain_all(&mut self) -> Vec<Pending> {
        let inflight = core::mem::take(&mut self.inflight);
        let queue = core::mem::take(&mut self.queue);
        *self = Self::default();
        inflight.into_iter().map(|inflight| inflight.pending).chain(queue).collect()
    }

    fn end(&mut self, index: usize) -> Option<Pending> {
        let inflight = self.inflight.remove(index)?;
        self.inflight_bytes -= inflight.pending.cost_bytes();
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        Some(inflight.pending)
    }

    /// Identifiers rise by one, so the distance to the front is where an exchange lies, or above
    /// it where later ones ended first; only behind a lap around a stuck one is that not so.
    fn position(&self, packet_id: u16) -> Option<usize> {
        let first = self.inflight.front()?.packet_id;
        let distance = |id: u16| usize::from(id.wrapping_sub(first));
        let guess = distance(packet_id);
        let is_it = |index: usize| {
            self.inflight.get(index).is_some_and(|inflight| inflight.packet_id == packet_id)
        };
        if is_it(guess) {
            return Some(guess);
        }
        let index = self.inflight.partition_point(|other| distance(other.packet_id) < guess);
        if is_it(index) {
            return Some(index);
        }
        self.inflight.iter().position(|inflight| inflight.packet_id == packet_id)
    }

    /// The next identifier that is not in use [MQTT-2.2.1-4]; the caller checked the window.
    pub(crate) fn fresh_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.may_hold(self.last_packet_id) || self.position(self.last_packet_id).is_none() {
                return self.last_packet_id;
            }
        }
    }

    /// False if the identifier lies outside the span of those in flight.
    fn may_hold(&self, packet_id: u16) -> bool {
        match (self.inflight.front(), self.inflight.back()) {
            (Some(first), Some(last)) if first.packet_id <= last.packet_id => {
                (first.packet_id..=last.packet_id).contains(&packet_id)
            }
            (first, _) => first.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_dataplane::message::MessageHead;

    fn pending(qos: QoS) -> Pending {
        let head = MessageHead {
            publisher: 0,
            accepted_at: Nanos(0),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: qos as u8,
            retain: false,
        };
        let message = Message::new(head, "t", &[], &[0; 100], &mut Vec::new());
        Pending {
            message,
            qos,
            retain: false,
            ids: SubscriptionIds::None,
            ticket: None,
            posting: NOT_POSTED,
        }
    }

    fn begin(outbound: &mut Outbound, qos: QoS) -> u16 {
        let packet_id = outbound.fresh_packet_id();
        outbound.begin(packet_id, pending(qos));
        packet_id
    }

    #[test]
    fn acknowledgements_end_only_their_own_kind_of_exchange() {
        let mut outbound = Outbound::default();
        let one = begin(&mut outbound, QoS::AtLeastOnce);
        let two = begin(&mut outbound, QoS::ExactlyOnce);
        assert_eq!((one, two), (1, 2));
        assert!(outbound.on_puback(two).is_none());
        assert!(!outbound.on_pubrec(one));
        assert!(outbound.on_pubcomp(two).is_none());
        assert!(outbound.on_pubrec(two));
        assert!(outbound.on_pubrec(two), "a repeated PUBREC is answered again");
        assert!(outbound.on_pubrec_error(two).is_none());
        assert!(outbound.on_pubcomp(two).is_some());
        assert!(outbound.on_puback(one).is_some());
        assert!(outbound.on_puback(one).is_none());
        assert_eq!(outbound.inflight_len(), 0);
        assert_eq!(outbound.inflight_bytes, 0);
    }

    #[test]
    fn the_window_counts_messages_and_bytes() {
        let mut outbound = Outbound::default();
        assert!(outbound.window_is_open(1, 1), "one message always fits");
        begin(&mut outbound, QoS::AtLeastOnce);
        assert!(!outbound.window_is_open(1, 1 << 20));
        assert!(!outbound.window_is_open(10, 1));
        assert!(outbound.window_is_open(10, 1 << 20));
    }

    #[test]
    fn identifiers_skip_those_in_use_and_zero() {
        let mut outbound = Outbound::default();
        let first = begin(&mut outbound, QoS::ExactlyOnce);
        outbound.last_packet_id = u16::MAX - 1;
        assert_eq!(begin(&mut outbound, QoS::AtLeastOnce), u16::MAX);
        assert_eq!(first, 1);
        assert_eq!(begin(&mut outbound, QoS::AtLeastOnce), 2, "0 is invalid and 1 in use");
        assert!(outbound.on_puback(u16::MAX).is_some());
        assert!(outbound.on_puback(2).is_some());
    }

    #[test]
    fn a_new_connection_resends_in_order_and_keeps_released_ones() {
        let mut outbound = Outbound::default();
        let a = begin(&mut outbound, QoS::AtLeastOnce);
        let b = begin(&mut outbound, QoS::ExactlyOnce);
        let c = begin(&mut outbound, QoS::ExactlyOnce);
        assert!(outbound.on_pubrec(b));
        outbound.begin_connection();
        assert_eq!(outbound.released().collect::<Vec<_>>(), [b]);
        let mut resent = Vec::new();
        while let Some(inflight) = outbound.begin_resend() {
            resent.push(inflight.packet_id);
        }
        assert_eq!(resent, [a, c]);
    }

    #[test]
    fn acknowledgements_find_their_exchange_in_any_order() {
        let mut outbound = Outbound::default();
        let mut open = VecDeque::new();
        let mut state = 1_u32;
        // One that stays, so that the identifiers lap it.
        open.push_back(begin(&mut outbound, QoS::AtLeastOnce));
        for _ in 0..200_000 {
            let id = begin(&mut outbound, QoS::AtLeastOnce);
            assert!(!open.contains(&id), "in use");
            open.push_back(id);
            if open.len() > 30 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let which = 1 + (state >> 16) as usize % (open.len() - 1);
                let id = open.remove(which).expect("within");
                assert!(outbound.on_puback(id).is_some());
                assert!(outbound.on_puback(id).is_none());
            }
        }
        assert_eq!(outbound.inflight_len(), open.len());
        for id in open {
            assert!(outbound.on_puback(id).is_some());
        }
        assert_eq!(outbound.inflight_bytes, 0);
    }
}
