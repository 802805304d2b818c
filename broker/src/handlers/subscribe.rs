//! SUBSCRIBE from a client [MQTT5 §3.8].

use super::Flow;
use crate::connection::write_packet;
use crate::delivery::{Subscriber, TakenOut, Target};
use crate::durable::SubscriptionOptions;
use crate::groups::{GroupKey, Member};
use crate::replay::is_replay;
use crate::retained::Priming;
use crate::service::{Broker, PendingSuback, Turn};
use crate::session::{SessionId, Subscription, SubscriptionKind};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::topic::TopicFilter;
use ringlane_mqtt::{ReasonCode, Subscribe, SubscribeFilter, encode};
use std::rc::Rc;

/// Retain Handling [MQTT5 §3.8.3.1].
const SEND_RETAINED: u8 = 0;
const SEND_RETAINED_IF_NEW: u8 = 1;

/// SUBACKs of one connection that may wait for other cores.
const SUBACKS_PENDING_MAX: u8 = 64;

impl Broker {
    pub(super) fn on_subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        subscribe: &Subscribe<'_>,
        bytes: usize,
    ) -> Flow {
        if !self.allows_user_properties(subscribe.user_properties) {
            let what = "more user properties than this broker takes";
            return self.fail_with(turn, id, ReasonCode::QUOTA_EXCEEDED, what, "MQTT5 §4.13");
        }
        let delayed = self.sessions.get(session).is_some_and(|held| {
            held.recorded && held.is_persistent() && self.delays_state(held.partition)
        });
        if delayed || self.subacks_are_full(id) {
            self.stall_for_retry(turn, id);
            return Flow::Stall;
        }
        // What was published before this packet, by its own client too, is committed first: it
        // does not match, and it is what the subscription finds retained.
        self.commit_all(turn);
        let mut pending = PendingSuback {
            id: self.announcer.fresh_suback(),
            connection: id,
            session,
            packet_id: subscribe.packet_id,
            reasons: Vec::new(),
            text: None,
            announced: 0,
            joins_left: 0,
            retained: Vec::new(),
            granted: Vec::new(),
        };
        let subscription_id = subscribe.subscription_id.unwrap_or(0);
        let full = self.sessions.get(session).is_some_and(|held| {
            held.recorded && held.is_persistent() && self.refuses_state(held.partition)
        });
        let filters_max = if full { 0 } else { self.config.mqtt.max_subscriptions as usize };
        let mut taken = 0;
        for filter in subscribe.filters.iter() {
            if is_replay(filter.filter) && taken < filters_max {
                taken += 1;
                let reason = self.subscribe_replay(turn, &filter, subscription_id, &mut pending);
                pending.reasons.push(reason);
                continue;
            }
            // A packet may name one filter again and again: it may not name more than a client
            // may hold.
            let checked = match taken < filters_max {
                true => self.check_filter(session, filter.filter),
                false => Err(ReasonCode::QUOTA_EXCEEDED),
            };
            taken += usize::from(checked.is_ok());
            let reason = match checked {
                Ok(parsed) => {
                    self.subscribe_one(turn, &filter, parsed, subscription_id, &mut pending);
                    self.note_granted(&filter, subscription_id, &mut pending);
                    ReasonCode(filter.qos as u8)
                }
                Err(reason) => reason,
            };
            pending.reasons.push(reason);
        }
        pending.announced = self.announcer.announced();
        if let Some(connection) = self.connections.get_mut(id) {
            connection.subacks_pending += 1;
        }
        self.announcer.push_suback(pending);
        self.settle_announcements(turn);
        Flow::Next(bytes)
    }

    /// What is to be recorded of a subscription, if its session is in a log.
    fn note_granted(
        &self,
        filter: &SubscribeFilter<'_>,
        subscription_id: u32,
        pending: &mut PendingSuback,
    ) {
        if self.sessions.get(pending.session).is_some_and(|session| session.recorded) {
            let options = SubscriptionOptions {
                qos: filter.qos as u8,
                no_local: filter.no_local,
                retain_as_published: filter.retain_as_published,
                id: subscription_id,
            };
            pending.granted.push((filter.filter.into(), options));
        }
    }

    /// A client that subscribes faster than other cores answer is not read from meanwhile.
    fn subacks_are_full(&self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|c| c.subacks_pending >= SUBACKS_PENDING_MAX)
    }

    /// Whether a filter may be subscribed to; its parts if so.
    fn check_filter<'a>(
        &self,
        session: SessionId,
        filter: &'a str,
    ) -> Result<TopicFilter<'a>, ReasonCode> {
        let mqtt = &self.config.mqtt;
        let parsed = TopicFilter::parse(filter).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
        // A replay is not to be shared.
        if parsed.share.is_some() && is_replay(parsed.filter) {
            return Err(ReasonCode::TOPIC_FILTER_INVALID);
        }
        if filter.len() > usize::from(mqtt.max_topic_length)
            || parsed.levels > usize::from(mqtt.max_topic_levels)
        {
            return Err(ReasonCode::TOPIC_FILTER_INVALID);
        }
        let Some(held) = self.sessions.get(session) else {
            return Err(ReasonCode::UNSPECIFIED_ERROR);
        };
        if held.subscriptions.len() >= mqtt.max_subscriptions as usize
            && !held.subscriptions.contains(filter)
        {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        Ok(parsed)
    }

    fn subscribe_one(
        &mut self,
        turn: &mut Turn<'_>,
        filter: &SubscribeFilter<'_>,
        parsed: TopicFilter<'_>,
        subscription_id: u32,
        pending: &mut PendingSuback,
    ) {
        match parsed.share {
            Some(name) => {
                let key = GroupKey { name: name.into(), filter: parsed.filter.into() };
                self.join_group(turn, filter, key, subscription_id, pending);
            }
            None => self.subscribe_plain(turn, filter, subscription_id, pending),
        }
    }

    /// Adds a subscription to this core's tree, or replaces it in place: no message is lost or
    /// doubled in between [MQTT-3.8.4-3].
    fn subscribe_plain(
        &mut self,
        turn: &mut Turn<'_>,
        filter: &SubscribeFilter<'_>,
        subscription_id: u32,
        pending: &mut PendingSuback,
    ) {
        let Self { sessions, routes, metrics, .. } = self;
        let Some(held) = sessions.get_mut(pending.session) else { return };
        let is_new = !held.subscriptions.contains(filter.filter);
        let wants_retained = match filter.retain_handling {
            SEND_RETAINED => true,
            SEND_RETAINED_IF_NEW => is_new,
            _ => false,
        };
        let subscriber = Subscriber {
            target: Target::Session(held.id.slot),
            subscription_id,
            qos: filter.qos,
            no_local: filter.no_local,
            retain_as_published: filter.retain_as_published,
            priming: wants_retained,
        };
        let list = routes.entry(filter.filter);
        if wants_retained {
            let is_first = !pending.retained.iter().any(|named| **named == *filter.filter);
            if is_first {
                pending.retained.push(filter.filter.into());
                Priming::reserve(held, filter.filter);
            }
        }
        if let Some(existing) = held.subscriptions.get_mut(filter.filter) {
            existing.qos = filter.qos;
            if let SubscriptionKind::Plain { position } = existing.kind
                && let Some(entry) = list.get_mut(position as usize)
            {
                let priming = entry.priming || wants_retained;
                *entry = Subscriber { priming, ..subscriber };
            }
            return;
        }
        let position = list.len() as u32;
        list.push(subscriber);
        let first = position == 0;
        let kind = SubscriptionKind::Plain { position };
        held.subscriptions.insert(filter.filter, Subscription { qos: filter.qos, kind });
        metrics.subscriptions.add(1);
        if first {
            self.announce_filter(turn, filter.filter);
        }
        if self.sessions.get(pending.session).is_some_and(|held| held.backlog_full) {
            self.announce_backlog(turn, filter.filter, true);
        }
    }

    fn join_group(
        &mut self,
        turn: &mut Turn<'_>,
        filter: &SubscribeFilter<'_>,
        key: GroupKey,
        subscription_id: u32,
        pending: &mut PendingSuback,
    ) {
        let member = Member {
            key: self.member_key(pending.session),
            qos: filter.qos,
            subscription_id,
            retain_as_published: filter.retain_as_published,
            window: self.member_window(pending.session),
            is_durable: self.is_durable_member(pending.session),
        };
        let key = Rc::new(key);
        let Some(held) = self.sessions.get_mut(pending.session) else { return };
        let kind = SubscriptionKind::Shared { key: key.clone() };
        let subscription = Subscription { qos: filter.qos, kind };
        if held.subscriptions.insert(filter.filter, subscription).is_none() {
            self.metrics.subscriptions.add(1);
            self.metrics.shared_subscriptions.add(1);
        }
        pending.joins_left += 1;
        self.send_join(turn, (*key).clone(), member, pending.id);
    }

    /// Every core has the filters: the client is told, and gets its retained messages.
    pub(crate) fn send_suback(&mut self, turn: &mut Turn<'_>, suback: PendingSuback) {
        if let Some(connection) = self.connections.get_mut(suback.connection) {
            connection.subacks_pending = connection.subacks_pending.saturating_sub(1);
            let version = connection.version;
            let websocket = connection.is_websocket();
            let link = self.sessions.get(suback.session).and_then(|held| held.link.as_ref());
            // Without the text the packet is as small as it can be [MQTT-3.9.2-1].
            let text = suback.text.as_deref().filter(|text| {
                let bytes = text.len() + suback.reasons.len() + 16;
                link.is_some_and(|l| l.problem_information && bytes <= l.packet_bytes_max)
            });
            write_packet(turn.sockets, suback.connection, websocket, |out| {
                encode::suback(out, version, suback.packet_id, &suback.reasons, text);
            });
            self.metrics.packets_sent.add(1);
        }
        self.grant_replays(turn, suback.session, suback.id);
        for filter in &suback.retained {
            self.start_priming(turn, suback.session, filter);
        }
    }

    /// Removes a subscription from the tree, or leaves its group. False if there is none.
    pub(crate) fn remove_subscription(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        filter: &str,
    ) -> bool {
        let Some(held) = self.sessions.get_mut(session) else { return false };
        let Some(subscription) = held.subscriptions.remove(filter) else { return false };
        let backlog_full = held.backlog_full;
        self.metrics.subscriptions.sub(1);
        match subscription.kind {
            SubscriptionKind::Shared { key, .. } => {
                self.metrics.shared_subscriptions.sub(1);
                self.send_leave(turn, (*key).clone(), session);
            }
            SubscriptionKind::Plain { position } => {
                if backlog_full {
                    self.announce_backlog(turn, filter, false);
                }
                self.remove_from_tree(turn, filter, position);
            }
        }
        true
    }

    /// The last entry of the list takes the place of the removed one.
    pub(crate) fn remove_from_tree(&mut self, turn: &mut Turn<'_>, filter: &str, position: u32) {
        match self.routes.take_out(filter, position) {
            TakenOut::Last => self.withdraw_filter(turn, filter),
            TakenOut::One => {}
            TakenOut::Moved(Target::Session(slot)) => {
                self.sessions.set_position(slot, filter, position);
            }
            TakenOut::Moved(Target::Group(slot)) => self.groups.set_position(slot, position),
        }
    }
}
