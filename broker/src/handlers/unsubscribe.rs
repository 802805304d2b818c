//! UNSUBSCRIBE from a client [MQTT5 §3.10].

use super::Flow;
use crate::replay::is_replay;
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{ReasonCode, Unsubscribe};

impl Broker {
    /// Nothing new is added for a filter from here on; what is in flight is completed
    /// [MQTT-3.10.4-2], [MQTT-3.10.4-3].
    pub(super) fn on_unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        unsubscribe: &Unsubscribe<'_>,
        bytes: usize,
    ) -> Flow {
        if !self.allows_user_properties(unsubscribe.user_properties) {
            let what = "more user properties than this broker takes";
            return self.fail_with(turn, id, ReasonCode::QUOTA_EXCEEDED, what, "MQTT5 §4.13");
        }
        // What was published before this packet still matches.
        self.commit_all(turn);
        let (mut reasons, mut recorded) = (Vec::new(), None);
        for filter in unsubscribe.filters.iter() {
            if is_replay(filter) {
                let (removed, index) = self.unsubscribe_replay(turn, session, filter);
                recorded = index.or(recorded);
                reasons.push(answer(removed));
                continue;
            }
            self.stop_priming(turn, session, filter);
            recorded = self.record_unsubscribe(turn, session, filter).or(recorded);
            let removed = self.remove_subscription(turn, session, filter);
            reasons.push(answer(removed));
        }
        self.answer_unsubscribe(turn, recorded, id, unsubscribe.packet_id, reasons);
        Flow::Next(bytes)
    }
}

fn answer(removed: bool) -> ReasonCode {
    match removed {
        true => ReasonCode::SUCCESS,
        false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
    }
}
