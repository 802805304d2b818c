//! The subscriber's side: replays begin and end with their subscriptions, sleep while their session
//! has no connection, and hand out messages as fast as the client takes them.

use super::mail::{Batch, Opened, Opening, ReplayId, ReplayMail, Source, Start, Wanted};
use super::name::{self, From, Name};
use super::part::Part;
use super::subscription::{Merged, Replay};
use super::token::Position;
use crate::durable::SubscriptionOptions;
use crate::mail::Mail;
use crate::service::{Broker, PendingSuback, Timer, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::topic::level_count;
use ringlane_mqtt::{ReasonCode, SubscribeFilter};

/// What looking for the next message of a replay costs, as bytes of the budget, and what it costs
/// for each of its partitions.
const LOOK_BYTES: usize = 256;
const PART_BYTES: usize = 16;

/// Why a replay subscription is refused, and what the client is told.
type Refusal = (ReasonCode, &'static str);

impl Broker {
    /// Begins a replay subscription, or begins it anew; the reason code for SUBACK.
    pub(crate) fn subscribe_replay(
        &mut self,
        turn: &mut Turn<'_>,
        filter: &SubscribeFilter<'_>,
        subscription_id: u32,
        pending: &mut PendingSuback,
    ) -> ReasonCode {
        match self.check_replay(turn.now, pending.session, filter.filter) {
            Ok((parsed, starts)) => {
                let options = SubscriptionOptions {
                    qos: filter.qos as u8,
                    no_local: filter.no_local,
                    retain_as_published: false,
                    id: subscription_id,
                };
                let kept = name::kept(filter.filter, &parsed);
                let names = (&*kept, parsed.filter);
                self.begin_replay(turn, names, options, &starts, pending);
                ReasonCode(filter.qos as u8)
            }
            Err((reason, text)) => {
                pending.text.get_or_insert_with(|| text.to_owned());
                reason
            }
        }
    }

    fn check_replay<'a>(
        &self,
        now: Nanos,
        session: SessionId,
        name: &'a str,
    ) -> Result<(Name<'a>, Vec<(PartitionId, Start)>), Refusal> {
        let invalid = |text| (ReasonCode::TOPIC_FILTER_INVALID, text);
        if !self.has_logs {
            let text = "nothing is stored here: commit_log.enabled is false";
            return Err((ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR, text));
        }
        let parsed = name::parse(name, self.replay_seed).map_err(invalid)?;
        let mqtt = &self.config.mqtt;
        if parsed.filter.len() > usize::from(mqtt.max_topic_length)
            || level_count(parsed.filter) > usize::from(mqtt.max_topic_levels)
        {
            return Err(invalid("the filter is longer than this broker takes"));
        }
        let starts = self.starts(now, &parsed.from);
        let starts = starts.ok_or_else(|| invalid("there is no such partition"))?;
        let quota = |text| (ReasonCode::QUOTA_EXCEEDED, text);
        let old = self.replays.find(session, parsed.filter);
        let held = self.replays.listed(session).count();
        if old.is_none() && held >= usize::from(mqtt.max_replays) {
            return Err(quota("this client has as many replays as mqtt.max_replays allows"));
        }
        if !self.replays.has_room(starts.len(), old) {
            return Err(quota("there are as many replays as limits.max_replays allows"));
        }
        Ok((parsed, starts))
    }

    /// Where each partition is to be read from, in rising order; `None` if there is none of that
    /// number.
    fn starts(&self, now: Nanos, from: &From) -> Option<Vec<(PartitionId, Start)>> {
        let count = self.placement.partitions();
        let all = |start: Start| Some((0..count).map(|n| (PartitionId(n), start)).collect());
        match from {
            From::Earliest => all(Start::Earliest),
            From::Latest => all(Start::Latest),
            From::Time(unix_ms) => all(Start::Time(*unix_ms)),
            From::Ago(ago) => {
                let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                all(Start::Time(self.unix_ms(now).saturating_sub(ago_ms)))
            }
            From::Offset(partition, offset) => {
                let start = (PartitionId(*partition), Start::Offset(*offset));
                (*partition < count).then(|| vec![start])
            }
            From::Token(positions) => {
                let rising = positions.is_sorted_by(|a, b| a.partition < b.partition);
                let known = positions.iter().all(|position| position.partition < count);
                let start = |at: &Position| {
                    let Position { partition, epoch, next } = *at;
                    (PartitionId(partition), Start::Position { epoch, next })
                };
                (rising && known).then(|| positions.iter().map(start).collect())
            }
        }
    }

    fn begin_replay(
        &mut self,
        turn: &mut Turn<'_>,
        (name, filter): (&str, &str),
        options: SubscriptionOptions,
        starts: &[(PartitionId, Start)],
        pending: &mut PendingSuback,
    ) {
        let session = pending.session;
        let old = self.replays.find(session, filter);
        let replaces = old.and_then(|old| self.set_aside(turn, old, pending));
        let id = self.replays.fresh_id();
        let nowhere = |(partition, _): &(PartitionId, Start)| Position {
            partition: partition.0,
            epoch: 0,
            next: 0,
        };
        let positions = starts.iter().map(nowhere);
        let mut replay = Replay::new(id, session, (name, filter), options, positions);
        (replay.suback, replay.is_awaited, replay.replaces) = (Some(pending.id), true, replaces);
        replay.set_moved();
        pending.joins_left += 1;
        self.replays.insert(replay);
        self.replays.set_active(id);
        self.open_parts(turn, id, starts);
        self.show_replays();
    }

    /// A replay of the same filter begins. This one sleeps until that one is granted, and goes on if
    /// that never is; if this one has not begun yet itself, what it was to replace does so.
    fn set_aside(
        &mut self,
        turn: &mut Turn<'_>,
        id: ReplayId,
        pending: &mut PendingSuback,
    ) -> Option<ReplayId> {
        let old = self.replays.get_mut(id)?;
        if old.suback == Some(pending.id) && core::mem::take(&mut old.is_awaited) {
            // In the same packet.
            pending.joins_left -= 1;
        }
        let before = old.replaces.take();
        if !old.has_begun() {
            self.remove_replay(turn, id);
            return before;
        }
        (old.is_granted, old.is_replaced) = (true, true);
        self.put_to_sleep(turn, id);
        if let Some(before) = before {
            self.remove_replay(turn, before);
        }
        Some(id)
    }

    /// Nothing is read for a replay any more until it is woken.
    fn put_to_sleep(&mut self, turn: &mut Turn<'_>, id: ReplayId) {
        let Some(replay) = self.replays.get_mut(id) else { return };
        let sources = replay.sources();
        replay.pause();
        replay.set_moved();
        if self.replays.set_asleep(id) {
            self.close_parts(turn, &sources);
        }
    }

    /// Asks the owners of partitions to read.
    fn open_parts(&mut self, turn: &mut Turn<'_>, id: ReplayId, starts: &[(PartitionId, Start)]) {
        let Some(replay) = self.replays.get(id) else { return };
        let Some(session) = self.sessions.get(replay.session) else { return };
        let says_where = session.link.as_ref().is_some_and(|link| link.version.is_v5());
        let not_of = replay.options.no_local.then(|| Box::from(session.client_id.as_str()));
        let filter = replay.filter.clone();
        let sources: Vec<Source> = starts.iter().map(|(of, _)| replay.source(*of)).collect();
        for (source, (_, start)) in sources.into_iter().zip(starts) {
            let wanted = Wanted {
                start: *start,
                filter: filter.clone(),
                not_of: not_of.clone(),
                says_where,
            };
            let opening = Box::new(Opening { source, wanted });
            self.send_to_owner(turn, source.partition, ReplayMail::Open(opening));
        }
    }

    pub(super) fn send_to_owner(
        &mut self,
        turn: &mut Turn<'_>,
        partition: PartitionId,
        mail: ReplayMail,
    ) {
        let owner = self.placement.owner(partition);
        self.send_mail(turn, owner, Mail::Replay(Box::new(mail)));
    }

    fn close_parts(&mut self, turn: &mut Turn<'_>, sources: &[Source]) {
        for source in sources {
            self.send_to_owner(turn, source.partition, ReplayMail::Close(*source));
        }
    }

    /// Ends a replay, and the one that it was to replace. A SUBACK that waits for it does so no more.
    pub(super) fn remove_replay(&mut self, turn: &mut Turn<'_>, id: ReplayId) -> Option<Replay> {
        let replay = self.replays.remove(id)?;
        if replay.is_active {
            self.close_parts(turn, &replay.sources());
        }
        if let Some(suback) = replay.suback.filter(|_| replay.is_awaited) {
            self.announcer.on_joined(suback);
        }
        if let Some(replaced) = replay.replaces {
            self.remove_replay(turn, replaced);
        }
        self.show_replays();
        Some(replay)
    }

    fn show_replays(&self) {
        self.metrics.replays.set(self.replays.active_count() as u64);
    }

    /// UNSUBSCRIBE: whether there was such a replay, and where the log is that says so.
    pub(crate) fn unsubscribe_replay(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        name: &str,
    ) -> (bool, Option<usize>) {
        let id = name::filter_of(name).and_then(|filter| self.replays.find(session, filter));
        let Some(replay) = id.and_then(|id| self.remove_replay(turn, id)) else {
            return (false, None);
        };
        self.settle_announcements(turn);
        (true, self.record_replay_end(turn, session, &replay.name))
    }

    /// SUBACK goes out: messages may follow.
    pub(crate) fn grant_replays(&mut self, turn: &mut Turn<'_>, session: SessionId, suback: u64) {
        for id in self.replays.of(session) {
            let granted = self.replays.get_mut(id).filter(|replay| replay.suback == Some(suback));
            let Some(replay) = granted else { continue };
            (replay.suback, replay.is_granted) = (None, true);
            if let Some(replaced) = replay.replaces.take() {
                self.remove_replay(turn, replaced);
            }
        }
        self.replays.wake(session);
    }

    /// The session lost its connection: nothing is read for it meanwhile, and what it did not
    /// acknowledge is read again. What has not begun is no subscription, and replaces none.
    pub(crate) fn pause_replays(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        let ids = self.replays.of(session);
        if ids.is_empty() {
            return;
        }
        ids.iter().for_each(|id| self.end_replacing(turn, *id));
        self.take_back_replayed(session);
        for id in ids {
            let Some(replay) = self.replays.get_mut(id) else { continue };
            if replay.has_begun() {
                replay.parts.iter_mut().for_each(Part::rewind);
                self.put_to_sleep(turn, id);
            } else if let Some(replay) = self.remove_replay(turn, id) {
                self.record_replay_end(turn, session, &replay.name);
            }
        }
        self.record_replays(turn, session);
        self.settle_announcements(turn);
        self.show_replays();
    }

    /// Of a replay and the one that it is to replace one stays: the old one if this has not begun.
    fn end_replacing(&mut self, turn: &mut Turn<'_>, id: ReplayId) {
        let Some(replay) = self.replays.get_mut(id) else { return };
        let Some(replaced) = replay.replaces.take() else { return };
        if replay.has_begun() {
            self.remove_replay(turn, replaced);
            return;
        }
        self.remove_replay(turn, id);
        if let Some(old) = self.replays.get_mut(replaced) {
            old.is_replaced = false;
        }
    }

    /// Messages of replays that were sent and not acknowledged go out of memory: they are read again.
    /// Those of replays that have ended since stay, and are sent again [MQTT-3.10.4-3].
    fn take_back_replayed(&mut self, session: SessionId) {
        let Self { sessions, replays, metrics, .. } = self;
        let held = sessions.get_mut(session).and_then(|held| held.outbound.existing());
        let Some(outbound) = held else { return };
        let before = outbound.inflight_len();
        outbound.drop_read_again(|ticket| replays.get(ticket.replay).is_some());
        metrics.inflight_messages.sub((before - outbound.inflight_len()) as u64);
    }

    /// The session has a connection again: its replays go on, as soon as there is room for them.
    pub(crate) fn resume_replays(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        for id in self.replays.of(session) {
            let Some(replay) = self.replays.get_mut(id).filter(|replay| !replay.is_active) else {
                continue;
            };
            replay.is_granted = true;
            self.replays.set_waiting(id);
        }
        self.begin_waiting(turn);
    }

    /// Reads for those that wait, as far as there is room.
    fn begin_waiting(&mut self, turn: &mut Turn<'_>) {
        while let Some(id) = self.replays.next_waiting() {
            let Some(starts) = self.replays.get(id).map(Replay::starts) else { continue };
            self.replays.set_active(id);
            self.open_parts(turn, id, &starts);
            self.show_replays();
        }
    }

    /// The session ends, and its replays with it.
    pub(crate) fn drop_replays(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        for id in self.replays.of(session) {
            self.remove_replay(turn, id);
        }
    }

    /// The replay that something was read for, unless it has ended or begun anew since.
    fn reading_replay(&mut self, source: &Source) -> Option<&mut Replay> {
        let replay = self.replays.get_mut(source.replay)?;
        (replay.source(source.partition) == *source).then_some(replay)
    }

    /// The owner of a partition has begun to read.
    pub(super) fn on_replay_opened(&mut self, turn: &mut Turn<'_>, opened: Opened) {
        let epoch = self.durable.as_ref().map_or(0, |durable| durable.epoch());
        let Opened { source, next, stored_end, note } = opened;
        let Some(replay) = self.reading_replay(&source) else { return };
        let Some(part) = replay.part_mut(source.partition) else { return };
        part.on_opened(turn.now, epoch, next, stored_end);
        if let Some(note) = &note {
            replay.note(note.clone());
        }
        let (suback, is_open) = (replay.suback, replay.is_open());
        let was_awaited = is_open && core::mem::take(&mut replay.is_awaited);
        let Some(suback) = suback else { return };
        if let Some(note) = note {
            self.announcer.note(suback, &note);
        }
        if was_awaited {
            self.announcer.on_joined(suback);
            self.settle_announcements(turn);
        }
    }

    /// The owner of a partition has read something.
    pub(super) fn on_replay_batch(&mut self, turn: &Turn<'_>, batch: Batch) {
        let Batch { source, stored, read, at_end, lost } = batch;
        let Some(replay) = self.reading_replay(&source) else { return };
        lost.into_iter().for_each(|range| replay.note(range));
        let session = replay.session;
        let Some(part) = replay.part_mut(source.partition) else { return };
        part.on_batch(turn.now, stored, read, at_end);
        self.replays.wake(session);
    }

    /// End of turn: clients get what they take, as far as live traffic leaves time for it.
    pub(crate) fn run_replays(&mut self, turn: &mut Turn<'_>) {
        if self.replays.is_idle() && self.readings.is_idle() {
            while self.replays.pop_ready().is_some() {}
            self.readings.forget_ready();
            self.pace.rest();
            return;
        }
        let share = self.pace.share(turn.now);
        self.begin_waiting(turn);
        let mut next = self.run_readings(turn, &share);
        let mut left = share.hand_out;
        while left > 0
            && let Some(session) = self.replays.pop_ready()
        {
            let part = share.hand_out_one.min(left);
            let mut budget = part;
            next = next.min(self.hand_out(turn, session, &mut budget));
            left -= part - budget;
            if budget == 0 {
                self.replays.wake(session);
            }
        }
        self.arm_replays(turn, next);
    }

    fn arm_replays(&mut self, turn: &mut Turn<'_>, at: Nanos) {
        match self.replays.armed {
            Some((armed, _)) if armed <= at => return,
            None if at == Nanos::NEVER => return,
            Some((_, later)) => {
                turn.timers.cancel(later);
            }
            None => {}
        }
        self.replays.armed = Some((at, turn.timers.schedule(at, Timer::Replay)));
    }

    /// Something may be due: the end of the turn sees to it.
    pub(crate) fn on_replay_timer(&mut self) {
        self.replays.armed = None;
        for session in self.replays.active_sessions() {
            self.replays.wake(session);
        }
    }

    /// Hands messages of a session's replays to its client, each replay in turn, and takes them off
    /// `budget` bytes; until when nothing more comes by itself, if that is not used up.
    fn hand_out(&mut self, turn: &mut Turn<'_>, session: SessionId, budget: &mut usize) -> Nanos {
        let mut next = Nanos::NEVER;
        let ids = self.replays.of(session);
        let mut idle = 0;
        for id in ids.iter().copied().cycle() {
            if idle == ids.len() || *budget == 0 || !self.takes_more(turn, session) {
                break;
            }
            idle += 1;
            let Some(replay) = self.replays.get_mut(id).filter(|replay| replay.is_granted) else {
                continue;
            };
            *budget = budget.saturating_sub(LOOK_BYTES + PART_BYTES * replay.parts.len());
            match replay.merged(turn.now) {
                Merged::Message(index) => {
                    if replay.sends_exactly_once(index) && self.state_waits(session) {
                        self.pump_at_retry(turn, session);
                        return next;
                    }
                    let Some(replay) = self.replays.get_mut(id) else { continue };
                    if let Some(outgoing) = replay.take(index, turn.now) {
                        let bytes = usize::try_from(outgoing.stored.bytes()).unwrap_or(usize::MAX);
                        *budget = budget.saturating_sub(bytes);
                        self.send_replayed(turn, id, outgoing);
                        idle = 0;
                    }
                }
                Merged::Wait(until) => next = next.min(until),
                Merged::Nothing => {}
            }
        }
        next
    }
}
