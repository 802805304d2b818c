//! Who wants a topic: the filters of this core, what the other cores want, and what was found out
//! about the topics of late.
//!
//! Every change goes through this type, so that no route outlives the subscriptions that it was
//! made from.

use super::{Posted, PostedFilters, Subscriber, Subscribers, Target};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::routing::{CoreSet, FilterTree, RemoteFilters, TopicCache, TopicHash};

/// Subscribers of the longest route that is remembered. Copying more takes longer than matching,
/// as far as one delivery is concerned, and would pin memory.
const REMEMBERED_SUBSCRIBERS_MAX: usize = 16;

/// What became of a filter's list when a subscriber was taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TakenOut {
    /// The list is gone.
    Last,
    /// The others, if there are any, lie where they lay.
    One,
    /// This one lies in its place now.
    Moved(Target),
}

/// Who gets the messages of one topic.
#[derive(Debug, Default)]
pub(crate) struct Route {
    /// The matching subscriptions of this core. Those of one session lie side by side.
    pub(crate) subscribers: Vec<Subscriber>,
    /// Whether a session may stand there more than once.
    pub(crate) overlaps: bool,
    /// Whether a QoS 0 message goes to every subscriber as it came and unconditionally: no
    /// subscription identifier, no No Local, no group, nothing retained on its way.
    pub(crate) plain: bool,
    /// The other cores that may want it.
    pub(crate) cores: CoreSet,
    /// The filters that it is posted for, those of one partition side by side.
    pub(crate) posted: Vec<Posted>,
}

/// The routes of one core.
#[derive(Debug)]
pub(crate) struct Routes {
    core: CoreId,
    local: FilterTree<Subscribers>,
    posted: PostedFilters,
    remote: RemoteFilters,
    /// Cores whose filters are not known yet: they may want whatever there is.
    untold: CoreSet,
    cache: TopicCache<Route>,
    /// The stamp of routes that are up to date; it rises with every change.
    version: u64,
    /// The last route that was too large to be remembered.
    unremembered: Route,
}

impl Routes {
    pub(crate) fn new(core: CoreId) -> Self {
        Self {
            core,
            local: FilterTree::new(),
            posted: PostedFilters::default(),
            remote: RemoteFilters::new(),
            untold: CoreSet::default(),
            cache: TopicCache::default(),
            version: 1,
            unremembered: Route::default(),
        }
    }

    /// Whose they are.
    pub(crate) fn core(&self) -> CoreId {
        self.core
    }

    /// The subscribers of a filter, to be added to; made if there are none.
    pub(crate) fn entry(&mut self, filter: &str) -> &mut Subscribers {
        self.version += 1;
        self.local.entry(filter, Subscribers::new)
    }

    /// The subscribers of a filter, to be changed.
    pub(crate) fn get_mut(&mut self, filter: &str) -> Option<&mut Subscribers> {
        self.version += 1;
        self.local.get_mut(filter)
    }

    /// The subscribers of a filter.
    pub(crate) fn get(&self, filter: &str) -> Option<&Subscribers> {
        self.local.get(filter)
    }

    /// Takes a subscriber out of a filter's list, whose last one takes its place.
    ///
    /// # Panics
    /// If the list has none at this position.
    pub(crate) fn take_out(&mut self, filter: &str, position: u32) -> TakenOut {
        let Some(list) = self.get_mut(filter) else { return TakenOut::One };
        list.swap_remove(position as usize);
        if list.is_empty() {
            self.local.remove(filter);
            return TakenOut::Last;
        }
        list.get(position as usize).map_or(TakenOut::One, |moved| TakenOut::Moved(moved.target))
    }

    /// Records are posted for a filter of this partition from now on, under this number; or not any
    /// more.
    pub(crate) fn set_posted(&mut self, filter: &str, partition: u16, number: Option<u32>) {
        self.version += 1;
        self.posted.set(filter, partition, number);
    }

    /// Gives away the filters that records are posted for.
    pub(crate) fn take_posted(&mut self) -> PostedFilters {
        self.version += 1;
        core::mem::take(&mut self.posted)
    }

