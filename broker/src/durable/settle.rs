//! Sessions that were there before this broker are settled one after the other over its first turns: their
//! absence goes on counting, shared groups hear of their members, and the other cores of their filters.
//!
//! None of that is waited for: until a core has heard all filters of another one, it tells that one of every
//! message; a group that lacks its members keeps what comes; and a session whose client connects is settled
//! at once.

use super::records::SubscriptionOptions;
use super::session::Presence;
use crate::groups::Member;
use crate::mail::Mail;
use crate::service::{Broker, Timer, Turn};
use crate::session::{NEVER_EXPIRES, Session, SessionId, SubscriptionKind, Upkeep};
use hashbrown::HashSet;
use ringlane_dataplane::ids::CoreId;
use std::rc::Rc;
use std::time::Duration;

/// How long the wills of clients that were connected wait for them to return.
const WILL_GRACE: Duration = Duration::from_secs(10);
/// Sessions and their subscriptions settled in one turn, about.
const PER_TURN: usize = 512;
/// Filters that other cores were told of and have not answered for, at most, before more are told.
const UNANSWERED_MAX: u64 = 4096;

/// How far that is.
#[derive(Debug)]
pub(crate) struct Settling {
    /// Slots of sessions below are settled, those from `end` on were never to be.
    next: u32,
    end: u32,
    /// The filters that the other cores were told of, each once.
    told: HashSet<Rc<str>>,
}

impl Broker {
    /// Sessions were restored, and are to be settled.
    pub(super) fn begin_settling(&mut self) {
        let end = self.sessions.slots();
        self.settling = Some(Box::new(Settling { next: 0, end, told: HashSet::new() }));
        self.groups.set_unsettled(self.cores());
    }

    /// End of turn: settles some more.
    pub(crate) fn settle_sessions(&mut self, turn: &mut Turn<'_>) {
        let mut left = PER_TURN;
        while left > 0 && self.may_settle() {
            let Some(settling) = &mut self.settling else { return };
            let slot = settling.next;
            if slot >= settling.end {
                return self.end_settling(turn);
            }
            settling.next += 1;
            if let Some(id) = self.sessions.at(slot).map(|session| session.id) {
                left = left.saturating_sub(1 + self.settle_session(turn, id));
            }
        }
    }

    /// Whether sessions can be settled without waiting for other cores.
    pub(crate) fn may_settle(&self) -> bool {
        self.settling.is_some() && self.announcer.unanswered() < UNANSWERED_MAX
    }

    fn end_settling(&mut self, turn: &mut Turn<'_>) {
        self.settling = None;
        for core in (0..self.cores()).map(CoreId) {
            self.send_mail(turn, core, Mail::Settled);
        }
    }

    /// All sessions of a core that were there before are settled.
    pub(crate) fn on_settled(&mut self, turn: &mut Turn<'_>, from: CoreId) {
        self.routes.set_told(from);
        if self.groups.set_settled() {
            for id in self.groups.ids() {
                if self.groups.get(id).is_some_and(|group| group.is_empty()) {
                    self.end_group(turn, id);
                }
            }
        }
    }

    /// The session of a client that connects. One that has expired before that is none.
    pub(crate) fn find_settled(
        &mut self,
        turn: &mut Turn<'_>,
        client_id: &str,
        hash: u64,
    ) -> Option<SessionId> {
        let id = self.sessions.find(client_id, hash)?;
        if self.sessions.get(id)?.is_unsettled() {
            self.settle_session(turn, id);
            if self.has_expired(turn, id) {
                self.on_session_expiry(turn, id);
            }
        }
        self.sessions.get(id).map(|session| session.id)
    }

    /// Settles a session, if it is not. How many subscriptions it has.
    pub(crate) fn settle_session(&mut self, turn: &mut Turn<'_>, id: SessionId) -> usize {
        let Some(session) = self.sessions.get_mut(id) else { return 0 };
        if !session.is_unsettled() {
            return 0;
        }
        session.upkeep = Upkeep::Off;
        let subscriptions = session.subscriptions.len();
        self.begin_absence(turn, id);
        self.join_groups(turn, id);
        self.tell_filters(turn, id);
        subscriptions
    }

