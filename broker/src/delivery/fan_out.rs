//! One message to all sessions and groups of this core that match.

use super::owed::Owed;
use super::qos0::{Qos0, send_qos0};
use super::{Matched, PostedAs, Subscriber, Target, View};
use crate::service::{Broker, Turn};
use crate::session::{IN_STEP, NOT_POSTED, Session};
use ringlane_dataplane::routing::Placement;
use ringlane_mqtt::QoS;

/// A session's matching subscriptions, merged.
#[derive(Clone, Copy, Debug)]
struct Merged {
    qos: QoS,
    retain: bool,
    priming: bool,
}

impl Broker {
    /// Matches a message on this core and delivers it.
    pub(crate) fn fan_out(&mut self, turn: &mut Turn<'_>, view: &mut View<'_>) -> Matched {
        let mut matched = core::mem::take(&mut self.scratch.matched);
        matched.clear();
        let route = self.routes.route(view.topic);
        matched.extend_from_slice(&route.subscribers);
        self.scratch.posted.clear();
        self.scratch.posted.extend_from_slice(&route.posted);
        let (overlaps, cores) = (route.overlaps, route.cores);
        self.post(view);
        self.scratch.forms.clear();
        self.scratch.owed_forms.clear();
        let many = matched.len() > 1;
        for same in matched.chunk_by(|a, b| overlaps && a.target == b.target) {
            match same[0].target {
                Target::Session(slot) => self.deliver(turn, slot, same, view, many),
                Target::Group(slot) => self.offer_to_group(turn, slot, view),
            }
        }
        let here = !matched.is_empty();
        self.scratch.matched = matched;
        Matched { here, cores }
    }

    /// One message to one session, once.
    fn deliver(
        &mut self,
        turn: &mut Turn<'_>,
        slot: u32,
        subscribers: &[Subscriber],
        view: &mut View<'_>,
        many: bool,
    ) {
        let Self { sessions, scratch, maker, metrics, sizes, placement, .. } = self;
        let Some(session) = sessions.at_mut(slot) else { return };
        let posting = posting_of(session, &scratch.postings, placement);
        let own = session.client_hash == view.publisher;
        let Some(merged) = merge(subscribers, own, view, &mut scratch.ids) else {
            let id = session.id;
            if posting != NOT_POSTED {
                // It has this behind it like any other.
                self.note_moved(id);
            }
            return;
        };
        if merged.priming {
            let id = session.id;
            return self.hold(turn, id, view, merged.qos, merged.retain, posting);
        }
        if merged.qos == QoS::AtMostOnce {
            let Some(link) = session.link.as_mut() else { return };
            let how = Qos0 {
                retain: merged.retain,
                ids: &scratch.ids,
                keep_form: many,
                output_bytes_high: sizes.output_bytes_high,
            };
            let tools = (&mut scratch.forms, maker, &**metrics);
            send_qos0(link, turn.sockets, turn.now, view, how, tools);
            return;
        }
        let id = session.id;
        if session.leaves_to_log(posting) {
            return self.on_left_to_log(turn, id);
        }
        let owed = Owed { qos: merged.qos, retain: merged.retain, keep_form: many, posting };
        self.owe_match(turn, slot, view, owed);
    }
}

/// The number that the message in hand is posted under for a session.
fn posting_of(session: &Session, postings: &[PostedAs], placement: &Placement) -> u64 {
    // One that ends with this connection reads what it was owed before, and no more.
    let in_log = session.is_persistent() || session.outbound.frontier() != IN_STEP;
    if postings.is_empty() || !session.recorded || !in_log {
        return NOT_POSTED;
    }
    let partition = placement.index_on_core(session.partition);
    let found = postings.iter().find(|posted| u32::from(posted.partition) == partition);
    found.map_or(NOT_POSTED, |posted| posted.posting)
}

/// Merges a session's matching subscriptions: the highest QoS, all subscription identifiers
/// [MQTT-3.3.4-3], [MQTT-3.3.4-4]. `None` if No Local keeps the message from it.
fn merge(
    subscribers: &[Subscriber],
    own: bool,
    view: &View<'_>,
    ids: &mut Vec<u32>,
) -> Option<Merged> {
    ids.clear();
    let mut merged: Option<Merged> = None;
    for subscriber in subscribers {
        if subscriber.no_local && own {
            continue;
        }
        if subscriber.subscription_id != 0 {
            ids.push(subscriber.subscription_id);
        }
        let retain = subscriber.retain_as_published && view.retain;
        merged = Some(match merged {
            None => Merged { qos: subscriber.qos, retain, priming: subscriber.priming },
            Some(before) => Merged {
                qos: before.qos.max(subscriber.qos),
                retain: before.retain || retain,
                priming: before.priming || subscriber.priming,
            },
        });
    }
    let mut merged = merged?;
    merged.qos = merged.qos.min(view.qos);
    Some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_dataplane::message::MessageHead;
    use ringlane_dataplane::time::Nanos;

    fn subscriber(qos: QoS, id: u32, no_local: bool, retain_as_published: bool) -> Subscriber {
        let target = Target::Session(1);
        Subscriber {
            target,
            subscription_id: id,
            qos,
            no_local,
            retain_as_published,
            priming: false,
        }
    }

    fn view(qos: u8, retain: bool) -> View<'static> {
        let head = MessageHead {
            publisher: 9,
            accepted_at: Nanos(0),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos,
            retain,
        };
        View::borrowed(head, "t", &[], &[])
    }

    #[test]
    fn overlapping_subscriptions_give_the_highest_qos_and_all_identifiers() {
        let mut ids = Vec::new();
        let both = [
            subscriber(QoS::AtMostOnce, 5, false, true),
            subscriber(QoS::ExactlyOnce, 7, false, false),
        ];
        let merged = merge(&both, false, &view(1, true), &mut ids).expect("matched");
        assert_eq!(merged.qos, QoS::AtLeastOnce);
        assert!(merged.retain);
        assert_eq!(ids, [5, 7]);
    }

    #[test]
    fn no_local_holds_for_its_own_subscription_only() {
        let mut ids = Vec::new();
        let both = [
            subscriber(QoS::ExactlyOnce, 5, true, false),
            subscriber(QoS::AtMostOnce, 0, false, false),
        ];
        let merged = merge(&both, true, &view(2, false), &mut ids).expect("the other one");
        assert_eq!((merged.qos, ids.len()), (QoS::AtMostOnce, 0));
        assert!(merge(&both[..1], true, &view(2, false), &mut ids).is_none());
    }
}