    /// Takes back the filters that records are posted for.
    pub(crate) fn put_posted(&mut self, posted: PostedFilters) {
        self.version += 1;
        self.posted = posted;
    }

    /// Nothing is known of what other cores want.
    pub(crate) fn set_untold(&mut self, cores: CoreSet) {
        self.version += 1;
        self.untold = cores;
    }

    /// Another core has said all that it wants.
    pub(crate) fn set_told(&mut self, core: CoreId) {
        self.version += 1;
        self.untold.remove(core);
    }

    /// Another core wants a filter.
    pub(crate) fn add_remote(&mut self, core: CoreId, filter: &str) {
        self.version += 1;
        self.remote.add(core, filter);
    }

    /// Another core gives up a filter.
    pub(crate) fn remove_remote(&mut self, core: CoreId, filter: &str) {
        self.version += 1;
        self.remote.remove(core, filter);
    }

    /// Whether another core may want a topic.
    pub(crate) fn wants(&self, core: CoreId, topic: &str) -> bool {
        self.untold.contains(core) || self.remote.cores_for(topic).contains(core)
    }

    /// The route of a topic as it came, if it is remembered: then the topic has been checked. If it
    /// is not, what [`Routes::find_out`] needs.
    #[inline]
    pub(crate) fn remembered(&self, topic: &[u8]) -> Result<&Route, TopicHash> {
        self.cache.find(topic, self.version).map(|entry| self.cache.value(entry))
    }

    /// The route of a topic that has been checked, or of one of the broker's own.
    pub(crate) fn route(&mut self, topic: &str) -> &Route {
        match self.cache.find(topic.as_bytes(), self.version) {
            Ok(entry) => self.cache.value(entry),
            Err(hash) => self.find_out(topic, hash),
        }
    }

    /// The route of a topic that is not remembered. The broker's own topics never are: a client that
    /// publishes to a remembered topic is not checked again.
    pub(crate) fn find_out(&mut self, topic: &str, hash: TopicHash) -> &Route {
        let Self { core, local, posted, remote, untold, cache, version, unremembered } = self;
        find(local, topic, unremembered);
        unremembered.cores = remote.cores_for(topic).union(*untold);
        unremembered.cores.remove(*core);
        posted.of_topic(topic, &mut unremembered.posted);
        let is_long = unremembered.subscribers.len() > REMEMBERED_SUBSCRIBERS_MAX;
        if is_long || topic.starts_with("$SYS") {
            return unremembered;
        }
        match cache.place(topic.as_bytes(), hash, *version) {
            Some(route) => {
                route.copy_from(unremembered);
                route
            }
            None => unremembered,
        }
    }
}

impl Route {
    /// Copies into the buffer that is there already.
    fn copy_from(&mut self, other: &Self) {
        self.subscribers.clear();
        self.subscribers.extend_from_slice(&other.subscribers);
        self.posted.clear();
        self.posted.extend_from_slice(&other.posted);
        (self.overlaps, self.plain, self.cores) = (other.overlaps, other.plain, other.cores);
    }

    /// One entry per session, with the highest QoS: what delivery would merge them to.
    fn merge_overlaps(&mut self) {
        self.subscribers.dedup_by(|next, kept| {
            let same = next.target == kept.target;
            if same {
                kept.qos = kept.qos.max(next.qos);
                kept.retain_as_published |= next.retain_as_published;
            }
            same
        });
        self.overlaps = false;
    }
}

/// Matches a topic against everything of this core.
fn find(local: &FilterTree<Subscribers>, topic: &str, route: &mut Route) {
    route.subscribers.clear();
    let mut filters = 0;
    local.for_each_match(topic, &mut |list: &Subscribers| {
        filters += 1;
        route.subscribers.extend_from_slice(list);
    });
    route.overlaps = filters > 1;
    if route.overlaps {
        route.subscribers.sort_unstable_by_key(|subscriber| subscriber.target);
    }
    route.plain = route.subscribers.iter().all(is_plain);
    if route.plain && route.overlaps {
        route.merge_overlaps();
    }
}

