//! Subscriptions, session by session.

use super::Page;
use crate::ctl::rows::{SubscriptionChoice, SubscriptionRow};
use crate::service::Broker;
use crate::session::{Session, Subscription, SubscriptionKind};
use ringlane_mqtt::topic::{TopicFilter, matches};
use std::rc::Rc;

/// Sessions and subscriptions that are looked at for one page, together.
const LOOKED_AT_PER_PAGE: usize = 512;

/// Where a page begins: a slot, and how many subscriptions of the session there are done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SubscriptionPlace {
    slot: u32,
    skip: usize,
}

impl Broker {
    pub(super) fn list_subscriptions(
        &self,
        from: SubscriptionPlace,
        choose: &SubscriptionChoice,
    ) -> Page<SubscriptionRow, SubscriptionPlace> {
        let (first, slots) = match &choose.client_id {
            Some(client_id) => match self.session_of_client(client_id) {
                Some(id) => (id.slot, id.slot + 1),
                None => (0, 0),
            },
            None => (from.slot, self.sessions.slots()),
        };
        let (mut rows, mut budget) = (Vec::new(), LOOKED_AT_PER_PAGE);
        let mut place = SubscriptionPlace { slot: first, ..from };
        while place.slot < slots && budget > 0 {
            budget -= 1;
            let session = self.sessions.at(place.slot);
            let done = session.is_none_or(|session| {
                self.add_subscriptions(session, &mut place.skip, &mut budget, choose, &mut rows)
            });
            if done {
                place = SubscriptionPlace { slot: place.slot + 1, skip: 0 };
            }
        }
        Page { rows, next: (place.slot < slots).then_some(place) }
    }

    /// Adds those of one session from the `skip`th on, which it moves on. True if these were all.
    fn add_subscriptions(
        &self,
        session: &Session,
        skip: &mut usize,
        budget: &mut usize,
        choose: &SubscriptionChoice,
        rows: &mut Vec<SubscriptionRow>,
    ) -> bool {
        let looked_at = (*budget).min(session.subscriptions.len().saturating_sub(*skip));
        session.subscriptions.each(*skip, looked_at, |filter, held| {
            if choose.topic.as_ref().is_none_or(|topic| takes(filter, topic)) {
                rows.push(self.subscription_row(session, filter, held));
            }
        });
        *skip += looked_at;
        *budget -= looked_at;
        let is_last = session.subscriptions.len() <= *skip;
        if is_last {
            rows.extend(self.replay_rows(session, choose));
        }
        is_last
    }

    /// Replay subscriptions of a session.
    fn replay_rows(
        &self,
        session: &Session,
        choose: &SubscriptionChoice,
    ) -> impl Iterator<Item = SubscriptionRow> {
        let topic = choose.topic.as_ref();
        let replays = self.replays.listed(session.id);
        let chosen =
            replays.filter(move |(_, filter, _)| topic.is_none_or(|topic| matches(filter, topic)));
        chosen.map(|(name, _, options)| SubscriptionRow {
            client_id: session.client_id.as_str().to_owned(),
            filter: name.to_owned(),
            qos: options.qos,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            id: Some(options.id).filter(|id| *id != 0),
            group: None,
        })
    }

    fn subscription_row(
        &self,
        session: &Session,
        filter: &Rc<str>,
        held: &Subscription,
    ) -> SubscriptionRow {
        let client_id = session.client_id.as_str();
        let plain = self.subscription_options(session.id, filter);
        let recorded = || self.durable_state(session.partition)?.options_of(client_id, filter);
        let (no_local, retain_as_published, id) = match plain {
            Some(plain) => (plain.no_local, plain.retain_as_published, plain.subscription_id),
            // A group's owner has the options of its members; the log has those of durable ones.
            None => recorded()
                .map_or((false, false, 0), |own| (own.no_local, own.retain_as_published, own.id)),
        };
        let group = match &held.kind {
            SubscriptionKind::Plain { .. } => None,
            SubscriptionKind::Shared { key } => Some(key.name.to_string()),
        };
        SubscriptionRow {
            client_id: client_id.to_owned(),
            filter: filter.to_string(),
            qos: held.qos as u8,
            no_local,
            retain_as_published,
            id: Some(id).filter(|id| *id != 0),
            group,
        }
    }
}

/// Whether a filter as it was subscribed to takes a topic.
fn takes(filter: &str, topic: &str) -> bool {
    TopicFilter::parse(filter).is_ok_and(|parsed| matches(parsed.filter, topic))
}