    /// The expiry interval and the will delay of a session without a connection go on counting. One
    /// that was connected when the broker ended counts from now.
    fn begin_absence(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let clocks = self.clocks(turn.now);
        let presence = self.sessions.get(id).and_then(|session| self.presence_of(session));
        let presence = presence.unwrap_or(Presence::Connected);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let since_ms = match presence {
            Presence::Connected => clocks.unix_ms,
            Presence::Closed(since_ms) => since_ms,
        };
        let due = |after: Duration| clocks.due(since_ms, after);
        let delay = session.will.as_ref().map(|will| will.delay_secs);
        let will_after = delay.map(|secs| Duration::from_secs(u64::from(secs)).max(WILL_GRACE));
        let expiry_after = match session.expiry_secs {
            NEVER_EXPIRES => None,
            0 => Some(will_after.unwrap_or_default()),
            secs => Some(Duration::from_secs(u64::from(secs))),
        };
        session.expiry_timer =
            expiry_after.map(|after| turn.timers.schedule(due(after), Timer::SessionExpiry(id)));
        session.will_timer =
            will_after.map(|after| turn.timers.schedule(due(after), Timer::WillDelay(id)));
        if presence == Presence::Connected {
            self.record_closed(turn, id);
        }
    }

    /// Whether the expiry interval of a session without a connection has passed.
    fn has_expired(&self, turn: &Turn<'_>, id: SessionId) -> bool {
        let session = self.sessions.get(id);
        let (Some(session), Some(presence)) = (session, session.and_then(|s| self.presence_of(s)))
        else {
            return false;
        };
        let lasts_ms = u64::from(session.expiry_secs) * 1000;
        let lasts = session.is_persistent() && session.expiry_secs != NEVER_EXPIRES;
        match presence {
            Presence::Closed(since_ms) => lasts && since_ms + lasts_ms <= self.unix_ms(turn.now),
            Presence::Connected => false,
        }
    }

    fn presence_of(&self, session: &Session) -> Option<Presence> {
        let state = self.durable_state(session.partition)?;
        let slot = state.find(session.client_id.as_str())?;
        state.session(slot).map(|found| found.presence)
    }

    fn join_groups(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let shared = session.subscriptions.collect(|filter, held| match &held.kind {
            SubscriptionKind::Shared { key } => Some((filter.clone(), key.clone(), held.qos)),
            SubscriptionKind::Plain { .. } => None,
        });
        for (filter, key, qos) in shared {
            let Some(options) = self.recorded_options(id, &filter) else { continue };
            let member = Member {
                key: self.member_key(id),
                qos,
                subscription_id: options.id,
                retain_as_published: options.retain_as_published,
                window: 0,
                is_durable: true,
            };
            self.send_join(turn, (*key).clone(), member, 0);
        }
    }

    /// The options of a subscription, as the log has them.
    fn recorded_options(&self, id: SessionId, filter: &str) -> Option<SubscriptionOptions> {
        let session = self.sessions.get(id)?;
        let state = self.durable_state(session.partition)?;
        state.options_of(session.client_id.as_str(), filter)
    }

    // ---- filters and the other cores ----

    fn tell_filters(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        if self.cores() == 1 {
            return;
        }
        let Some(session) = self.sessions.get(id) else { return };
        let plain = session.subscriptions.collect(|filter, held| match held.kind {
            SubscriptionKind::Plain { .. } => Some(filter.clone()),
            SubscriptionKind::Shared { .. } => None,
        });
        for filter in plain {
            self.announce_filter(turn, &filter);
        }
    }

    /// The other cores are about to be told of a filter. False if they were.
    pub(crate) fn note_told(&mut self, filter: &str) -> bool {
        let Some(settling) = &mut self.settling else { return true };
        !settling.told.contains(filter) && settling.told.insert(filter.into())
    }

    /// The other cores are about to be told that a filter has gone. False if they were not told of it.
    pub(crate) fn note_withdrawn(&mut self, filter: &str) -> bool {
        self.settling.as_mut().is_none_or(|settling| settling.told.remove(filter))
    }
}