fn is_plain(subscriber: &Subscriber) -> bool {
    matches!(subscriber.target, Target::Session(_))
        && subscriber.subscription_id == 0
        && !subscriber.no_local
        && !subscriber.priming
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_mqtt::QoS;

    fn subscriber(session: u32, qos: QoS) -> Subscriber {
        Subscriber {
            target: Target::Session(session),
            subscription_id: 0,
            qos,
            no_local: false,
            retain_as_published: false,
            priming: false,
        }
    }

    #[test]
    fn a_route_is_remembered_until_a_subscription_changes() {
        let mut routes = Routes::new(CoreId(0));
        assert!(routes.remembered(b"a").is_err());
        assert!(routes.route("a").subscribers.is_empty());
        assert!(routes.remembered(b"a").is_ok_and(|route| route.subscribers.is_empty()));
        routes.entry("+").push(subscriber(1, QoS::AtMostOnce));
        assert!(routes.remembered(b"a").is_err());
        assert_eq!(routes.route("a").subscribers.len(), 1);
        routes.add_remote(CoreId(3), "a");
        assert!(routes.remembered(b"a").is_err());
        assert!(routes.route("a").cores.contains(CoreId(3)));
        routes.remove_remote(CoreId(3), "a");
        assert!(routes.route("a").cores.is_empty());
        routes.set_untold([CoreId(0), CoreId(2)].into_iter().collect());
        assert!(routes.wants(CoreId(2), "b") && !routes.wants(CoreId(3), "b"));
        assert_eq!(routes.route("a").cores.iter().collect::<Vec<_>>(), [CoreId(2)]);
        routes.set_told(CoreId(2));
        assert!(routes.route("a").cores.is_empty());
        if let Some(list) = routes.get_mut("+") {
            list[0].priming = true;
        }
        assert!(!routes.route("a").plain);
        assert_eq!(routes.take_out("+", 0), TakenOut::Last);
        assert!(routes.route("a").subscribers.is_empty());
    }

    #[test]
    fn topics_of_the_broker_are_not_remembered_as_checked() {
        let mut routes = Routes::new(CoreId(0));
        routes.entry("$SYS/#").push(subscriber(1, QoS::AtMostOnce));
        for topic in ["$SYS/broker/uptime", "$SYS"] {
            assert_eq!(routes.route(topic).subscribers.len(), 1);
            assert!(routes.remembered(topic.as_bytes()).is_err(), "{topic}");
        }
    }

    #[test]
    fn overlapping_plain_subscriptions_become_one() {
        let mut routes = Routes::new(CoreId(0));
        for (filter, qos) in
            [("+", QoS::AtMostOnce), ("a", QoS::ExactlyOnce), ("#", QoS::AtLeastOnce)]
        {
            routes.entry(filter).push(subscriber(7, qos));
            routes.entry(filter).push(subscriber(8, QoS::AtMostOnce));
        }
        let route = routes.route("a");
        assert!(route.plain && !route.overlaps);
        let held: Vec<_> = route.subscribers.iter().map(|s| (s.target, s.qos)).collect();
        let (seven, eight) = (Target::Session(7), Target::Session(8));
        assert_eq!(held, [(seven, QoS::ExactlyOnce), (eight, QoS::AtMostOnce)]);
    }

    #[test]
    fn what_is_not_plain_keeps_its_overlaps() {
        let mut routes = Routes::new(CoreId(0));
        let named = Subscriber { subscription_id: 5, ..subscriber(7, QoS::AtMostOnce) };
        routes.entry("a").push(named);
        routes.entry("+").push(subscriber(7, QoS::AtMostOnce));
        let route = routes.route("a");
        assert!(!route.plain && route.overlaps);
        assert_eq!(route.subscribers.len(), 2);
    }

    #[test]
    fn a_long_route_is_found_and_not_remembered() {
        let mut routes = Routes::new(CoreId(0));
        for session in 0..100 {
            routes.entry("a").push(subscriber(session, QoS::AtMostOnce));
        }
        assert_eq!(routes.route("a").subscribers.len(), 100);
        assert!(routes.remembered(b"a").is_err());
    }
}
