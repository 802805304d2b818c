//! The end of a session, and its will.

use super::{Outbound, SessionId};
use crate::durable::DueWill;
use crate::service::{Broker, Timer, Turn};
use std::time::Duration;

impl Broker {
    /// Removes a session and all that it holds. A will that still waits goes out now
    /// [MQTT-3.1.2-8].
    pub(crate) fn end_session(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        self.settle_session(turn, id);
        self.publish_will(turn, id);
        self.set_backlog_full(turn, id, false);
        self.close_window(id);
        self.record_end(turn, id);
        self.drop_subscriptions(turn, id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let timers = [session.expiry_timer.take(), session.will_timer.take()];
        for timer in timers.into_iter().flatten() {
            turn.timers.cancel(timer);
        }
        self.metrics.queued_messages.sub(session.outbound.queue_len() as u64);
        self.metrics.queued_bytes.sub(session.outbound.queue_bytes() as u64);
        self.metrics.inflight_messages.sub(session.outbound.inflight_len() as u64);
        let owed = session.outbound.existing().map(Outbound::drain_all).unwrap_or_default();
        for pending in owed {
            self.owe_ticket(id, &pending);
        }
        self.sessions.remove(id);
        self.metrics.sessions.set(self.sessions.len() as u64);
    }

    fn drop_subscriptions(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.primings.reset();
        let filters = session.subscriptions.filters();
        self.drop_replays(turn, id);
        for filter in filters {
            self.remove_subscription(turn, id, &filter);
        }
    }

    pub(crate) fn on_session_expiry(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.expiry_timer = None;
        if session.link.is_none() {
            self.metrics.sessions_expired.add(1);
            self.end_session(turn, id);
        }
    }

    /// The connection ended and the session goes on: the will goes out now or after its delay,
    /// whichever of delay and expiry comes first [MQTT-3.1.3-9].
    pub(crate) fn arm_will(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(will) = &session.will else { return };
        if will.delay_secs == 0 {
            return self.publish_will(turn, id);
        }
        let at = turn.now + Duration::from_secs(u64::from(will.delay_secs));
        session.will_timer = Some(turn.timers.schedule(at, Timer::WillDelay(id)));
    }

    pub(crate) fn on_will_delay(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.will_timer = None;
        }
        self.publish_will(turn, id);
    }

    /// A connection was taken over: a will without delay goes out, one with delay does not if the
    /// session goes on.
    pub(crate) fn will_at_takeover(&mut self, turn: &mut Turn<'_>, id: SessionId, resumed: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let delayed = session.will.as_ref().is_some_and(|will| will.delay_secs > 0);
        if resumed && delayed {
            session.will = None;
            return;
        }
        self.publish_will(turn, id);
    }

    pub(crate) fn cancel_will(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let had_will = session.will.take().is_some();
        if let Some(timer) = session.will_timer.take() {
            turn.timers.cancel(timer);
        }
        if had_will {
            self.record_will_gone(turn, id);
        }
    }

    /// Publishes the will, once.
    fn publish_will(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(message) = session.will.take() else { return };
        let (publisher, partition) = (session.client_hash, session.partition);
        let client_id = session.client_id.as_str().to_owned();
        self.publish_due_will(turn, &client_id, DueWill { message, publisher, partition });
        self.record_will_gone(turn, id);
    }
}
