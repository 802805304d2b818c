//! The subscriptions of one session, by filter.
//!
//! Most sessions have a few, and a hash table for one takes as much memory as the rest of the
//! session: a few lie side by side.

use super::Subscription;
use hashbrown::HashMap;
use std::rc::Rc;

/// Subscriptions that are looked up one by one.
const FEW: usize = 8;

/// A map from filter to subscription.
#[derive(Debug)]
pub(crate) enum Subscriptions {
    Few(Vec<(Rc<str>, Subscription)>),
    /// More than a few, at some time.
    Many(Box<HashMap<Rc<str>, Subscription>>),
}

impl Subscriptions {
    pub(crate) const fn new() -> Self {
        Self::Few(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn contains(&self, filter: &str) -> bool {
        self.get(filter).is_some()
    }

    pub(crate) fn get(&self, filter: &str) -> Option<&Subscription> {
        match self {
            Self::Few(few) => few.iter().find(|held| *held.0 == *filter).map(|held| &held.1),
            Self::Many(many) => many.get(filter),
        }
    }

    pub(crate) fn get_mut(&mut self, filter: &str) -> Option<&mut Subscription> {
        match self {
            Self::Few(few) => {
                few.iter_mut().find(|held| *held.0 == *filter).map(|held| &mut held.1)
            }
            Self::Many(many) => many.get_mut(filter),
        }
    }

    /// Puts a subscription in; the one that it replaces, if any.
    pub(crate) fn insert(
        &mut self,
        filter: &str,
        subscription: Subscription,
    ) -> Option<Subscription> {
        if let Some(held) = self.get_mut(filter) {
            return Some(core::mem::replace(held, subscription));
        }
        let filter = Rc::from(filter);
        match self {
            Self::Few(few) if few.len() < FEW => {
                if few.len() < 2 {
                    few.reserve_exact(1);
                }
                few.push((filter, subscription));
            }
            Self::Few(few) => {
                let mut many: HashMap<_, _> = core::mem::take(few).into_iter().collect();
                many.insert(filter, subscription);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => {
                many.insert(filter, subscription);
            }
        }
        None
    }

    pub(crate) fn remove(&mut self, filter: &str) -> Option<Subscription> {
        match self {
            Self::Few(few) => {
                let index = few.iter().position(|held| *held.0 == *filter)?;
                Some(few.swap_remove(index).1)
            }
            Self::Many(many) => many.remove(filter),
        }
    }

    /// The filters, in no particular order.
    pub(crate) fn filters(&self) -> Vec<Rc<str>> {
        self.collect(|filter, _| Some(filter.clone()))
    }

    /// Calls `each` for `count` subscriptions behind the first `skip`. The order is the same again
    /// as long as none comes or goes.
    pub(crate) fn each(
        &self,
        skip: usize,
        count: usize,
        mut each: impl FnMut(&Rc<str>, &Subscription),
    ) {
        match self {
            Self::Few(few) => few.iter().skip(skip).take(count).for_each(|(f, held)| each(f, held)),
            Self::Many(many) => {
                many.iter().skip(skip).take(count).for_each(|(f, held)| each(f, held))
            }
        }
    }

    /// What `choose` makes of each subscription, in no particular order.
    pub(crate) fn collect<T>(
        &self,
        choose: impl Fn(&Rc<str>, &Subscription) -> Option<T>,
    ) -> Vec<T> {
        match self {
            Self::Few(few) => {
                few.iter().filter_map(|(filter, held)| choose(filter, held)).collect()
            }
            Self::Many(many) => {
                many.iter().filter_map(|(filter, held)| choose(filter, held)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SubscriptionKind;
    use ringlane_mqtt::QoS;

    fn plain(position: u32) -> Subscription {
        Subscription { qos: QoS::AtMostOnce, kind: SubscriptionKind::Plain { position } }
    }

    fn position(held: Option<&Subscription>) -> Option<u32> {
        match held?.kind {
            SubscriptionKind::Plain { position } => Some(position),
            SubscriptionKind::Shared { .. } => None,
        }
    }

    #[test]
    fn few_and_many_behave_alike() {
        let mut subscriptions = Subscriptions::new();
        for count in 0..2 * FEW as u32 {
            let filter = format!("a/{count}");
            assert!(!subscriptions.contains(&filter));
            assert!(subscriptions.insert(&filter, plain(count)).is_none());
            assert_eq!(position(subscriptions.insert(&filter, plain(100)).as_ref()), Some(count));
            if let Some(held) = subscriptions.get_mut(&filter) {
                *held = plain(count + 1);
            }
            assert_eq!(subscriptions.len(), count as usize + 1);
        }
        assert!(matches!(subscriptions, Subscriptions::Many(_)));
        let mut filters = subscriptions.filters();
        filters.sort();
        filters.dedup();
        assert_eq!(filters.len(), 2 * FEW);
        for count in 0..2 * FEW as u32 {
            let filter = format!("a/{count}");
            assert_eq!(position(subscriptions.get(&filter)), Some(count + 1));
            assert!(subscriptions.remove(&filter).is_some());
            assert!(subscriptions.remove(&filter).is_none());
        }
        assert_eq!(subscriptions.len(), 0);
    }

    #[test]
    fn one_subscription_is_one_small_allocation() {
        let mut subscriptions = Subscriptions::new();
        subscriptions.insert("a", plain(0));
        let Subscriptions::Few(few) = &subscriptions else { unreachable!("one is few") };
        assert_eq!(few.capacity(), 1);
        assert!(subscriptions.remove("a").is_some());
        assert_eq!(size_of::<Subscriptions>(), 24);
    }
}
